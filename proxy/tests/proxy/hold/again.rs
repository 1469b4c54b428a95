//! Reads in flight when a lane fails are sent again, once; nothing else is, and all replies keep their order.

use std::io::Write as _;
use std::time::Instant;

use testkit::{TestProxy, binary, text};

use super::backend::{ScriptedBackend, record_route};
use super::{AT_ONCE, UNAVAILABLE, expect, is_quiet, read_until_end};

// F-35, P-11.
#[test]
fn read_in_flight_is_sent_again_once_and_a_write_never() {
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let backend = ScriptedBackend::start(&proxy, &token, "10.214.7.131", 1);
    let (mut reader, mut writer) = (proxy.log_in(&token), proxy.log_in(&token));
    writer.write_all(text::set("a", "old").as_bytes()).unwrap();
    expect(&mut writer, "STORED\r\n");

    backend.set_silent(true);
    reader.write_all(b"get a\r\n").unwrap();
    writer.write_all(text::set("b", "1").as_bytes()).unwrap();
    backend.wait_for("mg a v f", 1);
    backend.wait_for("ms b F0 T0", 1);
    backend.set_refusing(true);
    let begun = Instant::now();
    backend.close_lanes();
    expect(&mut writer, UNAVAILABLE);
    assert!(begun.elapsed() < AT_ONCE, "the write's error is due at once: {:?}", begun.elapsed());
    assert!(is_quiet(&reader), "the read waits for a lane");
    // It is in flight for the second time, and the lane fails again.
    backend.set_refusing(false);
    backend.wait_for("mg a v f", 2);
    backend.close_lanes();
    expect(&mut reader, UNAVAILABLE);

    backend.set_silent(false);
    reader.write_all(b"get a\r\n").unwrap();
    expect(&mut reader, "VALUE a 0 3\r\nold\r\nEND\r\n");
    writer.write_all(b"get b\r\n").unwrap();
    expect(&mut writer, "END\r\n");
    assert_eq!((backend.count("mg a v f"), backend.count("ms b F0 T0")), (3, 1));
}

// F-35, P-11.
#[test]
fn only_what_changes_nothing_is_sent_again() {
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let backend = ScriptedBackend::start(&proxy, &token, "10.214.7.132", 1);
    let mut client = proxy.log_in(&token);
    client.write_all(text::set("a", "1").as_bytes()).unwrap();
    expect(&mut client, "STORED\r\n");
    for (request, sent, reply) in [
        ("get a", "mg a v f", "VALUE a 0 1\r\n1\r\nEND\r\n"),
        ("gets a", "mg a v f c", "VALUE a 0 1 1\r\n1\r\nEND\r\n"),
        ("mg a s v Oq k", "mg a s v k", "VA 1 s1 Oq ka\r\n1\r\n"),
        ("mg YQ== b v", "mg YQ== b v", "EN b\r\n"),
        ("mg none v E5", "mg none v E5", "EN\r\n"),
        ("version", "version", "VERSION 1.6.45\r\n"),
        ("gat 30 a", "mg a v f T30", UNAVAILABLE),
        ("mg a v T30", "mg a v T30", UNAVAILABLE),
        ("mg a v N30", "mg a v N30", UNAVAILABLE),
        ("mg a v R30", "mg a v R30", UNAVAILABLE),
        ("touch a 30", "mg a T30", UNAVAILABLE),
        ("incr a 1", "ma a D1 v", UNAVAILABLE),
        ("delete b", "md b", UNAVAILABLE),
        ("md b q", "md b", UNAVAILABLE),
        ("add b 0 0 1\r\n1", "ms b F0 T0 ME", UNAVAILABLE),
        ("ms b 1\r\n1", "ms b", UNAVAILABLE),
    ] {
        let before = backend.count(sent);
        backend.set_silent(true);
        client.write_all(format!("{request}\r\n").as_bytes()).unwrap();
        backend.wait_for(sent, before + 1);
        backend.set_silent(false);
        backend.close_lanes();
        expect(&mut client, reply);
        let times = if reply == UNAVAILABLE { 1 } else { 2 };
        assert_eq!(backend.count(sent) - before, times, "{request}");
    }
}

