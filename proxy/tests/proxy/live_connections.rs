//! The list of live connections, and closing one of them.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use testkit::{TestProxy, binary};

use super::permissions::is_closed;

#[test]
fn live_connections_are_listed_and_closed_on_request() {
    let proxy = TestProxy::start();
    let (token, other) = (proxy.sign_up("ann@example.com"), proxy.sign_up("bob@example.com"));
    assert_eq!(proxy.wait_for_connections(&token, 0).total, 0);
    let mut first = proxy.log_in(&token);
    let mut second = proxy.log_in(&token);
    let _elsewhere = proxy.log_in(&other);
    let live = proxy.wait_for_connections(&token, 2);
    assert_eq!(live.total, 2);
    for it in &live.connections {
        assert_eq!((&*it.token_id, &*it.source, &*it.protocol), (token.id().as_str(), "127.0.0.1", "text"));
        assert!(!it.tls && it.operations == 0 && it.since == it.id.since);
    }
    // Bob's request to close Ann's connection has no effect.
    let id = live.connections[0].id.clone();
    assert!(proxy.runtime.block_on(proxy.store.close_connection(&proxy.instance_id(&other), &id)).unwrap());
    assert_eq!(proxy.wait_for_connections(&token, 2).total, 2);
    let ordered_at = Instant::now();
    assert!(proxy.runtime.block_on(proxy.store.close_connection(&proxy.instance_id(&token), &id)).unwrap());
    assert!(ordered_at.elapsed() < Duration::from_secs(2));
    let left = proxy.wait_for_connections(&token, 1);
    assert_eq!(left.connections[0].id, live.connections[1].id);
    first.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert!(is_closed(&mut first));
    second.write_all(b"bogus\r\n").unwrap();
    let mut reply = [0; 7];
    second.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"ERROR\r\n");
}

//
#[test]
fn connection_that_logs_in_again_is_listed_and_closed_on_request() {
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let login = binary::login(&token);
    let mut client = proxy.connect();
    client.write_all(&login).unwrap();
    proxy.wait_for_connections(&token, 1);
    client.write_all(&login[..binary::HEADER_LEN]).unwrap();
    // Within the time limit of the login.
    let deadline = Instant::now() + Duration::from_secs(4);
    while proxy.metric("memgate_proxy_buffered_bytes") == 0.0 {
        assert!(Instant::now() < deadline, "the login isn't counted");
    }
    let live = proxy.wait_for_connections(&token, 1);
    let id = &live.connections[0].id;
    assert!(proxy.runtime.block_on(proxy.store.close_connection(&proxy.instance_id(&token), id)).unwrap());
    client.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut replies = Vec::new();
    client.read_to_end(&mut replies).unwrap();
    assert_eq!(binary::statuses(&replies), [0], "the first login succeeded, the second has no answer");
    assert!(Instant::now() < deadline);
}
