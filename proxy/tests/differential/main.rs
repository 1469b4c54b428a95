//! Differential test: the same stream of requests, valid and corrupted, to a memcached and through the
//! proxy to another one. Replies, the end of the connection and the cache's contents afterwards must be
//! the same; `differential/differences.rs` says where they may differ.
//!
//! - `MEMGATE_TEST_SECONDS`: seconds per protocol (20; with `MEMGATE_TEST_LONG` an hour).
//! - `MEMGATE_TEST_SEED`: the first stream's number, as printed when one fails.
//! - `MEMGATE_TEST_MEMCACHED`: paths of memcacheds in addition to Debian's, separated by colons.

mod binary;
mod corrupt;
mod differences;
mod endpoint;
mod meta;
mod minimise;
mod reply;
mod stream;
mod text;
mod trial;

use std::fmt::Write as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use differences::Column;
use endpoint::Endpoint;
use stream::{Generator, Protocol, Stream, items, rarely};
use testkit::{
    AdminConnection, Memcached, MemcachedBinary, Rng, StandaloneMemcached, TestProxy, is_long_run,
};
use trial::Comparison;

const SECONDS: u64 = 20;
const SECONDS_LONG: u64 = 3600;
/// Corrupted streams per thousand.
const CORRUPTED_PER_MILLE: usize = 200;
/// Requests of one stream.
const REQUESTS_MAX: usize = 40;
/// A difference must show in this many of so many attempts: a second may pass in the middle of one.
const REPEATED_MIN: usize = 2;
const ATTEMPTS: usize = 3;

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}={value} is no number")))
}

fn duration() -> Duration {
    let long = is_long_run();
    let usual = if long { SECONDS_LONG } else { SECONDS };
    Duration::from_secs(number("MEMGATE_TEST_SECONDS").unwrap_or(usual))
}

fn seed() -> u64 {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    // Leaves room for the streams that follow.
    number("MEMGATE_TEST_SEED").unwrap_or_else(|| u64::from(now().subsec_nanos()) * 1_000_000)
}

fn stream(protocol: Protocol, seed: u64, high: bool) -> Stream {
    let mut rng = Generator { rng: Rng::new(seed), high };
    let items = items(protocol, &mut rng);
    let request = match protocol {
        Protocol::Text => text::request,
        Protocol::Meta => meta::request,
        Protocol::Binary => binary::request,
    };
    let count = 1 + rng.below(REQUESTS_MAX);
    let mut requests: Vec<_> = (0..count).map(|_| request(&mut rng)).collect();
    if rarely(&mut rng, CORRUPTED_PER_MILLE) {
        corrupt::corrupt(protocol, &mut requests, &mut rng);
    }
    Stream { protocol, items, requests }
}

fn column(program: &MemcachedBinary) -> Column {
    if program.version().is_reference() { Column::Reference } else { Column::Older }
}

/// All references, and all memcacheds behind the proxy.
struct Setup {
    pairs: Vec<Comparison>,
    _memcacheds: Vec<Memcached>,
    _directs: Vec<StandaloneMemcached>,
    _door: TestProxy,
}

impl Setup {
    /// `first`: the host number of the first address behind the proxy.
    fn new(first: usize) -> Self {
        let proxy = TestProxy::start();
        let (mut pairs, mut memcacheds, mut standalone) = (Vec::new(), Vec::new(), Vec::new());
        let programs = MemcachedBinary::all();
        for (number, program) in programs.iter().enumerate() {
            let token = proxy.sign_up(&format!("user{number}@example.com"));
            let address = format!("10.214.7.{}", first + number);
            let memcached = Memcached::start_binary(program.clone(), &proxy, &token, &address);
            let logins = [
                (testkit::text::login(&token).into_bytes(), b"STORED\r\n".len()),
                (testkit::binary::login(&token), 24 + b"Authenticated".len()),
            ];
            // Debian's version is compared with itself, all versions with references.
            let references = programs.iter().enumerate().filter(|(other, reference)| {
                reference.version().is_reference() || (*other == number && number == 0)
            });
            for (_, reference) in references {
                let direct = StandaloneMemcached::start(reference);
                pairs.push(Comparison {
                    name: format!("{} behind the proxy, like {}", program.version(), reference.version()),
                    columns: [reference, program].map(column),
                    reference: Endpoint {
                        address: direct.address,
                        logins: None,
                        control: AdminConnection::open(direct.address),
                    },
                    proxy: Endpoint {
                        address: proxy.config.listen,
                        logins: Some(logins.clone()),
                        control: memcached.admin_connection(),
                    },
                });
                standalone.push(direct);
            }
            memcacheds.push(memcached);
        }
        Self { pairs, _memcacheds: memcacheds, _directs: standalone, _door: proxy }
    }
}

/// Compares streams until the time is over.
fn compare(protocol: Protocol, first: usize) {
    let mut setup = Setup::new(first);
    let (started, first) = (Instant::now(), seed());
    let mut requests = 0;
    for seed in first.. {
        if started.elapsed() > duration() {
            let seconds = started.elapsed().as_secs();
            println!("{protocol:?}: {} streams, {requests} requests in {seconds} s", seed - first);
            return;
        }
        let turn = usize::try_from(seed).unwrap() % setup.pairs.len();
        let pair = &mut setup.pairs[turn];
        let stream = stream(protocol, seed, pair.allows_high_numbers());
        requests += stream.requests.len();
        let mut rng = Rng::new(seed);
        let Some(first) = pair.compare(&stream, &mut rng) else { continue };
        if let Some(mut what) = difference(pair, &stream, seed) {
            let least = minimise::minimise(&stream, |stream| match difference(pair, stream, seed) {
                Some(difference) => {
                    what = difference;
                    true
                }
                None => false,
            });
            panic!("{}", describe(pair, &least, seed, &what));
        }
        println!("only once: {}", describe(pair, &stream, seed, &first));
    }
}

/// Returns a difference that shows repeatedly.
fn difference(pair: &mut Comparison, stream: &Stream, seed: u64) -> Option<String> {
    let mut all: Vec<_> = (0..ATTEMPTS).filter_map(|_| pair.compare(stream, &mut Rng::new(seed))).collect();
    all.pop().filter(|_| all.len() + 1 >= REPEATED_MIN)
}

fn describe(pair: &Comparison, stream: &Stream, seed: u64, what: &str) -> String {
    let mut out = format!("{:?}, {}: MEMGATE_TEST_SEED={seed}\n", stream.protocol, pair.name);
    for item in &stream.items {
        let stream::Item { key, value, flags, exptime } = item;
        let (key, value) = (key.escape_ascii(), value.escape_ascii());
        let _ = writeln!(out, "  in the cache: {key} flags {flags} exptime {exptime}: {value}");
    }
    for request in &stream.requests {
        let text = request.escape_ascii().to_string();
        let text =
            if text.len() > 1000 { format!("{}... ({} bytes)", &text[..900], request.len()) } else { text };
        let _ = writeln!(out, "  sent: {text}");
    }
    out + what
}

// T-11, V-3.
#[test]
fn text() {
    compare(Protocol::Text, 80);
}

// R-12, D-12, T-9.
#[test]
fn meta() {
    compare(Protocol::Meta, 60);
}

// R-12, V-2, T-2.
#[test]
fn binary() {
    compare(Protocol::Binary, 90);
}
