//! Rate limits of a plan, and the replies to requests beyond them.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

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

// P-5, R-9.
#[test]
fn rate_limited_requests_are_answered_in_order() {
    let proxy = TestProxy::start();
    let ada = proxy.sign_up("ada@example.org");
    let _memcached = Memcached::start(&proxy, &ada, "10.214.7.112");
    proxy.update_plan(|plan| plan.operations_per_second = Some(1));
    let mut stream = proxy.log_in(&ada);
    // Data blocks are discarded; noreply stays silent, quiet meta doesn't; replies of memgate's own
    // cost nothing.
    let big = "x".repeat(200_000);
    let words = format!(
        "delete a\r\n{}{}{}ms a 1 q\r\nx\r\nmg a q\r\nget a b c\r\nmn\r\nbogus\r\n{}",
        text::set("a", "get a"),
        text::set("a", &big),
        "delete a noreply\r\n",
        "stats\r\n",
    );
    assert_eq!(
        exchange(&mut stream, &words),
        format!("NOT_FOUND\r\n{}MN\r\nERROR\r\n{RATE_LIMITED}", RATE_LIMITED.repeat(5))
    );

    let mut stream = proxy.connect();
    let plain = binary::plain(&ada);
    let [getkq, noop] = [(0x0d, &b"k"[..]), (0x0a, b"")].map(|(opcode, key)| request(opcode, b"", key, b""));
    stream.write_all(&[binary::request(0x21, "PLAIN", &plain), getkq.repeat(3), noop].concat()).unwrap();
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
    // The first one may have passed: a quiet miss has no reply.
    assert!(replies.len() >= 2 && replies.iter().all(|it| *it == (0x0d, 0x85, "Busy".into())), "{replies:?}");
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
