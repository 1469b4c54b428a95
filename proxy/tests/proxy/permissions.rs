//! What each permission denies, and permissions that change while connections are open.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use store::{Permissions, Scopes, Token};

use super::pipelining::request;
use testkit::{Memcached, TestProxy, binary, text};

/// Time limit for a change to apply.
pub(super) const PROPAGATION_TIMEOUT: Duration = Duration::from_secs(1);

fn denied(scope: &str) -> String {
    format!("CLIENT_ERROR access denied: needs {scope} scope\r\n")
}
const OUTSIDE_PREFIX: &str = "CLIENT_ERROR access denied: key outside prefix\r\n";

/// Sends `request` and returns the next `len` bytes.
fn ask(stream: &mut TcpStream, words: &str, len: usize) -> String {
    stream.write_all(words.as_bytes()).unwrap();
    let mut reply = vec![0; len];
    stream.read_exact(&mut reply).unwrap();
    String::from_utf8(reply).unwrap()
}

/// Waits for the next bytes; returns whether the proxy closed the connection instead.
pub(super) fn is_closed(stream: &mut TcpStream) -> bool {
    matches!(stream.read(&mut [0; 100]), Ok(0) | Err(_))
}

/// Waits until the proxy has read `bytes` bytes from its clients.
fn wait_until_read(proxy: &TestProxy, bytes: u64) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let metrics = proxy.metrics();
        let read = metrics
            .lines()
            .find_map(|it| it.strip_prefix("memgate_proxy_traffic_bytes_total{direction=\"in\"} "));
        if read.is_some_and(|read| read.parse::<u64>().unwrap() >= bytes) {
            return;
        }
        assert!(Instant::now() < deadline, "{metrics}");
        std::thread::yield_now();
    }
}

/// Logs in, sends all `requests` at once, and checks their replies in order.
fn check_in_turn(proxy: &TestProxy, token: &Token, requests: &[(&str, &str)]) {
    let lines: String = requests.iter().map(|(line, _)| format!("{line}\r\n")).collect();
    let expected: String = requests.iter().map(|(_, answer)| *answer).collect();
    let reply = proxy.exchange_text(&format!("{}{lines}quit\r\n", text::login(token)));
    assert_eq!(reply, format!("STORED\r\n{expected}"));
}

// P-6, D-2.
#[test]
fn read_only_token_is_denied_writes_in_order() {
    let proxy = TestProxy::start();
    let all = proxy.sign_up("ann@example.com");
    let _memcached = Memcached::start(&proxy, &all, "10.214.7.100");
    let reader = proxy.create_token(&all, Permissions { scopes: Scopes::READ, ..Permissions::ALL });
    let here = "VALUE a 0 1\r\nv\r\nEND\r\n";
    check_in_turn(&proxy, &all, &[("set a 0 0 1\r\nv", "STORED\r\n")]);
    let (write, flush, stats) = (&*denied("write"), &*denied("flush"), &*denied("stats"));
    let long = format!("set a 0 0 200000\r\n{}", "v".repeat(200_000));
    let quiet_long = format!("set a 0 0 200000 noreply\r\n{}", "v".repeat(200_000));
    let meta_long = format!("ms a 200000 q\r\n{}", "v".repeat(200_000));
    // A store too large would make memcached delete the existing item.
    let too_long = format!("set a 0 0 1048577\r\n{}", "v".repeat(1_048_577));
    check_in_turn(
        &proxy,
        &reader,
        &[
            ("get a", here),
            ("set a 0 0 1\r\n1", write),
            ("get a", here),
            ("set a 0 0 1 noreply\r\n1", ""),
            (&long, write),
            (&quiet_long, ""),
            (&meta_long, write),
            (&too_long, write),
            ("get a b", here),
            ("cas a 0 0 1 1\r\n1", write),
            ("delete a", write),
            ("delete a noreply", ""),
            ("incr a 1", write),
            ("touch a 0", write),
            ("gat 0 a", write),
            ("gats 0 a b", write),
            ("mg a v", "VA 1\r\nv\r\n"),
            ("mg a v N30", write),
            ("mg a T0", write),
            ("mg a v R30 q", write),
            ("ms a 1 q\r\n1", write),
            ("md a q", write),
            ("ma a q", write),
            ("mg YQ== b v", "VA 1\r\nv\r\n"),
            ("me nothing", "EN\r\n"),
            ("stats", stats),
            ("stats items", stats),
            ("flush_all", flush),
            ("flush_all noreply", ""),
            ("verbosity 1", "OK\r\n"),
            ("mn", "MN\r\n"),
            ("get a", here),
        ],
    );
    let version = proxy.exchange_text(&format!("{}version\r\nquit\r\n", text::login(&reader)));
    assert!(version.starts_with("STORED\r\nVERSION 1."), "{version}");
    // Repeating the login is not a store (D-11).
    let login = text::login(&reader);
    assert_eq!(proxy.exchange_text(&format!("{login}{login}quit\r\n")), "STORED\r\nSTORED\r\n");
}

