//! A real memcached restarts: clients of all protocols see a delay, and a write in flight an error.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use store::Token;
use testkit::{Memcached, SetOnDrop, TestProxy, binary, text};

use super::{UNAVAILABLE, expect, is_quiet, kill, read_until_end};

const AWAY: Duration = Duration::from_millis(500);
/// Longer than what a shared lane carries.
const LONG: usize = 200_000;

/// A client, what it sends while its instance is away, and what it gets then.
struct Client {
    stream: TcpStream,
    requests: Vec<u8>,
    /// Without binary replies, whose statuses are all of a miss.
    replies: String,
    misses: usize,
}

impl Client {
    fn text(proxy: &TestProxy, token: &Token, requests: &str, replies: &str) -> Self {
        let (requests, replies) = (requests.as_bytes().to_vec(), replies.to_owned());
        Self { stream: proxy.log_in(token), requests, replies, misses: 0 }
    }

    fn binary(proxy: &TestProxy, token: &Token, requests: Vec<u8>, misses: usize) -> Self {
        let mut stream = proxy.connect();
        stream.write_all(&binary::login(token)).unwrap();
        read_until_end(&mut stream, 1);
        Self { stream, requests, replies: String::new(), misses }
    }

    fn ask(&mut self) {
        self.stream.write_all(&self.requests).unwrap();
    }

    fn check(&mut self) {
        expect(&mut self.stream, &self.replies);
        assert_eq!(read_until_end(&mut self.stream, self.misses), vec![1; self.misses]);
    }
}

fn held(proxy: &TestProxy, outcome: &str) -> f64 {
    proxy.metric(&format!("memgate_proxy_held_requests_total{{outcome=\"{outcome}\"}}"))
}

/// Lets `time` pass for the instance, not for the test.
fn stay_away(time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        std::thread::yield_now();
    }
}

// F-35, P-11, F-1.
#[test]
fn restart_is_a_delay_for_clients_of_every_protocol() {
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let mut memcached = Memcached::start(&proxy, &token, "10.214.7.137");
    let long = "v".repeat(LONG);
    let get = binary::Request { key: b"a", ..Default::default() }.encode();
    let touch = binary::Request { opcode: 0x1c, extras: &[0; 4], key: b"a", ..Default::default() }.encode();
    let keys = "get".to_owned() + &" k".repeat(600) + "\r\n";
    let mut clients = [
        Client::text(&proxy, &token, "get a\r\n", "END\r\n"),
        Client::text(
            &proxy,
            &token,
            &(text::set("b", "1") + "get b\r\n"),
            "STORED\r\nVALUE b 0 1\r\n1\r\nEND\r\n",
        ),
        Client::text(&proxy, &token, "mg a v\r\nms c 1\r\n1\r\nmn\r\n", "EN\r\nHD\r\nMN\r\n"),
        Client::text(&proxy, &token, &keys, "END\r\n"),
        // These need a lane of their own.
        Client::text(&proxy, &token, &text::set("long", &long), "STORED\r\n"),
        Client::text(&proxy, &token, "me none\r\n", "EN\r\n"),
        Client::binary(&proxy, &token, get, 1),
        Client::binary(&proxy, &token, touch, 1),
    ];
    let mut first = Client::text(&proxy, &token, "get a\r\n", "END\r\n");
    for round in 0..2 {
        // Once with open lanes, which fail, and once without.
        first.ask();
        first.check();
        kill(&proxy, &mut memcached);
        clients.iter_mut().for_each(Client::ask);
        stay_away(AWAY);
        assert!(clients.iter().all(|client| is_quiet(&client.stream)));
        assert!(proxy.metric("memgate_proxy_held_sessions") >= 8.0);
        memcached.restart();
        clients.iter_mut().for_each(Client::check);
        assert!(held(&proxy, "served") >= 8.0 * f64::from(round + 1));
    }
    assert!((held(&proxy, "expired") - 0.0).abs() < 0.5);
    assert!((proxy.metric("memgate_proxy_held_sessions") - 0.0).abs() < 0.5);
}

/// What a client that checks every reply has seen.
#[derive(Debug, Default)]
struct Seen {
    requests: u64,
    failed_writes: u64,
    longest: Duration,
}

