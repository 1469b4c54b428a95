//! Rate limits of a plan, and the replies to requests beyond them.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use store::{DenialCause, Permissions, Scopes};

use super::permissions::PROPAGATION_TIMEOUT;
use super::pipelining::request;
use testkit::{Memcached, TestProxy, binary, text};

const RATE_LIMITED: &str = "SERVER_ERROR rate limit exceeded\r\n";

/// Sends `requests` and `quit`, and returns all replies.
fn exchange(stream: &mut TcpStream, words: &str) -> String {
    stream.write_all(format!("{words}quit\r\n").as_bytes()).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply
}

//
#[test]
fn operation_rate_is_shared_by_all_connections() {
    let proxy = TestProxy::start();
    let (ada, bob) = (proxy.sign_up("ada@example.org"), proxy.sign_up("bob@example.org"));
    let _hers = Memcached::start(&proxy, &ada, "10.214.7.112");
    let _his = Memcached::start(&proxy, &bob, "10.214.7.113");
    proxy.update_plan(|plan| plan.operations_per_second = Some(50));
    let (mut one, mut other) = (proxy.log_in(&ada), proxy.log_in(&ada));
    let began = Instant::now();
    let (mut passed, mut refused) = (0, 0);
    for reply in
        [exchange(&mut one, &"delete a\r\n".repeat(200)), exchange(&mut other, &"delete a\r\n".repeat(200))]
    {
        passed += reply.matches("NOT_FOUND\r\n").count();
        refused += reply.matches(RATE_LIMITED).count();
        assert_eq!(passed + refused, if passed + refused > 200 { 400 } else { 200 }, "{reply}");
    }
    // The burst of one second, and what accrued since.
    let most = 50 + usize::try_from(began.elapsed().as_millis()).unwrap() * 50 / 1000 + 1;
    assert!((50..=most).contains(&passed), "{passed} of at most {most}");
    // Another cache of the same plan has a limit of its own.
    assert!(!exchange(&mut proxy.log_in(&bob), &"delete a\r\n".repeat(40)).contains(RATE_LIMITED));
}

// P-5, P-10, R-9, R-36.
#[test]
fn rate_limited_requests_are_answered_in_order() {
    let proxy = TestProxy::start();
    let ada = proxy.sign_up("ada@example.org");
    let _memcached = Memcached::start(&proxy, &ada, "10.214.7.112");
    proxy.update_plan(|plan| plan.operations_per_second = Some(2));
    let mut stream = proxy.log_in(&ada);
    // Every second frame is over the rate, and the one behind it has been paid by waiting. Data blocks are discarded;
    // noreply stays silent, quiet meta doesn't; what memgate answers itself is answered as always, but it counts.
    let (large, too_large) = ("x".repeat(200_000), "x".repeat(1_048_577));
    let frames = [
        ("delete a\r\n", "NOT_FOUND\r\n"),
        ("mn\r\n", "MN\r\n"),
        (&*text::set("a", "get a"), RATE_LIMITED),
        ("mn\r\n", "MN\r\n"),
        (&*text::set("a", &large), RATE_LIMITED),
        ("bogus\r\n", "ERROR\r\n"),
        (&*text::set("a", &too_large), RATE_LIMITED),
        ("mn\r\n", "MN\r\n"),
        ("delete a noreply\r\n", ""),
        ("mn\r\n", "MN\r\n"),
        ("ms a 1 q\r\nx\r\n", RATE_LIMITED),
        ("mn\r\n", "MN\r\n"),
        ("mg a q\r\n", RATE_LIMITED),
        ("mn\r\n", "MN\r\n"),
        ("get a b c\r\n", RATE_LIMITED),
        ("mn\r\n", "MN\r\n"),
        ("stats\r\n", RATE_LIMITED),
        ("mn\r\n", "MN\r\n"),
        ("bogus\r\n", "ERROR\r\n"),
        ("delete a\r\n", "NOT_FOUND\r\n"),
        ("version\r\n", RATE_LIMITED),
    ];
    let words: String = frames.iter().map(|(frame, _)| *frame).collect();
    let replies: String = frames.iter().map(|(_, reply)| *reply).collect();
    assert_eq!(exchange(&mut stream, &words), replies);

    let mut stream = proxy.connect();
    let plain = binary::plain(&ada);
    let [getkq, noop] = [(0x0d, &b"k"[..]), (0x0a, b"")].map(|(opcode, key)| request(opcode, b"", key, b""));
    stream.write_all(&[binary::request(0x21, "PLAIN", &plain), getkq.repeat(7), noop].concat()).unwrap();
    let mut replies = Vec::new();
    while replies.last().is_none_or(|(opcode, _, _)| *opcode != 0x0a) {
        let mut head = [0; 24];
        stream.read_exact(&mut head).unwrap();
        let mut body = vec![0; usize::try_from(u32::from_be_bytes(head[8..12].try_into().unwrap())).unwrap()];
        stream.read_exact(&mut body).unwrap();
        replies.push((head[1], u16::from_be_bytes([head[6], head[7]]), String::from_utf8(body).unwrap()));
    }
    assert_eq!(replies.remove(0), (0x21, 0, "Authenticated".into()));
    assert_eq!(replies.pop(), Some((0x0a, 0, String::new())));
    // The others have passed: a quiet miss has no reply.
    assert!(replies.len() >= 2 && replies.iter().all(|it| *it == (0x0d, 0x85, "Busy".into())), "{replies:?}");
}