// R-40, D-14.
#[test]
fn write_flush_and_stats_scopes_allow_their_commands() {
    let proxy = TestProxy::start();
    let all = proxy.sign_up("ann@example.com");
    let _memcached = Memcached::start(&proxy, &all, "10.214.7.101");
    let read = &*denied("read");
    let writer = proxy.create_token(&all, Permissions { scopes: Scopes::WRITE, ..Permissions::ALL });
    let requests = [
        ("set a 0 0 1\r\nv", "STORED\r\n"),
        ("get a", read),
        ("gat 0 a", read),
        ("mg a v", read),
        ("me a", read),
        ("ms b 1 q\r\n1", ""),
        // A number is read only with the read scope.
        ("incr b 1", read),
        ("decr b 0", read),
        ("ma b D0 v", read),
        ("incr b 1 noreply", ""),
        ("ma b D1", "HD\r\n"),
        ("flush_all", &denied("flush")),
    ];
    check_in_turn(&proxy, &writer, &requests);
    check_in_turn(&proxy, &all, &[("get b", "VALUE b 0 1\r\n3\r\nEND\r\n")]);
    let flusher = proxy.create_token(&all, Permissions { scopes: Scopes::FLUSH, ..Permissions::ALL });
    let requests = [("get a", read), ("delete a", &denied("write")), ("flush_all", "OK\r\n")];
    check_in_turn(&proxy, &flusher, &requests);
    check_in_turn(&proxy, &all, &[("get a b", "END\r\n")]);
    let watcher = proxy.create_token(&all, Permissions { scopes: Scopes::STATS, ..Permissions::ALL });
    let reply = proxy.exchange_text(&format!("{}stats\r\nget a\r\nquit\r\n", text::login(&watcher)));
    assert!(
        reply.starts_with("STORED\r\nSTAT pid ") && reply.ends_with(&format!("END\r\n{read}")),
        "{reply}"
    );
}

// P-6, P-10.
#[test]
fn denied_quiet_binary_requests_are_answered() {
    let proxy = TestProxy::start();
    let all = proxy.sign_up("ann@example.com");
    let _memcached = Memcached::start(&proxy, &all, "10.214.7.102");
    let permissions =
        Permissions { scopes: Scopes::READ, prefix: Some("app:".parse().unwrap()), ..Permissions::ALL };
    let reader = proxy.create_token(&all, permissions);
    let plain = |token: &Token| {
        let (user, secret) = (token.id().username(), token.secret().reveal().to_owned());
        binary::request(0x21, "PLAIN", &format!("\0{user}\0{secret}"))
    };
    let (flags, long) = ([0; 8], vec![b'v'; 200_000]);
    let stored = proxy.exchange(
        &[plain(&all), request(0x01, &flags, b"app:a", b"v"), request(0x07, b"", b"", b"")].concat(),
    );
    assert_eq!(binary::statuses(&stored), [0, 0, 0]);
    let refused = [
        request(0x01, &flags, b"app:a", b"v"),
        request(0x11, &flags, b"app:a", b"v"),
        request(0x11, &flags, b"app:a", &long),
        request(0x0f, b"", b"app:a", &long),
        request(0x14, b"", b"app:a", b""),
        request(0x15, &[0; 20], b"app:a", b""),
        request(0x1c, &[0; 4], b"app:a", b""),
        request(0x1e, &[0; 4], b"app:a", b""),
        request(0x08, b"", b"", b""),
        request(0x18, b"", b"", b""),
        request(0x10, b"", b"", b""),
        request(0x00, b"", b"other", b""),
        request(0x09, b"", b"other", b""),
        request(0x0d, b"", b"YXBwOmE=", b""),
    ];
    let get = request(0x09, b"", b"app:a", b"");
    let requests: Vec<u8> = refused.iter().flat_map(|request| [&request[..], &get].concat()).collect();
    let reply = proxy.exchange(&[plain(&reader), requests, request(0x0a, b"", b"", b"")].concat());
    let mut rest = &reply[24 + "Authenticated".len()..];
    for request in &refused {
        let opcode = request[1];
        let mut expected = vec![0x81, opcode, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 13];
        expected.extend([opcode; 4]);
        expected.extend([0; 8]);
        expected.extend(b"Auth failure.");
        assert_eq!(rest[..expected.len()], expected, "{opcode:#04x}");
        rest = &rest[expected.len()..];
        assert_eq!((rest[1], rest[7], &rest[24..29]), (0x09, 0, &b"\0\0\0\0v"[..]), "the get behind it");
        rest = &rest[29..];
    }
    assert_eq!((rest[1], rest.len()), (0x0a, 24));
}

