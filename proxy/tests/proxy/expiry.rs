//! Expiring tokens, and tokens limited to source networks.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use store::{Cidr, Permissions, Token, now};

use super::connection::FAILURE;
use super::permissions::{PROPAGATION_TIMEOUT, is_closed};
use super::scram::tool;
use testkit::{Memcached, TestProxy, binary, text, token_key};

/// Tries to log in by text and by SASL PLAIN; returns both replies, which must take their minimum time.
fn denial(proxy: &TestProxy, token: &Token) -> (String, Vec<u8>) {
    let started = Instant::now();
    let reply = proxy.exchange_text(&text::login(token));
    assert!(started.elapsed() >= Duration::from_millis(20), "answered too early");
    let plain = binary::plain(token);
    let started = Instant::now();
    let binary = proxy.exchange(&binary::request(0x21, "PLAIN", &plain));
    assert!(started.elapsed() >= Duration::from_millis(20), "answered too early");
    (reply, binary)
}

fn in_millis(millis: u64) -> Permissions {
    Permissions { expires_at: Some(now().saturating_add(Duration::from_millis(millis))), ..Permissions::ALL }
}

fn only_from(nets: &[&str]) -> Vec<Cidr> {
    nets.iter().map(|net| net.parse().unwrap()).collect()
}

fn assert_open(stream: &mut TcpStream) {
    stream.write_all(b"mn\r\n").unwrap();
    let mut reply = [0; 4];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"MN\r\n");
}

// R-15, V-5.
#[test]
fn expired_token_closes_its_connections() {
    let proxy = TestProxy::start();
    let all = proxy.sign_up("ann@example.com");
    let token = proxy.create_token(&all, in_millis(1500));
    let ends_at = Instant::now() + Duration::from_millis(1500);
    let [mut live, mut neighbour] = [&token, &all].map(|token| proxy.log_in(token));
    assert_open(&mut live);
    assert!(is_closed(&mut live));
    let late = Instant::now().duration_since(ends_at - Duration::from_millis(100));
    assert!(Instant::now() > ends_at - Duration::from_millis(100), "closed too early");
    assert!(late < PROPAGATION_TIMEOUT, "closed {late:?} late");
    assert_open(&mut neighbour);
    let wrong = denial(&proxy, &Token::generate());
    assert_eq!(denial(&proxy, &token), wrong);
    assert_eq!((wrong.0.as_str(), binary::statuses(&wrong.1)), (FAILURE, vec![0x20]));
}

#[test]
fn earlier_expiry_applies_to_live_connections() {
    let proxy = TestProxy::start();
    let all = proxy.sign_up("ann@example.com");
    let token = proxy.create_token(&all, in_millis(3_600_000));
    let mut live = proxy.log_in(&token);
    proxy.update_permissions(&token.id(), |permissions| {
        permissions.expires_at = Some(now().saturating_add(Duration::from_millis(200)));
    });
    let ends_at = Instant::now() + Duration::from_millis(200);
    assert!(is_closed(&mut live));
    assert!(Instant::now() < ends_at + PROPAGATION_TIMEOUT);
    assert_eq!(proxy.exchange_text(&text::login(&token)), FAILURE);
}

#[test]
fn rotated_token_stays_valid_for_its_grace_period() {
    let proxy = TestProxy::start();
    let all = proxy.sign_up("ann@example.com");
    let new = store::NewToken::generate(&token_key(proxy.data_dir.path()), "x");
    let mut live = proxy.log_in(&all);
    let ends_at = now().saturating_add(Duration::from_millis(700));
    let (new, _) = proxy.runtime.block_on(proxy.store.rotate_token(&all.id(), new, ends_at)).unwrap();
    let mut successor = proxy.log_in(&new.token);
    assert_open(&mut live);
    assert!(is_closed(&mut live));
    assert!(now() >= ends_at && now() < ends_at.saturating_add(Duration::from_secs(1)));
    assert_open(&mut successor);
    assert_eq!(proxy.exchange_text(&text::login(&all)), FAILURE);
}

//
#[test]
fn source_networks_are_enforced() {
    let proxy = TestProxy::start();
    let all = proxy.sign_up("ann@example.com");
    let permissions = |nets| Permissions { allow_from: only_from(nets), ..Permissions::ALL };
    let here = proxy.create_token(&all, permissions(&["192.0.2.0/24", "127.0.0.0/8"]));
    let elsewhere = proxy.create_token(&all, permissions(&["192.0.2.0/24", "2001:db8::/32"]));
    let mut live = proxy.log_in(&here);
    let wrong = denial(&proxy, &Token::generate());
    assert_eq!(denial(&proxy, &elsewhere), wrong);
    // The allowed networks change while the client is connected.
    proxy.update_permissions(&here.id(), |permissions| permissions.allow_from = only_from(&["192.0.2.0/24"]));
    let changed_at = Instant::now();
    assert!(is_closed(&mut live));
    assert!(changed_at.elapsed() < PROPAGATION_TIMEOUT);
    assert_eq!(denial(&proxy, &here), wrong);
}

/// Runs memccat, which logs in by SCRAM, and returns its output.
fn memccat_by_scram(proxy: &TestProxy, token: &Token) -> std::process::Output {
    let (user, secret) = (token.id().username(), token.secret().reveal().to_owned());
    tool("memccat", proxy.config.listen, &user, &secret, "note.txt")
}

// S-9.
#[test]
fn scram_enforces_expiry_and_source_networks() {
    let proxy = TestProxy::start_with(|config| config.scram = true);
    let all = proxy.sign_up("ann@example.com");
    let _memcached = Memcached::start(&proxy, &all, "10.214.7.105");
    assert_eq!(
        proxy.exchange_text(&(text::login(&all) + &text::set("note.txt", "here"))),
        "STORED\r\nSTORED\r\n"
    );
    let here = Permissions { allow_from: only_from(&["127.0.0.0/8"]), ..in_millis(3_600_000) };
    let here = memccat_by_scram(&proxy, &proxy.create_token(&all, here));
    assert_eq!(String::from_utf8_lossy(&here.stdout).trim_end(), "here", "{here:?}");
    let elsewhere = Permissions { allow_from: only_from(&["192.0.2.0/24"]), ..Permissions::ALL };
    for permissions in [elsewhere, in_millis(0)] {
        let token = proxy.create_token(&all, permissions);
        let reply = memccat_by_scram(&proxy, &token);
        assert!(reply.stdout.is_empty() && !reply.status.success(), "{reply:?}");
    }
}