//
#[test]
fn frames_that_are_not_forwarded_count_too() {
    const RATE: u64 = 10;
    let proxy = TestProxy::start();
    let (ada, bob) = (proxy.sign_up("ada@example.org"), proxy.sign_up("bob@example.org"));
    let _his = Memcached::start(&proxy, &bob, "10.214.7.113");
    proxy.update_plan(|plan| plan.operations_per_second = Some(i64::try_from(RATE).unwrap()));
    let reader = proxy.create_token(&ada, Permissions { scopes: Scopes::READ, ..Permissions::ALL });
    let login = text::login(&ada).into_bytes();
    let noop = request(0x0a, b"", b"", b"");
    // A frame, how often it is sent, and the length of its reply: an empty line, a denied request, a repeated login...
    for (token, frame, reply_len) in [
        (&ada, &b"mn\r\n"[..], 4),
        (&ada, b"\r\n", 38),
        (&ada, b"bogus\r\n", 7),
        (&ada, b"verbosity 1\r\n", 4),
        (&ada, &login, 8),
        (&reader, b"delete a\r\n", 46),
        (&ada, &noop, 24),
    ] {
        let mut stream = if frame[0] == 0x80 {
            let mut stream = proxy.connect();
            stream.write_all(&binary::login(token)).unwrap();
            stream.read_exact(&mut [0; 37]).unwrap();
            stream
        } else {
            proxy.log_in(token)
        };
        let began = Instant::now();
        // The proxy stops reading, so that the writer may block.
        let mut writing = stream.try_clone().unwrap();
        let flood = frame.repeat(8 * 1024 * 1024 / frame.len());
        let writer = std::thread::spawn(move || drop(writing.write_all(&flood)));
        let mut replies = vec![0; 6 * reply_len];
        stream.read_exact(&mut replies).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let mut more = vec![0; 1024 * 1024];
        let mut received = replies.len();
        while began.elapsed() < Duration::from_secs(1) {
            received += stream.read(&mut more).unwrap_or(0);
        }
        let count = received / reply_len;
        // The burst, and twice the rate: after each frame over the rate, one that waiting has paid.
        let elapsed = u64::try_from(began.elapsed().as_millis()).unwrap();
        let most = RATE + 2 * RATE * elapsed / 1000 + 3;
        assert!(u64::try_from(count).unwrap() <= most, "{count} of at most {most}: {}", frame.escape_ascii());
        stream.shutdown(std::net::Shutdown::Both).unwrap();
        writer.join().unwrap();
    }
    assert_eq!(exchange(&mut proxy.log_in(&bob), "delete a\r\n"), "NOT_FOUND\r\n");
    let told = proxy.wait_for_denials(&ada, 1);
    assert!(told.iter().all(|it| it.cause == DenialCause::Rate && it.count < 1000), "{told:?}");
    assert!(proxy.metric("memgate_proxy_denials_total{cause=\"rate\"}") > 0.0);
}

