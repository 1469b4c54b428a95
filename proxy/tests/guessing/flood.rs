//! Ten thousand wrong logins a second from one address, and somebody else who logs in meanwhile.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use store::Token;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::bare::Bare;
use crate::house::House;
use crate::{call_from, is_long, loopback};

const A_SECOND: u64 = 10_000;
const TICK: Duration = Duration::from_millis(5);
/// Whoever floods doesn't wait for long.
const PATIENCE: Duration = Duration::from_millis(100);
/// Between two valid logins.
const PAUSE: Duration = Duration::from_millis(5);
/// What the proxy may grow by, in KiB: connections that come and go, and no more however long it lasts.
const GROWTH: u64 = 16 * 1024;
const ATTACKER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 66));

#[derive(Debug, Default)]
struct Attempts {
    made: AtomicU64,
    answered: AtomicU64,
}

/// Wrong logins to `target` until `done`, a secret of its own each.
async fn flood(target: SocketAddr, attempts: Arc<Attempts>, done: Arc<AtomicBool>) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (mut began, mut due) = (Instant::now(), 0);
    while !done.load(Ordering::Relaxed) {
        ticks.tick().await;
        // What a busy machine couldn't do in time isn't made up for.
        if began.elapsed() > TICK * 20 {
            due = 0;
        }
        due += u64::try_from(began.elapsed().as_micros()).unwrap() * A_SECOND / 1_000_000;
        began = Instant::now();
        for _ in 0..due {
            let attempts = attempts.clone();
            tokio::spawn(async move {
                let token = Token::generate();
                let pair = format!("{} {}", token.id().username(), token.secret().reveal());
                let login = format!("set x 0 0 {}\r\n{pair}\r\n", pair.len());
                attempts.made.fetch_add(1, Ordering::Relaxed);
                let tried = async {
                    let mut stream = call_from(ATTACKER, target).await?;
                    stream.write_all(login.as_bytes()).await?;
                    stream.read(&mut [0; 64]).await
                };
                if let Ok(Ok(1..)) = timeout(PATIENCE, tried).await {
                    attempts.answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        due = 0;
    }
}

/// Valid logins from elsewhere, one after the other: how long each took, connecting and all.
async fn log_in_again_and_again(house: &House, lasts: Duration) -> Vec<Duration> {
    let pair = format!("{} {}", house.good.id().username(), house.good.secret().reveal());
    let login = format!("set x 0 0 {}\r\n{pair}\r\n", pair.len());
    let (began, mut took) = (Instant::now(), Vec::new());
    while began.elapsed() < lasts {
        let asked = Instant::now();
        let mut stream = call_from(loopback(1), house.listen).await.unwrap();
        stream.write_all(login.as_bytes()).await.unwrap();
        let mut said = vec![0; 64];
        let len = stream.read(&mut said).await.unwrap();
        took.push(asked.elapsed());
        assert_eq!(String::from_utf8_lossy(&said[..len]), "STORED\r\n", "a valid login is refused");
        drop(stream);
        tokio::time::sleep(PAUSE).await;
    }
    took.sort_unstable();
    took
}

/// Valid logins while `target` is flooded from a thread of its own.
fn beside_a_flood(house: &House, target: SocketAddr, lasts: Duration) -> (Vec<Duration>, Arc<Attempts>) {
    let (attempts, done) = (Arc::new(Attempts::default()), Arc::new(AtomicBool::new(false)));
    let flooding = {
        let (attempts, done) = (attempts.clone(), done.clone());
        std::thread::spawn(move || one_thread().block_on(flood(target, attempts, done)))
    };
    let took = one_thread().block_on(log_in_again_and_again(house, lasts));
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

#[test]
fn a_flood_of_guesses_changes_nothing_for_others() {
    let (house, bare) = (House::build(), Bare::start());
    let lasts = Duration::from_secs(if is_long() { 30 } else { 2 });
    // Who floods fills what there is for strangers, once.
    beside_a_flood(&house, house.listen, Duration::from_secs(2));
    let before = house.memory();
    let (took, attempts) = beside_a_flood(&house, house.listen, lasts);
    let after = house.memory();
    let flooded = describe("the proxy flooded", &took, &attempts, lasts);
    let (took, attempts) = beside_a_flood(&house, bare.address, lasts);
    let control = describe("a bare memcached flooded", &took, &attempts, lasts);
    println!(
        "p99 / control: {:.2}; memory {before} KiB, then {after} KiB",
        flooded.as_secs_f64() / control.as_secs_f64()
    );
    assert!(after < before + GROWTH, "{before} KiB, then {after} KiB");
}