/// Sets and gets one key in turn, one request at a time.
fn set_and_get(stream: &TcpStream, key: &str, is_over: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    let mut replies = BufReader::new(stream.try_clone().unwrap());
    let mut ask = |request: String| {
        let begun = Instant::now();
        let mut writing = stream;
        writing.write_all(request.as_bytes()).unwrap();
        let mut line = String::new();
        replies.read_line(&mut line).unwrap();
        if line.starts_with("VALUE") {
            replies.read_line(&mut line).unwrap();
            replies.read_line(&mut line).unwrap();
        }
        (line, begun.elapsed())
    };
    while !is_over.load(Ordering::Relaxed) {
        let number = seen.requests;
        let (stored, took) = ask(text::set(key, &number.to_string()));
        seen.longest = seen.longest.max(took);
        match stored.as_str() {
            "STORED\r\n" => {}
            UNAVAILABLE => seen.failed_writes += 1,
            other => panic!("{other:?}"),
        }
        let (found, took) = ask(format!("get {key}\r\n"));
        seen.longest = seen.longest.max(took);
        let len = number.to_string().len();
        let value = format!("VALUE {key} 0 {len}\r\n{number}\r\nEND\r\n");
        assert!(found == "END\r\n" || stored.starts_with("STORED") && found == value, "{found:?}");
        seen.requests += 2;
    }
    seen
}

// F-35, F-1.
#[test]
fn killed_memcached_costs_a_client_the_write_in_flight_and_no_other_request() {
    const CLIENTS: usize = 8;
    const KILLS: u64 = 5;
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let mut memcached = Memcached::start(&proxy, &token, "10.214.7.138");
    let is_over = AtomicBool::new(false);
    let streams: Vec<TcpStream> = (0..CLIENTS).map(|_| proxy.log_in(&token)).collect();
    let seen: Vec<Seen> = std::thread::scope(|scope| {
        let is_over = &is_over;
        let over = SetOnDrop(is_over);
        let clients: Vec<_> = streams
            .iter()
            .enumerate()
            .map(|(nth, stream)| scope.spawn(move || set_and_get(stream, &format!("k{nth}"), is_over)))
            .collect();
        for _ in 0..KILLS {
            stay_away(AWAY);
            memcached.kill();
            stay_away(AWAY);
            memcached.restart();
        }
        stay_away(AWAY);
        drop(over);
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let requests: u64 = seen.iter().map(|seen| seen.requests).sum();
    let failed: u64 = seen.iter().map(|seen| seen.failed_writes).sum();
    let longest = seen.iter().map(|seen| seen.longest).max().unwrap();
    println!(
        "{KILLS} kills, {CLIENTS} clients, {requests} requests: {failed} writes in flight failed, \
         the longest request took {longest:?}"
    );
    assert!(seen.iter().all(|seen| seen.failed_writes <= KILLS), "{seen:?}");
    assert!(longest < AWAY + Duration::from_millis(1500), "{longest:?}");
}

// F-35, R-33, R-9.
#[test]
fn thousand_sessions_that_wait_keep_little_and_dial_as_one() {
    const SESSIONS: usize = 1000;
    const KIB: f64 = 1024.0;
    let proxy = TestProxy::start_with(|config| {
        (config.hold, config.connections, config.buffer_mb) = (10, 20_000, 64);
    });
    let token = proxy.sign_up("ann@example.com");
    let mut memcached = Memcached::start(&proxy, &token, "10.214.7.139");
    let mut streams: Vec<TcpStream> = (0..SESSIONS).map(|_| proxy.log_in(&token)).collect();
    let wait_until_held = || {
        let deadline = Instant::now() + Duration::from_secs(8);
        while proxy.metric("memgate_proxy_held_sessions") < SESSIONS as f64 {
            assert!(Instant::now() < deadline);
        }
    };
    for (requests, most) in [(1, 64.0 * KIB), (20_000, 16.0 * KIB * KIB)] {
        kill(&proxy, &mut memcached);
        let failures = proxy.metric("memgate_proxy_lane_failures_total");
        let begun = Instant::now();
        let line = "get a\r\n".repeat(requests);
        for stream in &mut streams {
            // What the proxy doesn't read, the kernel takes a part of.
            stream.set_nonblocking(true).unwrap();
            let sent = stream.write(line.as_bytes()).unwrap();
            stream.set_nonblocking(false).unwrap();
            assert!(sent >= line.len().min(100_000), "{sent}");
        }
        wait_until_held();
        let kept = proxy.metric("memgate_proxy_buffered_bytes");
        println!("{SESSIONS} sessions of {requests} requests each keep {kept} bytes");
        assert!(kept <= most, "{kept} bytes");
        let failures = proxy.metric("memgate_proxy_lane_failures_total") - failures;
        let dials = begun.elapsed().as_secs_f64() * 20.0 + 5.0;
        assert!(failures <= dials, "{failures} in {:?}", begun.elapsed());
        memcached.restart();
        streams.iter_mut().for_each(|stream| expect(stream, "END\r\n"));
        // The others have sent more.
        streams = if requests == 1 { streams } else { Vec::new() };
    }
}