// R-36, P-5.
#[test]
fn line_that_costs_more_than_ten_seconds_of_the_rate_is_denied() {
    let proxy = TestProxy::start();
    let ada = proxy.sign_up("ada@example.org");
    let _memcached = Memcached::start(&proxy, &ada, "10.214.7.112");
    proxy.update_plan(|plan| plan.operations_per_second = Some(10));
    let keys = " k".repeat(101);
    let replies = exchange(&mut proxy.log_in(&ada), &format!("get{keys}\r\nget k\r\nget{}\r\n", &keys[2..]));
    assert_eq!(replies, format!("{RATE_LIMITED}END\r\nEND\r\n"));
}

//
#[test]
fn discarded_data_is_read_at_the_byte_rate() {
    let proxy = TestProxy::start();
    let ada = proxy.sign_up("ada@example.org");
    proxy.update_plan(|plan| plan.bytes_per_second = Some(100_000));
    let mut stream = proxy.log_in(&ada);
    stream.write_all(b"set a 0 0 2147483645\r\n").unwrap();
    stream.set_nonblocking(true).unwrap();
    let began = Instant::now();
    let mut sent = 0;
    while began.elapsed() < Duration::from_secs(2) {
        match stream.write(&[b'x'; 65_536]) {
            Ok(written) => sent += written,
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
        std::thread::yield_now();
    }
    // What the sockets hold, the burst, and the rate.
    assert!(sent < 16 * 1024 * 1024, "{sent} bytes");
    let metrics = proxy.metrics();
    let read = metrics
        .lines()
        .find_map(|it| it.strip_prefix("memgate_proxy_traffic_bytes_total{direction=\"in\"} "));
    assert!(read.unwrap().parse::<u64>().unwrap() < 1_000_000, "{metrics}");
}

#[test]
fn byte_rate_counts_both_directions() {
    let proxy = TestProxy::start();
    let ada = proxy.sign_up("ada@example.org");
    let _memcached = Memcached::start(&proxy, &ada, "10.214.7.112");
    assert_eq!(exchange(&mut proxy.log_in(&ada), &text::set("a", &"x".repeat(10_000))), "STORED\r\n");
    proxy.update_plan(|plan| plan.bytes_per_second = Some(50_000));
    let began = Instant::now();
    let deadline = began + Duration::from_secs(20);
    let mut told = 0;
    // A changed plan applies within a second; earlier traffic isn't charged.
    let mut stream = proxy.log_in(&ada);
    let mut refused = false;
    while !refused {
        stream.write_all(b"get a\r\n").unwrap();
        let mut reply = vec![0; RATE_LIMITED.len()];
        stream.read_exact(&mut reply).unwrap();
        refused = reply == RATE_LIMITED.as_bytes();
        if !refused {
            let mut rest = vec![0; "VALUE a 0 10000\r\n".len() + 10_000 + "\r\nEND\r\n".len() - reply.len()];
            stream.read_exact(&mut rest).unwrap();
            told += 1;
        }
        assert!(Instant::now() < deadline, "{told} times 10 kB in {:?}", began.elapsed());
    }
    assert!(told >= 5, "a second's worth at once");
}

#[test]
fn changed_plan_applies_to_live_connections() {
    let proxy = TestProxy::start();
    let ada = proxy.sign_up("ada@example.org");
    let _memcached = Memcached::start(&proxy, &ada, "10.214.7.112");
    let mut stream = proxy.log_in(&ada);
    let mut over = |limit: Option<i64>| {
        proxy.update_plan(|plan| plan.operations_per_second = limit);
        let deadline = Instant::now() + PROPAGATION_TIMEOUT;
        loop {
            let mut reply = vec![0; 1];
            stream.write_all(b"delete a\r\ndelete a\r\ndelete a\r\n").unwrap();
            let mut lines = String::new();
            while lines.matches('\n').count() < 3 {
                stream.read_exact(&mut reply).unwrap();
                lines.push(char::from(reply[0]));
            }
            if lines.contains(RATE_LIMITED) == limit.is_some() {
                return;
            }
            assert!(Instant::now() < deadline, "{limit:?}: {lines}");
        }
    };
    over(Some(1));
    over(None);
}
