//! An instance that sleeps: an allowed command wakes it and waits; a login or a denied command doesn't.

use std::io::Write as _;
use std::time::{Duration, Instant};

use store::{Instance, InstanceState, Observed, Permissions, Scope, Scopes, Token};
use testkit::{Memcached, TestProxy, text};

use super::backend::{ScriptedBackend, record_route};
use super::{AT_ONCE, UNAVAILABLE, expect, is_quiet};

const ADDRESS: &str = "10.214.7.148";
/// Of a test that may run at the same time.
const OTHER_ADDRESS: &str = "10.214.7.149";

fn instance(proxy: &TestProxy, token: &Token) -> Instance {
    let id = proxy.instance_id(token);
    proxy.runtime.block_on(proxy.store.instance(&id)).unwrap().unwrap()
}

/// Records that the instance sleeps, as the provisioner does, and waits until the proxy knows.
fn put_to_sleep(proxy: &TestProxy, token: &Token) {
    let generation = instance(proxy, token).route.map_or(1, |route| route.generation);
    let (state, address) = (InstanceState::Asleep, Some(ADDRESS.to_owned()));
    let asleep = Observed { state, generation, address, container: None, version: None, message: None };
    let id = proxy.instance_id(token);
    let revision = proxy.runtime.block_on(async {
        proxy.store.record_route(&id, &asleep).await.unwrap();
        proxy.store.revision().await.unwrap()
    });
    wait_until("the proxy knows", || {
        let proxies = proxy.runtime.block_on(proxy.store.proxies()).unwrap();
        proxies.iter().all(|proxy| proxy.applied >= revision)
    });
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

fn is_woken(proxy: &TestProxy, token: &Token) -> bool {
    instance(proxy, token).wake_requested
}

// F-37, F-35.
#[test]
fn allowed_command_wakes_an_instance_and_waits_for_it() {
    let proxy = TestProxy::start_with(|config| config.hold = 1);
    let token = proxy.sign_up("ann@example.com");
    let mut memcached = Memcached::start(&proxy, &token, ADDRESS);
    let mut open = proxy.log_in(&token);
    open.write_all(text::set("a", "1").as_bytes()).unwrap();
    expect(&mut open, "STORED\r\n");
    put_to_sleep(&proxy, &token);
    memcached.kill();

    let reader = Permissions { scopes: Scopes::READ, ..Permissions::ALL };
    let mut reader = proxy.log_in(&proxy.create_token(&token, reader));
    let _new = proxy.log_in(&token);
    reader.write_all(text::set("a", "2").as_bytes()).unwrap();
    expect(&mut reader, Scope::Write.denial_line());
    assert!(!is_woken(&proxy, &token), "neither a login nor a denied command wakes it");

    // Longer than an instance is waited for that restarts.
    let begun = Instant::now();
    open.write_all(b"get a\r\n").unwrap();
    wait_until("it is woken", || is_woken(&proxy, &token));
    while begun.elapsed() < Duration::from_millis(1500) {
        std::thread::yield_now();
    }
    assert!(is_quiet(&open));
    record_route(&proxy, &token, 1, None);
    memcached.restart();
    testkit::record_route(&proxy, &token, ADDRESS);
    expect(&mut open, "END\r\n");
}

// F-37, R-55.
#[test]
fn instance_is_asked_to_wake_once_however_many_commands_come() {
    let proxy = TestProxy::start_with(|config| (config.hold, config.hold_wake) = (2, 1));
    let token = proxy.sign_up("ann@example.com");
    put_to_sleep(&proxy, &token);
    let mut streams: Vec<_> = (0..50).map(|_| proxy.log_in(&token)).collect();
    let revision = || proxy.runtime.block_on(proxy.store.revision()).unwrap();
    let before = revision();
    for stream in &mut streams {
        stream.write_all(b"get a\r\n").unwrap();
    }
    let begun = Instant::now();
    streams.iter_mut().for_each(|stream| expect(stream, UNAVAILABLE));
    assert!(begun.elapsed() < AT_ONCE * 5, "held for proxy.hold_wake only: {:?}", begun.elapsed());
    streams[0].write_all(b"get a\r\n").unwrap();
    expect(&mut streams[0], UNAVAILABLE);
    assert_eq!((is_woken(&proxy, &token), revision()), (true, before + 1));
}

// F-37, F-36.
#[test]
fn write_in_flight_is_answered_when_its_instance_is_about_to_stop() {
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let backend = ScriptedBackend::start(&proxy, &token, OTHER_ADDRESS, 1);
    let mut stream = proxy.log_in(&token);
    for _ in 0..20 {
        let requests: String = (0..50).map(|number| text::set(&format!("k{number}"), "1")).collect();
        stream.write_all(requests.as_bytes()).unwrap();
        record_route(&proxy, &token, 1, None);
        stream.write_all(b"get k1\r\n").unwrap();
        record_route(&proxy, &token, 1, Some(OTHER_ADDRESS));
        expect(&mut stream, &("STORED\r\n".repeat(50) + "VALUE k1 0 1\r\n1\r\nEND\r\n"));
    }
    drop(backend);
}
