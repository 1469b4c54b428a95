//! The same stream of requests, good and spoilt, to a memcached and through the door to another: the same
//! bytes back, the same end of the connection, the same in the cache then. What may differ stands in
//! `differential/differences.rs`.
//!
//! - `MEMGATE_TEST_SECONDS`: how long each protocol takes (20; with `MEMGATE_TEST_LONG` an hour).
//! - `MEMGATE_TEST_SEED`: the first stream's number, as printed when one fails.
//! - `MEMGATE_TEST_MEMCACHED`: memcacheds next to Debian's, colons between their paths.

#[path = "support/dice.rs"]
mod dice;
#[path = "support/direct.rs"]
mod direct;
#[path = "support/door.rs"]
mod door;
#[path = "support/memcached.rs"]
mod memcached;
#[path = "support/pieces.rs"]
mod pieces;

#[path = "differential/binary.rs"]
mod binary;
#[path = "differential/differences.rs"]
mod differences;
#[path = "differential/meta.rs"]
mod meta;
#[path = "differential/minimise.rs"]
mod minimise;
#[path = "differential/mutate.rs"]
mod mutate;
#[path = "differential/said.rs"]
mod said;
#[path = "differential/side.rs"]
mod side;
#[path = "differential/stream.rs"]
mod stream;
#[path = "differential/text.rs"]
mod text;
#[path = "differential/trial.rs"]
mod trial;

use std::fmt::Write as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dice::Dice;
use differences::Column;
use direct::{Control, Direct};
use door::{Door, pair, sasl, set};
use memcached::{Memcached, Program};
use side::Side;
use stream::{Maker, Protocol, Stream, items, rarely};
use trial::Pair;

const SECONDS: u64 = 20;
const SECONDS_LONG: u64 = 3600;
/// Of a thousand streams, so many are spoilt.
const SPOILT: usize = 200;
/// Requests of one stream, at most.
const REQUESTS: usize = 40;
/// A difference must show again, this often of this many times: a second may pass in the middle of it.
const AGAIN: usize = 2;
const TIMES: usize = 3;

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}={value} is no number")))
}

fn duration() -> Duration {
    let long = std::env::var_os("MEMGATE_TEST_LONG").is_some();
    let usual = if long { SECONDS_LONG } else { SECONDS };
    Duration::from_secs(number("MEMGATE_TEST_SECONDS").unwrap_or(usual))
}

fn seed() -> u64 {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    // With room for the streams that follow.
    number("MEMGATE_TEST_SEED").unwrap_or_else(|| u64::from(now().subsec_nanos()) * 1_000_000)
}

fn stream(protocol: Protocol, seed: u64, high: bool) -> Stream {
    let mut dice = Maker { dice: Dice::new(seed), high };
    let items = items(protocol, &mut dice);
    let request = match protocol {
        Protocol::Text => text::request,
        Protocol::Meta => meta::request,
        Protocol::Binary => binary::request,
    };
    let count = 1 + dice.below(REQUESTS);
    let mut requests: Vec<_> = (0..count).map(|_| request(&mut dice)).collect();
    if rarely(&mut dice, SPOILT) {
        mutate::spoil(protocol, &mut requests, &mut dice);
    }
    Stream { protocol, items, requests }
}

fn column(program: &Program) -> Column {
    if program.version().is_model() { Column::Model } else { Column::Old }
}

/// All there is to compare with, and all there is behind the door.
struct Rig {
    pairs: Vec<Pair>,
    _memcacheds: Vec<Memcached>,
    _directs: Vec<Direct>,
    _door: Door,
}

impl Rig {
    /// `first`: the last number of the first address behind the door.
    fn new(first: usize) -> Self {
        let door = Door::open();
        let (mut pairs, mut memcacheds, mut directs) = (Vec::new(), Vec::new(), Vec::new());
        let programs = Program::all();
        for (number, program) in programs.iter().enumerate() {
            let token = door.sign_up(&format!("user{number}@example.com"));
            let address = format!("10.214.7.{}", first + number);
            let memcached = Memcached::start_program(program.clone(), &door, &token, &address);
            let message = format!("\0{}\0{}", token.id().username(), token.secret().reveal());
            let logins = [
                (set("x", &pair(&token)).into_bytes(), b"STORED\r\n".len()),
                (sasl(0x21, "PLAIN", &message), 24 + b"Authenticated".len()),
            ];
            // Debian's is compared with itself, all with those that speak as the proxy does.
            let references = programs.iter().enumerate().filter(|(other, reference)| {
                reference.version().is_model() || (*other == number && number == 0)
            });
            for (_, reference) in references {
                let direct = Direct::start(reference);
                pairs.push(Pair {
                    name: format!("{} behind the door, like {}", program.version(), reference.version()),
                    columns: [reference, program].map(column),
                    reference: Side {
                        address: direct.address,
                        logins: None,
                        control: Control::to(direct.address),
                    },
                    proxy: Side {
                        address: door.config.listen,
                        logins: Some(logins.clone()),
                        control: memcached.back_door(),
                    },
                });
                directs.push(direct);
            }
            memcacheds.push(memcached);
        }
        Self { pairs, _memcacheds: memcacheds, _directs: directs, _door: door }
    }
}

/// Compares until the time is over.
fn compare(protocol: Protocol, first: usize) {
    let mut rig = Rig::new(first);
    let (begun, first) = (Instant::now(), seed());
    let mut requests = 0;
    for seed in first.. {
        if begun.elapsed() > duration() {
            let seconds = begun.elapsed().as_secs();
            println!("{protocol:?}: {} streams, {requests} requests in {seconds} s", seed - first);
            return;
        }
        let turn = usize::try_from(seed).unwrap() % rig.pairs.len();
        let pair = &mut rig.pairs[turn];
        let stream = stream(protocol, seed, pair.counts_high());
        requests += stream.requests.len();
        let mut dice = Dice::new(seed);
        let Some(first) = pair.try_out(&stream, &mut dice) else { continue };
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

/// What a stream shows again and again.
fn difference(pair: &mut Pair, stream: &Stream, seed: u64) -> Option<String> {
    let mut all: Vec<_> = (0..TIMES).filter_map(|_| pair.try_out(stream, &mut Dice::new(seed))).collect();
    all.pop().filter(|_| all.len() + 1 >= AGAIN)
}

fn describe(pair: &Pair, stream: &Stream, seed: u64, what: &str) -> String {
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

#[test]
fn text() {
    compare(Protocol::Text, 80);
}

#[test]
fn meta() {
    compare(Protocol::Meta, 60);
}

#[test]
fn binary() {
    compare(Protocol::Binary, 90);
}