// F-35, P-11.
#[test]
fn binary_reads_are_sent_again_and_writes_are_not() {
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let backend = ScriptedBackend::start(&proxy, &token, "10.214.7.133", 1);
    let mut client = proxy.connect();
    client.write_all(&binary::login(&token)).unwrap();
    assert_eq!(read_until_end(&mut client, 1), [0]);
    let request = |opcode, extras: &'static [u8]| {
        binary::Request { opcode, extras, key: b"a", ..Default::default() }.encode()
    };
    let noop = binary::request(0x0a, "", "");
    for (requests, sent, statuses) in [
        // A miss, quiet misses that a noop ends, and what sets the expiry.
        (request(0x00, b""), "mg a v f c", &[1][..]),
        ([request(0x09, b""), request(0x0d, b""), noop].concat(), "mg a v f c", &[0]),
        (request(0x1d, b"\0\0\0\x1e"), "mg a v f c T30", &[0x86]),
        (request(0x1c, b"\0\0\0\x1e"), "mg a f c T30", &[0x86]),
        (request(0x04, b""), "md a", &[0x86]),
    ] {
        let before = backend.count(sent);
        let count = if requests.len() > 2 * binary::HEADER_LEN { 2 } else { 1 };
        backend.set_silent(true);
        client.write_all(&requests).unwrap();
        backend.wait_for(sent, before + count);
        backend.set_silent(false);
        backend.close_lanes();
        assert_eq!(read_until_end(&mut client, 1), statuses, "{sent}");
        let times = if statuses == [0x86] { 1 } else { 2 };
        assert_eq!(backend.count(sent) - before, times * count, "{sent}");
    }
}

// F-35, P-11, R-11.
#[test]
fn replies_keep_their_order_when_reads_are_sent_again() {
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let backend = ScriptedBackend::start(&proxy, &token, "10.214.7.134", 1);
    let mut client = proxy.log_in(&token);
    client.write_all(text::set("a", "1").as_bytes()).unwrap();
    expect(&mut client, "STORED\r\n");
    backend.set_silent(true);
    let pipeline = "get a\r\nset b 0 0 1\r\n2\r\nget a\r\nmn\r\ngets a\r\nbogus\r\nget b a\r\nmg a v\r\nmg b v q\r\nmn\r\n";
    client.write_all(pipeline.as_bytes()).unwrap();
    backend.wait_for("mg b v", 1);
    backend.set_refusing(true);
    backend.close_lanes();
    // On another lane the first get could see the write behind it.
    expect(&mut client, &UNAVAILABLE.repeat(2));
    assert!(is_quiet(&client));
    backend.set_silent(false);
    backend.set_refusing(false);
    let value = "VALUE a 0 1\r\n1\r\nEND\r\n";
    let with_cas = "VALUE a 0 1 1\r\n1\r\nEND\r\n";
    expect(&mut client, &format!("{value}MN\r\n{with_cas}ERROR\r\n{value}VA 1\r\n1\r\nMN\r\n"));
    // The first get was sent once, the second twice, and that of two keys twice.
    assert_eq!(backend.count("mg a v f"), 1 + 2 + 2);
    assert_eq!(backend.count("ms b F0 T0"), 1);
}

// F-35, R-1.
#[test]
fn read_that_is_sent_again_after_a_move_gets_no_value_from_the_old_place() {
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let old = ScriptedBackend::start(&proxy, &token, "10.214.7.135", 1);
    let (mut client, mut other) = (proxy.log_in(&token), proxy.log_in(&token));
    for client in [&mut client, &mut other] {
        client.write_all(text::set("a", "old").as_bytes()).unwrap();
        expect(client, "STORED\r\n");
    }
    old.set_silent(true);
    for client in [&mut client, &mut other] {
        client.write_all(b"get a\r\n").unwrap();
    }
    old.wait_for("mg a v f", 2);
    // First it is nowhere, then elsewhere.
    record_route(&proxy, &token, 1, None);
    let deadline = Instant::now() + AT_ONCE * 5;
    while proxy.metric("memgate_proxy_held_sessions") < 2.0 {
        assert!(Instant::now() < deadline);
    }
    assert!(is_quiet(&client) && is_quiet(&other));
    let new = ScriptedBackend::start(&proxy, &token, "10.214.7.136", 2);
    for tag in 0..4 {
        old.send(format!("VA 7 f0 O{tag}\r\nforeign\r\n").as_bytes());
    }
    expect(&mut client, "END\r\n");
    expect(&mut other, "END\r\n");
    new.wait_for("mg a v f", 2);
    assert_eq!(old.count("mg a v f"), 2);
}
