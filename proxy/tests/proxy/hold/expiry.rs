//! How a wait ends without an instance: its time is over, the token is revoked or expires, the proxy stops, the client leaves.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use store::{Token, now};
use testkit::{Memcached, TestProxy, text};

use super::backend::record_route;
use super::{AT_ONCE, UNAVAILABLE, expect, is_quiet, kill};

const HOLD: Duration = Duration::from_secs(2);
/// A busy machine.
const SLACK: Duration = Duration::from_millis(800);

// F-35, P-11, P-1.
#[test]
fn request_waits_for_the_hold_and_later_ones_are_answered_at_once() {
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let mut memcached = Memcached::start(&proxy, &token, "10.214.7.140");
    let (mut client, mut later) = (proxy.log_in(&token), proxy.log_in(&token));
    client.write_all(text::set("a", "1").as_bytes()).unwrap();
    expect(&mut client, "STORED\r\n");
    kill(&proxy, &mut memcached);
    let begun = Instant::now();
    // All of a pipeline are due at the same time.
    client.write_all((text::set("a", "2") + "get a\r\nmg a v\r\nversion\r\nmn\r\n").as_bytes()).unwrap();
    expect(&mut client, &(UNAVAILABLE.repeat(4) + "MN\r\n"));
    assert!((HOLD..HOLD + SLACK).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    // Also of another client, and for as long as no lane opens.
    for _ in 0..10 {
        for client in [&mut client, &mut later] {
            let begun = Instant::now();
            client.write_all(b"get a\r\n").unwrap();
            expect(client, UNAVAILABLE);
            assert!(begun.elapsed() < SLACK, "{:?}", begun.elapsed());
        }
    }
    let expired = proxy.metric("memgate_proxy_held_requests_total{outcome=\"expired\"}");
    assert!(expired >= 1.0, "{expired}");
    // A client that comes back after a while finds the instance with its first request.
    memcached.restart();
    let back = Instant::now();
    while back.elapsed() < AT_ONCE {
        std::thread::yield_now();
    }
    later.write_all(b"get a\r\n").unwrap();
    expect(&mut later, "END\r\n");
}

// F-35, P-11.
#[test]
fn without_a_hold_requests_are_answered_at_once() {
    let proxy = TestProxy::start_with(|config| config.hold = 0);
    let token = proxy.sign_up("ann@example.com");
    let mut memcached = Memcached::start(&proxy, &token, "10.214.7.141");
    let mut client = proxy.log_in(&token);
    client.write_all(b"get a\r\n").unwrap();
    expect(&mut client, "END\r\n");
    kill(&proxy, &mut memcached);
    let begun = Instant::now();
    client.write_all(&b"get a\r\n".repeat(10)).unwrap();
    expect(&mut client, &UNAVAILABLE.repeat(10));
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
}

// F-35, P-11.
#[test]
fn instance_without_a_route_is_waited_for() {
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let _memcached = Memcached::start(&proxy, &token, "10.214.7.142");
    let mut client = proxy.log_in(&token);
    client.write_all(text::set("a", "1").as_bytes()).unwrap();
    expect(&mut client, "STORED\r\n");
    // It restarts.
    record_route(&proxy, &token, 1, None);
    let deadline = Instant::now() + AT_ONCE * 5;
    while proxy.metric("memgate_proxy_lanes{kind=\"shared\"}") > 0.5 {
        assert!(Instant::now() < deadline);
    }
    client.write_all(b"get a\r\n").unwrap();
    assert!(is_quiet(&client));
    record_route(&proxy, &token, 1, Some("10.214.7.142"));
    expect(&mut client, "VALUE a 0 1\r\n1\r\nEND\r\n");
}

/// A client whose write waits for an instance that is away, and the instance.
fn waiting_write(proxy: &TestProxy, token: &Token, address: &str) -> (std::net::TcpStream, Memcached) {
    let mut memcached = Memcached::start(proxy, token, address);
    let mut client = proxy.log_in(token);
    client.write_all(b"get a\r\n").unwrap();
    expect(&mut client, "END\r\n");
    kill(proxy, &mut memcached);
    client.write_all((text::set("a", "1") + &text::set("b", "1")).as_bytes()).unwrap();
    let deadline = Instant::now() + AT_ONCE * 5;
    while proxy.metric("memgate_proxy_held_sessions") < 0.5 {
        assert!(Instant::now() < deadline);
    }
    (client, memcached)
}

/// Whether memcached holds nothing of what the client has sent, once it is back and serves another client.
fn is_not_stored(proxy: &TestProxy, token: &Token, memcached: &mut Memcached) -> bool {
    memcached.restart();
    let mut other = proxy.log_in(token);
    other.write_all(text::set("other", "1").as_bytes()).unwrap();
    expect(&mut other, "STORED\r\n");
    memcached.admin_connection().run(b"mg a v\r\nmg b v\r\n") == b"EN\r\nEN\r\n"
}

// F-35, R-15.
#[test]
fn revoked_and_expired_tokens_do_not_wait() {
    let proxy = TestProxy::start_with(|config| config.hold = 10);
    let token = proxy.sign_up("ann@example.com");
    for (nth, address) in ["10.214.7.143", "10.214.7.144"].into_iter().enumerate() {
        let limited = proxy.create_token(&token, store::Permissions::ALL);
        let (mut client, mut memcached) = waiting_write(&proxy, &limited, address);
        let begun = Instant::now();
        if nth == 0 {
            proxy.runtime.block_on(proxy.store.revoke_token(&limited.id())).unwrap();
        } else {
            let end = now().saturating_add(Duration::from_millis(300));
            proxy.update_permissions(&limited.id(), |permissions| permissions.expires_at = Some(end));
        }
        let mut reply = Vec::new();
        let _ = client.read_to_end(&mut reply);
        assert_eq!(String::from_utf8_lossy(&reply), "", "closed without a reply");
        assert!(begun.elapsed() < HOLD, "{:?}", begun.elapsed());
        assert!(is_not_stored(&proxy, &token, &mut memcached));
    }
}

// F-35, F-7.
#[test]
fn proxy_that_stops_does_not_wait() {
    let mut proxy = TestProxy::start_with(|config| config.hold = 10);
    let token = proxy.sign_up("ann@example.com");
    let (mut client, _memcached) = waiting_write(&proxy, &token, "10.214.7.145");
    let begun = Instant::now();
    proxy.shutdown.begin();
    // Everything that was received is answered.
    let mut reply = String::new();
    client.read_to_string(&mut reply).unwrap();
    assert_eq!(reply, UNAVAILABLE.repeat(2));
    drop(client);
    proxy.thread.take().unwrap().join().unwrap().unwrap();
    assert!(begun.elapsed() < HOLD * 2, "{:?}", begun.elapsed());
}

// F-35.
#[test]
fn write_of_a_client_that_has_left_is_not_done_later() {
    let proxy = TestProxy::start_with(|config| config.hold = 10);
    let token = proxy.sign_up("ann@example.com");
    let (mut client, mut memcached) = waiting_write(&proxy, &token, "10.214.7.146");
    client.shutdown(Shutdown::Write).unwrap();
    let mut reply = String::new();
    client.read_to_string(&mut reply).unwrap();
    assert_eq!(reply, UNAVAILABLE.repeat(2));
    assert!(is_not_stored(&proxy, &token, &mut memcached));
}

// F-35, R-15.
#[test]
fn permissions_that_were_narrowed_meanwhile_apply() {
    let proxy = TestProxy::start_with(|config| config.hold = 10);
    let token = proxy.sign_up("ann@example.com");
    let limited = proxy.create_token(&token, store::Permissions::ALL);
    let (mut client, mut memcached) = waiting_write(&proxy, &limited, "10.214.7.147");
    proxy.update_permissions(&limited.id(), |permissions| permissions.scopes = store::Scopes::READ);
    // As soon as another session of the token is denied, this one would be.
    let deadline = Instant::now() + AT_ONCE * 5;
    loop {
        let mut other = proxy.log_in(&limited);
        other.write_all(text::set("c", "1").as_bytes()).unwrap();
        if !is_quiet(&other) {
            break;
        }
        assert!(Instant::now() < deadline);
    }
    memcached.restart();
    expect(&mut client, &"CLIENT_ERROR access denied: needs write scope\r\n".repeat(2));
}
