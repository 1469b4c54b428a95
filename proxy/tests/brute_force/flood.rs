//! Ten thousand wrong logins a second from one address, and another client that logs in meanwhile.

#![expect(clippy::disallowed_methods, reason = "a test may leave a task to itself")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use store::Token;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::baseline::Baseline;
use crate::proxy_process::ProxyProcess;
use crate::{connect_from, loopback};
use testkit::is_long_run;

const ATTEMPTS_PER_SECOND: u64 = 10_000;
const TICK: Duration = Duration::from_millis(5);
/// How long an attacker waits for a reply.
const REPLY_TIMEOUT: Duration = Duration::from_millis(100);
/// Interval between two valid logins.
const LOGIN_INTERVAL: Duration = Duration::from_millis(5);
/// How much the proxy's memory may grow, in KiB: open connections, independent of the duration.
const GROWTH_MAX: u64 = 16 * 1024;
const ATTACKER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 66));

#[derive(Debug, Default)]
struct Attempts {
    made: AtomicU64,
    answered: AtomicU64,
}

/// Sends wrong logins to `target`, each with a new secret, until `done`.
async fn flood(target: SocketAddr, attempts: Arc<Attempts>, done: Arc<AtomicBool>) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (mut began, mut due) = (Instant::now(), 0);
    while !done.load(Ordering::Relaxed) {
        ticks.tick().await;
        // Attempts that a busy machine missed are skipped.
        if began.elapsed() > TICK * 20 {
            due = 0;
        }
        due += u64::try_from(began.elapsed().as_micros()).unwrap() * ATTEMPTS_PER_SECOND / 1_000_000;
        began = Instant::now();
        for _ in 0..due {
            let attempts = attempts.clone();
            tokio::spawn(async move {
                let token = Token::generate();
                let pair = format!("{} {}", token.id().username(), token.secret().reveal());
                let login = format!("set x 0 0 {}\r\n{pair}\r\n", pair.len());
                attempts.made.fetch_add(1, Ordering::Relaxed);
                let tried = async {
                    let mut stream = connect_from(ATTACKER, target).await?;
                    stream.write_all(login.as_bytes()).await?;
                    stream.read(&mut [0; 64]).await
                };
                if let Ok(Ok(1..)) = timeout(REPLY_TIMEOUT, tried).await {
                    attempts.answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        due = 0;
    }
}

/// Logs in from another address again and again; returns how long each login latencies, with the connection.
async fn time_valid_logins(proxy: &ProxyProcess, duration: Duration) -> Vec<Duration> {
    let pair = format!("{} {}", proxy.good.id().username(), proxy.good.secret().reveal());
    let login = format!("set x 0 0 {}\r\n{pair}\r\n", pair.len());
    let (began, mut latencies) = (Instant::now(), Vec::new());
    while began.elapsed() < duration {
        let requests = Instant::now();
        let mut stream = connect_from(loopback(1), proxy.listen).await.unwrap();
        stream.write_all(login.as_bytes()).await.unwrap();
        let mut reply = vec![0; 64];
        let len = stream.read(&mut reply).await.unwrap();
        latencies.push(requests.elapsed());
        assert_eq!(String::from_utf8_lossy(&reply[..len]), "STORED\r\n", "a valid login failed");
        drop(stream);
        tokio::time::sleep(LOGIN_INTERVAL).await;
    }
    latencies.sort_unstable();
    latencies
}

/// Measures valid logins while a thread floods `target`.
fn time_logins_during_flood(
    proxy: &ProxyProcess,
    target: SocketAddr,
    duration: Duration,
) -> (Vec<Duration>, Arc<Attempts>) {
    let (attempts, done) = (Arc::new(Attempts::default()), Arc::new(AtomicBool::new(false)));
    let flooding = {
        let (attempts, done) = (attempts.clone(), done.clone());
        std::thread::spawn(move || one_thread().block_on(flood(target, attempts, done)))
    };
    let latencies = one_thread().block_on(time_valid_logins(proxy, duration));
    done.store(true, Ordering::Relaxed);
    flooding.join().unwrap();
    (latencies, attempts)
}

fn one_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn describe(what: &str, latencies: &[Duration], attempts: &Attempts, duration: Duration) -> Duration {
    let at = |percent: usize| latencies[(latencies.len() * percent / 100).min(latencies.len() - 1)];
    let (made, answered) = (attempts.made.load(Ordering::Relaxed), attempts.answered.load(Ordering::Relaxed));
    println!(
        "{what}: {} wrong logins a second ({} answered at once), {} valid ones: p50 {:?}, p99 {:?}, max {:?}",
        made / duration.as_secs(),
        answered / duration.as_secs(),
        latencies.len(),
        at(50),
        at(99),
        at(100)
    );
    at(99)
}

//
#[test]
fn logins_stay_fast_during_a_flood_of_guesses() {
    let (proxy, bare) = (ProxyProcess::start(), Baseline::start());
    let duration = Duration::from_secs(if is_long_run() { 30 } else { 2 });
    // Fill the tables of failed attempts once, before memory is measured.
    time_logins_during_flood(&proxy, proxy.listen, Duration::from_secs(2));
    let before = proxy.memory();
    let (latencies, attempts) = time_logins_during_flood(&proxy, proxy.listen, duration);
    let after = proxy.memory();
    let flooded = describe("the proxy flooded", &latencies, &attempts, duration);
    let (latencies, attempts) = time_logins_during_flood(&proxy, bare.address, duration);
    let control = describe("a bare memcached flooded", &latencies, &attempts, duration);
    println!(
        "p99 / control: {:.2}; memory {before} KiB, then {after} KiB",
        flooded.as_secs_f64() / control.as_secs_f64()
    );
    assert!(after < before + GROWTH_MAX, "{before} KiB, then {after} KiB");
}
