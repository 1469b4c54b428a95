//! "Why was I refused?": what the store knows afterwards of those who were.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use store::{DenialCause, DenialRecord, Permissions, Scopes, Token, now};

use super::door::{Door, pair, sasl, set};
use super::permissions::ends;
use super::statuses;
use super::usage::metrics;

impl Door {
    /// The denials of a token, as soon as there are so many rows.
    fn denials(&self, token: &Token, rows: usize) -> Vec<DenialRecord> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let found = self.runtime.block_on(self.store.denials_of(token.id().as_str())).unwrap();
            if found.len() >= rows {
                return found;
            }
            assert!(Instant::now() < deadline, "{found:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// DenialCause, hint, protocol and how often, in order of the causes.
fn told(denials: &[DenialRecord]) -> Vec<(&'static str, &str, &str, i64)> {
    let mut all: Vec<_> =
        denials.iter().map(|it| (it.cause.as_str(), &*it.hint, &*it.protocol, it.times)).collect();
    all.sort_unstable();
    all
}

/// A login by SCRAM with a proof of nothing.
fn guess_by_scram(door: &Door, name: &str) {
    let mut stream = door.call();
    let mut ask = |message: &str, opcode| {
        stream.write_all(&sasl(opcode, "SCRAM-SHA-256", message)).unwrap();
        let mut head = [0; 24];
        stream.read_exact(&mut head).unwrap();
        let mut body = vec![0; usize::from(head[11])];
        stream.read_exact(&mut body).unwrap();
        (u16::from_be_bytes([head[6], head[7]]), String::from_utf8(body).unwrap())
    };
    let (status, challenge) = ask(&format!("n,,n={name},r=abcdefgh"), 0x21);
    assert_eq!(status, 0x21);
    let nonce = challenge.split(',').next().unwrap();
    let proof = "A".repeat(43);
    assert_eq!(ask(&format!("c=biws,{nonce},p={proof}="), 0x22).0, 0x20);
}

#[test]
fn who_is_refused_at_the_door_finds_out_why() {
    let door = Door::open_with(|config| config.scram = true);
    let (token, other) = (door.sign_up("ann@example.com"), door.sign_up("bob@example.com"));
    let name = token.id().username();
    let wrong = other.secret().reveal();
    door.text(&set("x", &format!("{name} {wrong}")));
    door.text(&set("x", &format!("{name} {}", &token.secret().reveal()[1..])).repeat(2));
    door.converse(&sasl(0x21, "PLAIN", &format!("\0{name}\0{wrong}")));
    guess_by_scram(&door, &name);
    door.text(&set("x", &pair(&Token::generate())));
    let expired = door.limited(&token, Permissions { expires_at: Some(now() - 1), ..Permissions::ALL });
    let away = door.limited(
        &token,
        Permissions { allow_from: vec!["192.0.2.0/24".parse().unwrap()], ..Permissions::ALL },
    );
    let revoked = door.limited(&token, Permissions::ALL);
    door.runtime.block_on(door.store.revoke_token(&revoked.id())).unwrap();
    for token in [&expired, &away, &revoked] {
        door.text(&set("x", &pair(token)));
    }
    let expected = [
        ("mistyped", "SASL", "binary", 1),
        ("mistyped", "text login", "text", 3),
        ("wrong_secret", "SASL SCRAM-SHA-256", "binary", 1),
    ];
    let known = door.denials(&token, 3);
    assert_eq!(told(&known), expected);
    assert!(known.iter().all(|it| it.source.as_deref() == Some("127.0.0.1") && !it.tls), "{known:?}");
    for secret in [wrong, token.secret().reveal()] {
        assert!(!format!("{known:?}").contains(&secret[1..]));
    }
    let metrics = metrics(&door);
    for (cause, times) in [("unknown_id", 1), ("mistyped", 4), ("wrong_secret", 1)] {
        let line = format!("memgate_proxy_denials_total{{cause=\"{cause}\"}} {times}\n");
        assert!(metrics.contains(&line), "{line} is not in {metrics}");
    }

    for (token, cause) in [(&expired, "expired"), (&away, "source"), (&revoked, "revoked")] {
        assert_eq!(told(&door.denials(token, 1)), [(cause, "text login", "text", 1)]);
    }
}

#[test]
fn a_password_sent_in_the_clear_is_told_to_its_owner() {
    let door = Door::open_with(|config| config.proxy_protocol_from = vec!["127.0.0.1".parse().unwrap()]);
    let token = door.sign_up("ann@example.com");
    let said = door.text(&format!("PROXY TCP4 8.8.8.8 127.0.0.1 1 2\r\n{}", set("x", &pair(&token))));
    assert_eq!(said, "CLIENT_ERROR TLS required\r\n");
    let known = door.denials(&token, 1);
    assert_eq!(known[0].cause, DenialCause::Plaintext);
    assert_eq!(known[0].source.as_deref(), Some("8.8.8.8"));
}

#[test]
fn one_connection_too_many_is_told_to_its_owner() {
    let door = Door::open();
    door.update_plan(|plan| plan.connections = 1);
    let token = door.sign_up("ann@example.com");
    let _first = door.logged_in(&token);
    assert_eq!(door.text(&set("x", &pair(&token))), "SERVER_ERROR too many connections\r\n");
    let login = format!("\0{}\0{}", token.id().username(), token.secret().reveal());
    let said = door.converse(&sasl(0x21, "PLAIN", &login));
    assert_eq!(statuses(&said), [0x86]);
    let expected = [("limit", "SASL", "binary", 1), ("limit", "text login", "text", 1)];
    assert_eq!(told(&door.denials(&token, 2)), expected);
}

#[test]
fn a_revocation_is_acknowledged_when_its_connections_are_cut() {
    let door = Door::open();
    let token = door.sign_up("ann@example.com");
    let mut live = door.logged_in(&token);
    door.runtime.block_on(door.store.revoke_token(&token.id())).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    let acknowledged = || door.runtime.block_on(door.store.acknowledged(&token.id())).unwrap();
    while acknowledged().by.is_empty() {
        assert!(Instant::now() < deadline, "{:?}", acknowledged());
        std::thread::yield_now();
    }
    live.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    assert!(ends(&mut live));
    assert_eq!(acknowledged().count(), "1 of 1 proxy");
    drop(live);
    let store = door.store.clone();
    let mut door = door;
    door.shutdown.begin();
    door.proxy.take().unwrap().join().unwrap().unwrap();
    assert_eq!(door.runtime.block_on(store.proxies()).unwrap(), []);
}

#[test]
fn requests_that_are_refused_are_known_by_their_command() {
    let door = Door::open();
    let all = door.sign_up("ann@example.com");
    let permissions =
        Permissions { scopes: Scopes::READ, prefix: Some("app:".parse().unwrap()), ..Permissions::ALL };
    let reader = door.limited(&all, permissions);
    let login = set("x", &pair(&reader));
    door.text(&format!(
        "{login}{}set app:secretkey 0 0 1\r\nv\r\ndelete app:b noreply\r\nget app:a secretkey\r\nmg secretkey v\r\n\
         stats\r\nquit\r\n",
        "set app:a 0 0 1\r\nv\r\n".repeat(4)
    ));
    let expected = [
        ("prefix", "get", "text", 1),
        ("prefix", "mg", "text", 1),
        ("scope_stats", "stats", "text", 1),
        ("scope_write", "delete", "text", 1),
        ("scope_write", "set", "text", 5),
    ];
    let known = door.denials(&reader, 5);
    assert_eq!(told(&known), expected);
    assert!(!format!("{known:?}").contains("secretkey"));
    assert_eq!(door.denials(&all, 0), []);
}
