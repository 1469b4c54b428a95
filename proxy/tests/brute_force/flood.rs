//! Ten thousand wrong logins a second from one address, and another client that logs in meanwhile.

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

/// Logs in from another address again and again; returns how long each login took, with the connection.
async fn log_in_again_and_again(proxy: &ProxyProcess, lasts: Duration) -> Vec<Duration> {
    let pair = format!("{} {}", proxy.good.id().username(), proxy.good.secret().reveal());
    let login = format!("set x 0 0 {}\r\n{pair}\r\n", pair.len());
    let (began, mut took) = (Instant::now(), Vec::new());
    while began.elapsed() < lasts {
        let requests = Instant::now();
        let mut stream = connect_from(loopback(1), proxy.listen).await.unwrap();
        stream.write_all(login.as_bytes()).await.unwrap();
        let mut reply = vec![0; 64];
        let len = stream.read(&mut reply).await.unwrap();
        took.push(requests.elapsed());
        assert_eq!(String::from_utf8_lossy(&reply[..len]), "STORED\r\n", "a valid login is refused");
        drop(stream);
        tokio::time::sleep(LOGIN_INTERVAL).await;
    }
    took.sort_unstable();
    took
}

/// Measures valid logins while a thread floods `target`.
fn beside_a_flood(
    proxy: &ProxyProcess,
    target: SocketAddr,
    lasts: Duration,
) -> (Vec<Duration>, Arc<Attempts>) {
    let (attempts, done) = (Arc::new(Attempts::default()), Arc::new(AtomicBool::new(false)));
    let flooding = {
        let (attempts, done) = (attempts.clone(), done.clone());
        std::thread::spawn(move || one_thread().block_on(flood(target, attempts, done)))
    };
    let took = one_thread().block_on(log_in_again_and_again(proxy, lasts));
    done.store(true, Ordering::Relaxed);
    flooding.join().unwrap();
    (took, attempts)
}

fn one_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn describe(what: &str, took: &[Duration], attempts: &Attempts, lasts: Duration) -> Duration {
    let at = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)];
    let (made, answered) = (attempts.made.load(Ordering::Relaxed), attempts.answered.load(Ordering::Relaxed));
    println!(
        "{what}: {} wrong logins a second ({} answered at once), {} valid ones: p50 {:?}, p99 {:?}, max {:?}",
        made / lasts.as_secs(),
        answered / lasts.as_secs(),
        took.len(),
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
    let lasts = Duration::from_secs(if is_long_run() { 30 } else { 2 });
    // Fill the tables of failed attempts once, before memory is measured.
    beside_a_flood(&proxy, proxy.listen, Duration::from_secs(2));
    let before = proxy.memory();
    let (took, attempts) = beside_a_flood(&proxy, proxy.listen, lasts);
    let after = proxy.memory();
    let flooded = describe("the proxy flooded", &took, &attempts, lasts);
    let (took, attempts) = beside_a_flood(&proxy, bare.address, lasts);
    let control = describe("a bare memcached flooded", &took, &attempts, lasts);
    println!(
        "p99 / control: {:.2}; memory {before} KiB, then {after} KiB",
        flooded.as_secs_f64() / control.as_secs_f64()
    );
    assert!(after < before + GROWTH_MAX, "{before} KiB, then {after} KiB");
}
