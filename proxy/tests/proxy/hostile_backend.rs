//! Tenant isolation, whatever the backends do: 64 clients of two users, each value naming its owner,
//! against backends that inject faults, and against memcacheds that are killed and restarted every
//! second.

mod backend;
mod binary;
mod client;
pub(super) mod correct;
mod expectations;
mod fault;
mod meta;
mod text;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use backend::HostileBackend;
pub(super) use backend::listen;
use client::Client;
use fault::FAULTS;
use store::Token;
use testkit::{Memcached, TestProxy, exclusive, is_long_run};

const USERS: [&str; 2] = ["ann", "bob"];
/// Clients of both users together.
const CLIENTS: u32 = 64;
/// Requests that one client sends in one write.
const BATCH: usize = 32;
/// Interval between two checks, and between retries of a client whose lane is down: 64 clients that
/// retried at once would starve the backend they wait for.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Duration of a short run; with `MEMGATE_TEST_LONG` the number of requests counts.
const SHORT_RUN: Duration = Duration::from_secs(6);
const LONG_RUN_REQUESTS: u64 = 10_000_000;
/// Restarts of both memcacheds together.
const RESTARTS_MIN: usize = 4;

/// What all clients have done so far.
#[derive(Default)]
struct Progress {
    served: AtomicU64,
    failed: AtomicU64,
    done: AtomicBool,
}

/// Stops all clients when one of them, or the test itself, panics.
struct StopOnPanic<'a>(&'a Progress);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.done.store(true, Ordering::Relaxed);
        }
    }
}

impl Progress {
    fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }

    /// Whether the run was long enough.
    fn is_complete(&self, started: Instant) -> bool {
        let long = is_long_run();
        if long {
            self.served.load(Ordering::Relaxed) >= LONG_RUN_REQUESTS
        } else {
            started.elapsed() >= SHORT_RUN
        }
    }
}

/// Sends requests until the run is done, and then until the client's lane works again.
fn run_client(mut client: Client<'_>, progress: &Progress) {
    let _stop_on_panic = StopOnPanic(progress);
    let mut batch = BATCH;
    while !progress.is_done() {
        let turn = client.run_batch(batch);
        progress.served.fetch_add(turn.served, Ordering::Relaxed);
        progress.failed.fetch_add(turn.failed, Ordering::Relaxed);
        if turn.failed > 0 {
            std::thread::sleep(POLL_INTERVAL);
        }
        batch = if turn.failed > 0 { 1 } else { BATCH };
    }
    // The connection that has seen every fault still works.
    let deadline = Instant::now() + Duration::from_secs(20);
    while client.run_batch(BATCH).failed > 0 {
        assert!(Instant::now() < deadline, "the lane does not recover");
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Runs all clients while `meanwhile` runs, and stops them when it returns.
fn with_clients<F>(proxy: &TestProxy, tokens: &[Token; 2], may_lose_items: bool, meanwhile: F)
where
    F: FnOnce(&Progress, Instant),
{
    let progress = Progress::default();
    let started = Instant::now();
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let (whose, progress) = (usize::try_from(number % 2).unwrap(), &progress);
            let client = Client::new(proxy, USERS[whose], &tokens[whose], number, may_lose_items);
            scope.spawn(move || run_client(client, progress));
        }
        let _stop_on_panic = StopOnPanic(&progress);
        meanwhile(&progress, started);
        progress.done.store(true, Ordering::Relaxed);
    });
    let (served, failed) = (progress.served.load(Ordering::Relaxed), progress.failed.load(Ordering::Relaxed));
    let seconds = started.elapsed().as_secs_f64();
    println!("{served} requests served, {failed} refused, in {seconds:.1} s");
    assert!(served > 10_000, "too few requests were served");
}

/// Waits for a condition; gives up early when the run has failed.
fn wait_until<F: FnMut() -> bool>(progress: &Progress, deadline: Duration, mut holds: F) {
    let deadline = Instant::now() + deadline;
    while !holds() && !progress.is_done() {
        assert!(Instant::now() < deadline, "timed out");
        std::thread::sleep(POLL_INTERVAL);
    }
}

// L-2, P-2.
// V-6.
#[test]
fn replies_stay_isolated_when_backends_inject_faults() {
    let _exclusive = exclusive();
    let proxy = TestProxy::start();
    let tokens = USERS.map(|user| proxy.sign_up(&format!("{user}@example.com")));
    let backends = [
        HostileBackend::start(&proxy, &tokens[0], "10.214.7.11"),
        HostileBackend::start(&proxy, &tokens[1], "10.214.7.12"),
    ];
    let injected = || backends.iter().map(HostileBackend::injected).collect::<Vec<_>>();
    with_clients(&proxy, &tokens, false, |progress, started| {
        wait_until(progress, Duration::from_secs(3600), || progress.is_complete(started));
        wait_until(progress, Duration::from_secs(120), || {
            injected().into_iter().all(|count| count >= FAULTS.len())
        });
        backends.iter().for_each(HostileBackend::stop_faults);
    });
    println!("{:?} faults injected", injected());
    for backend in &backends {
        assert_eq!(backend.violations(), [""; 0]);
    }
}

// R-11, F-1.
#[test]
fn replies_stay_isolated_while_memcacheds_restart() {
    let _exclusive = exclusive();
    let proxy = TestProxy::start();
    let tokens = USERS.map(|user| proxy.sign_up(&format!("{user}@example.com")));
    let mut memcacheds = [
        Memcached::start(&proxy, &tokens[0], "10.214.7.13"),
        Memcached::start(&proxy, &tokens[1], "10.214.7.14"),
    ];
    let mut restarts = 0;
    with_clients(&proxy, &tokens, true, |progress, started| {
        while !(progress.is_done() || progress.is_complete(started) && restarts >= RESTARTS_MIN) {
            // Each of them every second, alternating.
            let next = Instant::now() + Duration::from_millis(500);
            wait_until(progress, Duration::from_secs(2), || Instant::now() >= next);
            memcacheds[restarts % 2].restart();
            restarts += 1;
        }
    });
    println!("{restarts} restarts");
}
