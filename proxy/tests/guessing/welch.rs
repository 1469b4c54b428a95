//! Whether the clock tells who exists: unknown, wrong, revoked and suspended are answered with the same bytes,
//! after times that Welch's test can't tell apart.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use rand::RngExt as _;
use store::Token;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::house::House;
use crate::{call_from, is_long, loopback};

const KINDS: [&str; 4] = ["unknown", "wrong", "revoked", "suspended"];
/// Under way at a time: few enough that they aren't in each other's way.
const AT_ONCE: usize = 48;
/// Of one source before it is throttled.
const OF_A_SOURCE: usize = 8;
/// What chance alone doesn't reach in a life.
const T_MAX: f64 = 4.5;
const FAILURE: &[u8] = b"CLIENT_ERROR authentication failure\r\n";

/// Microseconds of the logins of one kind.
#[derive(Debug, Clone, Default)]
struct Sample(Vec<f64>);

impl Sample {
    fn mean(&self) -> f64 {
        self.0.iter().sum::<f64>() / self.0.len() as f64
    }

    fn variance(&self) -> f64 {
        let mean = self.mean();
        self.0.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (self.0.len() - 1) as f64
    }

    fn t(&self, other: &Self) -> f64 {
        let error = |it: &Self| it.variance() / it.0.len() as f64;
        (self.mean() - other.mean()) / (error(self) + error(other)).sqrt()
    }

    /// The values that so many of a thousand don't exceed.
    fn quantiles<const N: usize>(&mut self, thousandths: [usize; N]) -> [f64; N] {
        self.0.sort_by(f64::total_cmp);
        thousandths.map(|share| self.0[(self.0.len() * share / 1000).min(self.0.len() - 1)])
    }
}

/// What each login of a kind is sent: the id of one of its tokens.
fn login(house: &House, kind: usize, number: usize) -> String {
    let nobodys = Token::generate();
    let of = |tokens: &[Token]| tokens[number % tokens.len()].id().username();
    let (username, secret) = match KINDS[kind] {
        "unknown" => (nobodys.id().username(), nobodys.secret().reveal().to_owned()),
        "wrong" => (of(&house.wrong), nobodys.secret().reveal().to_owned()),
        // With the right secret: only that they are over keeps them out.
        "revoked" => (of(&house.revoked), right(&house.revoked, number)),
        _ => (of(&house.suspended), right(&house.suspended, number)),
    };
    format!("set x 0 0 {}\r\n{username} {secret}\r\n", username.len() + 1 + secret.len())
}

fn right(tokens: &[Token], number: usize) -> String {
    tokens[number % tokens.len()].secret().reveal().to_owned()
}

/// Microseconds from the last byte sent to the whole answer.
async fn try_one(listen: SocketAddr, source: usize, login: &str) -> f64 {
    let mut stream = call_from(loopback(source), listen).await.unwrap();
    let began = Instant::now();
    stream.write_all(login.as_bytes()).await.unwrap();
    let mut said = vec![0; FAILURE.len()];
    stream.read_exact(&mut said).await.unwrap();
    let took = began.elapsed();
    assert_eq!(said, FAILURE, "{login}");
    took.as_secs_f64() * 1e6
}

#[test]
fn the_clock_does_not_tell_who_exists() {
    let house = Arc::new(House::build());
    let logins = if is_long() { 100_000 } else { 1000 } * KINDS.len();
    let next = Arc::new(AtomicUsize::new(0));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut samples = runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..AT_ONCE {
            let (house, next) = (house.clone(), next.clone());
            tasks.spawn(async move {
                let mut samples = KINDS.map(|_| Sample::default());
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= logins {
                        return samples;
                    }
                    // In random order, so that what else happens falls on all alike.
                    let kind = rand::rng().random_range(0..KINDS.len());
                    let login = login(&house, kind, number);
                    let took = try_one(house.listen, number / OF_A_SOURCE, &login).await;
                    samples[kind].0.push(took);
                }
            });
        }
        let mut all = KINDS.map(|_| Sample::default());
        while let Some(samples) = tasks.join_next().await {
            for (all, sample) in all.iter_mut().zip(samples.unwrap()) {
                all.0.extend(sample.0);
            }
        }
        all
    });
    for (kind, sample) in KINDS.iter().zip(&mut samples) {
        let [p1, p50, p99, p999] = sample.quantiles([10, 500, 990, 999]).map(f64::round);
        let (count, mean, deviation) = (sample.0.len(), sample.mean(), sample.variance().sqrt());
        println!(
            "{kind}: {count} logins, mean {mean:.1} us, deviation {deviation:.1} us, p1 {p1}, p50 {p50}, p99 {p99}, p99.9 {p999}"
        );
    }
    for one in 0..KINDS.len() {
        for other in 0..one {
            let t = samples[one].t(&samples[other]);
            println!("{} and {}: t = {t:.2}", KINDS[one], KINDS[other]);
            assert!(t.abs() < T_MAX, "{} and {} are told apart: t = {t}", KINDS[one], KINDS[other]);
        }
    }
}
