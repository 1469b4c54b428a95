//! No foreign byte, whatever the backends do: 64 clients of two users, whose every value says whose it
//! is, against backends that lie, and against memcacheds that are killed and started again every second.

#[path = "liars/backend.rs"]
mod backend;
#[path = "liars/binary.rs"]
mod binary;
#[path = "liars/client.rs"]
mod client;
#[path = "support/dice.rs"]
mod dice;
#[path = "support/door.rs"]
mod door;
#[path = "liars/honest.rs"]
mod honest;
#[path = "liars/known.rs"]
mod known;
#[path = "liars/lie.rs"]
mod lie;
#[path = "support/memcached.rs"]
mod memcached;
#[path = "liars/meta.rs"]
mod meta;
#[path = "liars/text.rs"]
mod text;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use backend::Liar;
use client::Client;
use door::Door;
use lie::LIES;
use memcached::{Memcached, Program};
use store::Token;

const USERS: [&str; 2] = ["ann", "bob"];
/// Of both users together.
const CLIENTS: u32 = 64;
/// Requests of one client in one write.
const BATCH: usize = 32;
/// Between two looks, and before a client whose lane is away tries again: refused at once, 64 of them
/// would take the machine from the backend that they wait for.
const PACE: Duration = Duration::from_millis(20);
/// How long an ordinary run takes; `MEMGATE_TEST_LONG` counts requests instead.
const SHORT: Duration = Duration::from_secs(6);
const LONG: u64 = 10_000_000;
/// Of both memcacheds together, at least.
const DEATHS: usize = 4;
/// Both tests want the whole machine.
static ALONE: Mutex<()> = Mutex::new(());

/// What all clients have seen so far.
#[derive(Default)]
struct Tally {
    served: AtomicU64,
    failed: AtomicU64,
    done: AtomicBool,
}

/// Ends all clients, also when one of them, or the test itself, fails.
struct Ending<'a>(&'a Tally);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.done.store(true, Ordering::Relaxed);
        }
    }
}

impl Tally {
    fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }

    /// Whether it has been enough.
    fn is_enough(&self, begun: Instant) -> bool {
        let long = std::env::var_os("MEMGATE_TEST_LONG").is_some();
        if long { self.served.load(Ordering::Relaxed) >= LONG } else { begun.elapsed() >= SHORT }
    }
}

/// Asks until all is done; then until its lane is back.
fn keep_asking(mut client: Client<'_>, tally: &Tally) {
    let _ending = Ending(tally);
    let mut batch = BATCH;
    while !tally.is_done() {
        let turn = client.turn(batch);
        tally.served.fetch_add(turn.served, Ordering::Relaxed);
        tally.failed.fetch_add(turn.failed, Ordering::Relaxed);
        if turn.failed > 0 {
            std::thread::sleep(PACE);
        }
        batch = if turn.failed > 0 { 1 } else { BATCH };
    }
    // The connection that has seen it all still works.
    let deadline = Instant::now() + Duration::from_secs(20);
    while client.turn(BATCH).failed > 0 {
        assert!(Instant::now() < deadline, "its backend is back, its lane isn't");
        std::thread::sleep(PACE);
    }
}

/// Runs all clients while `meanwhile` does, which ends when it thinks that it has been enough.
fn with_clients<F>(door: &Door, tokens: &[Token; 2], forgetful: bool, meanwhile: F)
where
    F: FnOnce(&Tally, Instant),
{
    let tally = Tally::default();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let (whose, tally) = (usize::try_from(number % 2).unwrap(), &tally);
            let client = Client::new(door, USERS[whose], &tokens[whose], number, forgetful);
            scope.spawn(move || keep_asking(client, tally));
        }
        let _ending = Ending(&tally);
        meanwhile(&tally, begun);
        tally.done.store(true, Ordering::Relaxed);
    });
    let (served, failed) = (tally.served.load(Ordering::Relaxed), tally.failed.load(Ordering::Relaxed));
    let seconds = begun.elapsed().as_secs_f64();
    println!("{served} requests served, {failed} refused, in {seconds:.1} s");
    assert!(served > 10_000, "hardly anything was served");
}

/// Waits for something, as long as all goes well.
fn wait_until<F: FnMut() -> bool>(tally: &Tally, deadline: Duration, mut holds: F) {
    let deadline = Instant::now() + deadline;
    while !holds() && !tally.is_done() {
        assert!(Instant::now() < deadline, "waited in vain");
        std::thread::sleep(PACE);
    }
}

#[test]
fn no_foreign_byte_from_backends_that_lie() {
    let _alone = ALONE.lock();
    let door = Door::open();
    let tokens = USERS.map(|user| door.sign_up(&format!("{user}@example.com")));
    let liars =
        [Liar::start(&door, &tokens[0], "10.214.7.11"), Liar::start(&door, &tokens[1], "10.214.7.12")];
    let told = || liars.iter().map(Liar::told).collect::<Vec<_>>();
    with_clients(&door, &tokens, false, |tally, begun| {
        wait_until(tally, Duration::from_secs(3600), || tally.is_enough(begun));
        wait_until(tally, Duration::from_secs(120), || told().into_iter().all(|told| told >= LIES.len()));
        liars.iter().for_each(Liar::reform);
    });
    println!("{:?} lies told", told());
    for liar in &liars {
        assert_eq!(liar.complaints(), [""; 0]);
    }
}

#[test]
fn no_foreign_byte_while_memcacheds_die_and_come_back() {
    let _alone = ALONE.lock();
    let door = Door::open();
    let tokens = USERS.map(|user| door.sign_up(&format!("{user}@example.com")));
    let mut memcacheds = [
        Memcached::start_program(Program::debian(), &door, &tokens[0], "10.214.7.13"),
        Memcached::start_program(Program::debian(), &door, &tokens[1], "10.214.7.14"),
    ];
    let mut deaths = 0;
    with_clients(&door, &tokens, true, |tally, begun| {
        while !(tally.is_done() || tally.is_enough(begun) && deaths >= DEATHS) {
            // Each of them every second, in turns.
            let next = Instant::now() + Duration::from_millis(500);
            wait_until(tally, Duration::from_secs(2), || Instant::now() >= next);
            memcacheds[deaths % 2].restart();
            deaths += 1;
        }
    });
    println!("{deaths} deaths");
}
