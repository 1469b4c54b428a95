//! Response times don't tell which ids exist: unknown, wrong, revoked and suspended credentials get the
//! same reply, after times that Welch's t-test can't tell apart.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use rand::RngExt as _;
use store::Token;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::proxy_process::ProxyProcess;
use crate::{connect_from, loopback};
use testkit::is_long_run;

const KINDS: [&str; 4] = ["unknown", "wrong", "revoked", "suspended"];
/// Logins in flight: few enough not to slow each other down.
const CONCURRENCY_MAX: usize = 48;
/// Attempts per source: fewer than are throttled.
const ATTEMPTS_PER_SOURCE: usize = 8;
/// The limit of |t|: practically unreachable by chance.
const T_MAX: f64 = 4.5;
const FAILURE: &[u8] = b"CLIENT_ERROR authentication failure\r\n";

/// Durations of the logins of one kind, in microseconds.
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

    /// Returns the quantiles, given in thousandths.
    fn quantiles<const N: usize>(&mut self, thousandths: [usize; N]) -> [f64; N] {
        self.0.sort_by(f64::total_cmp);
        thousandths.map(|share| self.0[(self.0.len() * share / 1000).min(self.0.len() - 1)])
    }
}

/// Returns a login of `kind` with the id of one of its tokens.
fn login(proxy: &ProxyProcess, kind: usize, number: usize) -> String {
    let unknown = Token::generate();
    let of = |tokens: &[Token]| tokens[number % tokens.len()].id().username();
    let (username, secret) = match KINDS[kind] {
        "unknown" => (unknown.id().username(), unknown.secret().reveal().to_owned()),
        "wrong" => (of(&proxy.wrong), unknown.secret().reveal().to_owned()),
        // With the right secret: only their state denies them.
        "revoked" => (of(&proxy.revoked), right(&proxy.revoked, number)),
        _ => (of(&proxy.suspended), right(&proxy.suspended, number)),
    };
    format!("set x 0 0 {}\r\n{username} {secret}\r\n", username.len() + 1 + secret.len())
}

fn right(tokens: &[Token], number: usize) -> String {
    tokens[number % tokens.len()].secret().reveal().to_owned()
}

/// Returns the microseconds from the last byte sent to the complete reply.
async fn try_one(listen: SocketAddr, source: usize, login: &str) -> f64 {
    let mut stream = connect_from(loopback(source), listen).await.unwrap();
    let began = Instant::now();
    stream.write_all(login.as_bytes()).await.unwrap();
    let mut reply = vec![0; FAILURE.len()];
    stream.read_exact(&mut reply).await.unwrap();
    let took = began.elapsed();
    assert_eq!(reply, FAILURE, "{login}");
    took.as_secs_f64() * 1e6
}

//
#[test]
fn response_times_do_not_reveal_which_ids_exist() {
    let proxy = Arc::new(ProxyProcess::start());
    let logins = if is_long_run() { 100_000 } else { 1000 } * KINDS.len();
    let next = Arc::new(AtomicUsize::new(0));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut samples = runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..CONCURRENCY_MAX {
            let (proxy, next) = (proxy.clone(), next.clone());
            tasks.spawn(async move {
                let mut samples = KINDS.map(|_| Sample::default());
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= logins {
                        return samples;
                    }
                    // In random order, so that disturbances affect all kinds alike.
                    let kind = rand::rng().random_range(0..KINDS.len());
                    let login = login(&proxy, kind, number);
                    let took = try_one(proxy.listen, number / ATTEMPTS_PER_SOURCE, &login).await;
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
