//! Denial records: what the store holds about refused logins and requests.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use store::{DenialCause, DenialRecord, Permissions, Scopes, Token, now};

use super::permissions::is_closed;
use testkit::{TestProxy, binary, text};

/// Cause, detail, protocol and count of each record, ordered by cause.
fn told(denials: &[DenialRecord]) -> Vec<(&'static str, &str, &str, i64)> {
    let mut all: Vec<_> =
        denials.iter().map(|it| (it.cause.as_str(), &*it.detail, &*it.protocol, it.count)).collect();
    all.sort_unstable();
    all
}

/// Tries a SCRAM login with a wrong proof.
fn guess_by_scram(proxy: &TestProxy, name: &str) {
    let mut stream = proxy.connect();
    let mut ask = |message: &str, opcode| {
        stream.write_all(&binary::request(opcode, "SCRAM-SHA-256", message)).unwrap();
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
fn denied_logins_are_recorded_with_their_cause() {
    let proxy = TestProxy::start_with(|config| config.scram = true);
    let (token, other) = (proxy.sign_up("ann@example.com"), proxy.sign_up("bob@example.com"));
    let name = token.id().username();
    let wrong = other.secret().reveal();
    proxy.exchange_text(&text::set("x", &format!("{name} {wrong}")));
    proxy.exchange_text(&text::set("x", &format!("{name} {}", &token.secret().reveal()[1..])).repeat(2));
    proxy.exchange(&binary::request(0x21, "PLAIN", &format!("\0{name}\0{wrong}")));
    guess_by_scram(&proxy, &name);
    proxy.exchange_text(&text::set("x", &text::credential(&Token::generate())));
    let expired = proxy.create_token(
        &token,
        Permissions { expires_at: Some(now().saturating_sub(Duration::from_millis(1))), ..Permissions::ALL },
    );
    let away = proxy.create_token(
        &token,
        Permissions { allow_from: vec!["192.0.2.0/24".parse().unwrap()], ..Permissions::ALL },
    );
    let revoked = proxy.create_token(&token, Permissions::ALL);
    proxy.runtime.block_on(proxy.store.revoke_token(&revoked.id())).unwrap();
    for token in [&expired, &away, &revoked] {
        proxy.exchange_text(&text::login(token));
    }
    let expected = [
        ("mistyped", "SASL", "binary", 1),
        ("mistyped", "text login", "text", 3),
        ("wrong_secret", "SASL SCRAM-SHA-256", "binary", 1),
    ];
    let known = proxy.wait_for_denials(&token, 3);
    assert_eq!(told(&known), expected);
    assert!(known.iter().all(|it| it.source.as_deref() == Some("127.0.0.1") && !it.tls), "{known:?}");
    for secret in [wrong, token.secret().reveal()] {
        assert!(!format!("{known:?}").contains(&secret[1..]));
    }
    let metrics = proxy.metrics();
    for (cause, times) in [("unknown_id", 1), ("mistyped", 4), ("wrong_secret", 1)] {
        let line = format!("memgate_proxy_denials_total{{cause=\"{cause}\"}} {times}\n");
        assert!(metrics.contains(&line), "{line} is not in {metrics}");
    }

    for (token, cause) in [(&expired, "expired"), (&away, "source"), (&revoked, "revoked")] {
        assert_eq!(told(&proxy.wait_for_denials(token, 1)), [(cause, "text login", "text", 1)]);
    }
}

#[test]
fn plaintext_credential_is_recorded() {
    let proxy =
        TestProxy::start_with(|config| config.proxy_protocol_from = vec!["127.0.0.1".parse().unwrap()]);
    let token = proxy.sign_up("ann@example.com");
    let reply = proxy.exchange_text(&format!("PROXY TCP4 8.8.8.8 127.0.0.1 1 2\r\n{}", text::login(&token)));
    assert_eq!(reply, "CLIENT_ERROR TLS required\r\n");
    let known = proxy.wait_for_denials(&token, 1);
    assert_eq!(known[0].cause, DenialCause::Plaintext);
    assert_eq!(known[0].source.as_deref(), Some("8.8.8.8"));
}

// P-4.
#[test]
fn exceeded_connection_limit_is_recorded() {
    let proxy = TestProxy::start();
    proxy.update_plan(|plan| plan.connections = 1);
    let token = proxy.sign_up("ann@example.com");
    let _first = proxy.log_in(&token);
    assert_eq!(proxy.exchange_text(&text::login(&token)), "SERVER_ERROR too many connections\r\n");
    let login = binary::plain(&token);
    let reply = proxy.exchange(&binary::request(0x21, "PLAIN", &login));
    assert_eq!(binary::statuses(&reply), [0x86]);
    let expected = [("limit", "SASL", "binary", 1), ("limit", "text login", "text", 1)];
    assert_eq!(told(&proxy.wait_for_denials(&token, 2)), expected);
}

#[test]
fn revocation_is_acknowledged_after_connections_close() {
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let mut live = proxy.log_in(&token);
    proxy.runtime.block_on(proxy.store.revoke_token(&token.id())).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    let acknowledged = || proxy.runtime.block_on(proxy.store.propagation(&token.id())).unwrap();
    while acknowledged().by.is_empty() {
        assert!(Instant::now() < deadline, "{:?}", acknowledged());
        std::thread::yield_now();
    }
    live.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    assert!(is_closed(&mut live));
    assert_eq!(acknowledged().count(), "1 of 1 proxy");
    drop(live);
    let store = proxy.store.clone();
    let mut proxy = proxy;
    proxy.shutdown.begin();
    proxy.thread.take().unwrap().join().unwrap().unwrap();
    assert_eq!(proxy.runtime.block_on(store.proxies()).unwrap(), []);
}

#[test]
fn denied_requests_are_recorded_by_command() {
    let proxy = TestProxy::start();
    let all = proxy.sign_up("ann@example.com");
    let permissions =
        Permissions { scopes: Scopes::READ, prefix: Some("app:".parse().unwrap()), ..Permissions::ALL };
    let reader = proxy.create_token(&all, permissions);
    let login = text::login(&reader);
    proxy.exchange_text(&format!(
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
    let known = proxy.wait_for_denials(&reader, 5);
    assert_eq!(told(&known), expected);
    assert!(!format!("{known:?}").contains("secretkey"));
    assert_eq!(proxy.wait_for_denials(&all, 0), []);
}
