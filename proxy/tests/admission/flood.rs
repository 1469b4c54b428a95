//! Floods of half-open connections, more than the proxy accepts: logins succeed, and stay fast.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use testkit::{SetOnDrop, connect_from, is_long_run, raise_file_limit, text};

use super::{UNFINISHED, logs_in, loopback, metric, open, unauthenticated};

const THREADS: usize = 4;
/// Addresses of one loopback network.
const NETWORK: usize = 256;
/// Logins while the flood lasts.
const LOGINS: usize = 500;
/// Limit of the median login, which takes milliseconds: generous, so that it holds on any machine.
const MEDIAN_MAX: Duration = Duration::from_secs(1);

/// Where half-open connections come from, and how many there are at once.
struct Flood {
    proxy: SocketAddr,
    sources: Vec<IpAddr>,
    count: usize,
    /// Time between two of one thread.
    interval: Duration,
    begun: AtomicUsize,
    stop: AtomicBool,
}

impl Flood {
    /// Half of the connections are silent, the others have sent a part of a login. Each that closes is replaced.
    fn run(&self, thread: usize) {
        let mut open: VecDeque<TcpStream> = VecDeque::new();
        let mut next = Instant::now();
        for number in (thread..).step_by(THREADS) {
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            if open.len() >= self.count / THREADS {
                // Closed by the proxy: for another one, or after five seconds.
                let _ = open.pop_front().unwrap().read(&mut [0; 64]);
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
                next = Instant::now() + self.interval;
            }
            let source = self.sources[number / 2 % self.sources.len()];
            let mut client = connect_from(source, self.proxy).unwrap();
            if (number / THREADS).is_multiple_of(2) {
                // It may have been closed already.
                let _ = client.write_all(UNFINISHED);
            }
            open.push_back(client);
            self.begun.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Runs the flood; returns how long logins from `victim` took meanwhile, the fastest first.
    fn with_logins(&self, mut log_in: impl FnMut()) -> Vec<Duration> {
        std::thread::scope(|scope| {
            // Stops the threads also when this test fails.
            let _stop = SetOnDrop(&self.stop);
            for thread in 0..THREADS {
                scope.spawn(move || self.run(thread));
            }
            let deadline = Instant::now() + Duration::from_secs(60);
            while self.begun.load(Ordering::Acquire) < self.count {
                let begun = self.begun.load(Ordering::Acquire);
                assert!(
                    Instant::now() < deadline,
                    "too few half-open connections: {begun} of {}",
                    self.count
                );
                std::thread::yield_now();
            }
            let timed = |_| {
                let started = Instant::now();
                log_in();
                started.elapsed()
            };
            let mut took: Vec<Duration> = (0..LOGINS).map(timed).collect();
            took.sort();
            took
        })
    }
}

//
#[test]
fn logins_stay_fast_with_half_open_connections_from_many_networks() {
    let files = usize::try_from(raise_file_limit()).unwrap();
    let (wanted, networks) = if is_long_run() { (25_000, 400) } else { (2_000, 40) };
    // This process holds both ends.
    let count = wanted.min(files / 5);
    // A quarter of it is less than the flood.
    let proxy = open(3 * count);
    let token = proxy.sign_up("ann@example.com");
    let login = text::login(&token);
    // 62 connections each: fewer than a source may have.
    let sources =
        (0..count.div_ceil(62)).map(|number| loopback(NETWORK * (1 + number % networks) + number / networks));
    let flood = Flood {
        proxy: proxy.config.listen,
        sources: sources.collect(),
        count,
        interval: Duration::from_millis(4),
        begun: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
    };
    let mut held = 0;
    let took = flood.with_logins(|| {
        logs_in(&proxy, loopback(NETWORK * 500), &login).unwrap();
        held = held.max(if held == 0 { unauthenticated(&proxy) } else { 0 });
    });
    let (median, p99) = (took[LOGINS / 2], took[LOGINS * 99 / 100]);
    let evicted = metric(&proxy, "memgate_proxy_admission_evictions_total{cause=\"silent\"}");
    eprintln!("{count} half-open, {held} of them counted, {evicted} evicted: logins {median:?}, p99 {p99:?}");
    assert!(held <= 3 * count / 4);
    assert!(median < MEDIAN_MAX, "{median:?}");
    assert!(!is_long_run() || p99 < Duration::from_millis(100), "{p99:?}");
}

//
#[test]
fn another_client_behind_the_same_address_logs_in() {
    raise_file_limit();
    let proxy = open(4_000);
    let token = proxy.sign_up("ann@example.com");
    let login = text::login(&token);
    let flood = Flood {
        proxy: proxy.config.listen,
        sources: vec![loopback(NETWORK)],
        count: 600,
        interval: Duration::from_millis(16),
        begun: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
    };
    let took = flood.with_logins(|| drop(logs_in(&proxy, loopback(NETWORK), &login).unwrap()));
    let (median, p99) = (took[LOGINS / 2], took[LOGINS * 99 / 100]);
    eprintln!("logins {median:?}, p99 {p99:?}");
    assert!(median < MEDIAN_MAX, "{median:?}");
}