// P-7.
#[test]
fn keys_outside_the_prefix_are_denied() {
    let proxy = TestProxy::start();
    let all = proxy.sign_up("ann@example.com");
    let _memcached = Memcached::start(&proxy, &all, "10.214.7.103");
    check_in_turn(&proxy, &all, &[("set other 0 0 1\r\n1", "STORED\r\n")]);
    let app =
        proxy.create_token(&all, Permissions { prefix: Some("app:".parse().unwrap()), ..Permissions::ALL });
    let too_long = format!("set other 0 0 1048577\r\n{}", "v".repeat(1_048_577));
    let requests = [
        ("set app:a 0 0 1\r\nv", "STORED\r\n"),
        ("get app:a app:b", "VALUE app:a 0 1\r\nv\r\nEND\r\n"),
        ("get app:a other app:b", OUTSIDE_PREFIX),
        ("gat 0 app:a other", OUTSIDE_PREFIX),
        ("set other 0 0 1\r\nv", OUTSIDE_PREFIX),
        ("set other 0 0 1 noreply\r\nv", ""),
        (&too_long, OUTSIDE_PREFIX),
        ("incr other 1", OUTSIDE_PREFIX),
        ("mg app:a v k", "VA 1 kapp:a\r\nv\r\n"),
        ("mg YXBwOmE= b v", "VA 1\r\nv\r\n"),
        ("mg other v q", OUTSIDE_PREFIX),
        ("mg b3RoZXI= b v", OUTSIDE_PREFIX),
        ("mg YXB!wOmE= b v", OUTSIDE_PREFIX),
        ("me other", OUTSIDE_PREFIX),
        ("stats", OUTSIDE_PREFIX),
        ("flush_all", OUTSIDE_PREFIX),
        ("get app:a", "VALUE app:a 0 1\r\nv\r\nEND\r\n"),
    ];
    check_in_turn(&proxy, &app, &requests);
    check_in_turn(&proxy, &all, &[("get other", "VALUE other 0 1\r\n1\r\nEND\r\n")]);
}

//
#[test]
fn narrowed_scope_applies_to_live_connections() {
    let proxy = TestProxy::start();
    let all = proxy.sign_up("ann@example.com");
    let _memcached = Memcached::start(&proxy, &all, "10.214.7.104");
    let token = proxy.create_token(&all, Permissions::ALL);
    let [mut live, mut storing, mut neighbour] = [&token, &token, &all].map(|token| proxy.log_in(token));
    assert_eq!(ask(&mut live, "set a 0 0 1\r\nv\r\n", 8), "STORED\r\n");
    // The scope allowed this store when it began; its value is on the way to memcached.
    storing.write_all(b"set long 0 0 200000\r\n").unwrap();
    storing.write_all(&[b'v'; 150_000]).unwrap();
    wait_until_read(&proxy, 150_000);
    proxy.update_permissions(&token.id(), |permissions| permissions.scopes = Scopes::READ);
    let changed_at = Instant::now();
    let refused = denied("write");
    loop {
        live.write_all(b"delete nothing\r\nmn\r\n").unwrap();
        let mut reply = Vec::new();
        while !reply.ends_with(b"MN\r\n") {
            let mut byte = [0];
            live.read_exact(&mut byte).unwrap();
            reply.push(byte[0]);
        }
        if reply.starts_with(refused.as_bytes()) {
            break;
        }
        assert_eq!(String::from_utf8_lossy(&reply), "NOT_FOUND\r\nMN\r\n");
        assert!(changed_at.elapsed() < PROPAGATION_TIMEOUT, "the old scope still applies");
    }
    let _ = storing.write_all(&[b'v'; 50_000]);
    let _ = storing.write_all(b"\r\n");
    assert!(is_closed(&mut storing), "a store ran on with the old permissions");
    assert_eq!(ask(&mut neighbour, "get long\r\n", 5), "END\r\n");
    assert_eq!(ask(&mut live, "get a\r\n", 21), "VALUE a 0 1\r\nv\r\nEND\r\n");
    // Widen the scope again.
    proxy.update_permissions(&token.id(), |permissions| permissions.scopes = Scopes::ALL);
    let changed_at = Instant::now();
    live.write_all(b"set a 0 0 1\r\nw\r\n").unwrap();
    let mut first = [0; 1];
    live.read_exact(&mut first).unwrap();
    while first != *b"S" {
        assert!(changed_at.elapsed() < PROPAGATION_TIMEOUT, "the new scope does not apply yet");
        live.read_exact(&mut vec![0; refused.len() - 1]).unwrap();
        live.write_all(b"set a 0 0 1\r\nw\r\n").unwrap();
        live.read_exact(&mut first).unwrap();
    }
}

#[test]
fn permissions_are_rechecked_after_waiting_for_a_lane() {
    // All dedicated lanes of one instance.
    const LANES: usize = 448;
    let proxy = TestProxy::start();
    let all = proxy.sign_up("ann@example.com");
    let _memcached = Memcached::start(&proxy, &all, "10.214.7.106");
    // Each token may have half of them.
    let other = proxy.create_token(&all, Permissions::ALL);
    let token = proxy.create_token(&all, Permissions::ALL);
    let mut neighbour = proxy.log_in(&all);
    assert_eq!(ask(&mut neighbour, "set a 0 0 1\r\nv\r\n", 8), "STORED\r\n");
    let long = b"set long 0 0 200000\r\n";
    let storing: Vec<TcpStream> = (0..LANES)
        .map(|nth| {
            let mut storing = proxy.log_in(if nth % 2 == 0 { &all } else { &other });
            storing.write_all(long).unwrap();
            storing
        })
        .collect();
    let (mut flushing, mut last) = (proxy.log_in(&token), proxy.log_in(&token));
    wait_until_read(&proxy, u64::try_from(LANES * long.len()).unwrap());
    flushing.write_all(b"flush_all\r\n").unwrap();
    last.write_all(&[&long[..], &[b'v'; 200_000], b"\r\n"].concat()).unwrap();
    // The proxy reads this much before it has a lane; the rest waits in the socket.
    wait_until_read(&proxy, u64::try_from(LANES * long.len()).unwrap() + 10_000);
    proxy.update_permissions(&token.id(), |permissions| permissions.scopes = Scopes::READ);
    let in_force = Instant::now() + PROPAGATION_TIMEOUT;
    while proxy.runtime.block_on(proxy.store.propagation(&token.id())).unwrap().by.is_empty() {
        assert!(Instant::now() < in_force, "the change isn't in force");
        std::thread::yield_now();
    }
    drop(storing);
    for mut waited in [flushing, last] {
        let mut reply = String::new();
        let _ = waited.read_to_string(&mut reply);
        assert_eq!(reply, "", "a denied request was executed");
    }
    assert_eq!(ask(&mut neighbour, "get a long\r\n", 21), "VALUE a 0 1\r\nv\r\nEND\r\n");
}
