//! How long pages take with 1,000 users and a month of samples. Measured, not asserted: `./deploy/measure pages`.

use std::time::{Duration, Instant};

use store::{
    InstanceStatistics, NewToken, NewUser, StatisticsGauges, StatisticsSample, Store, Usage, UsageBatch,
    UsageReport, UsageReporterId, now,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{Site, Visitor};

const USERS: usize = 1_000;
/// 31 days.
const HOURS: u32 = 744;
const REQUESTS: usize = 200;
const HOUR: Duration = Duration::from_hours(1);
/// Samples of the measured cache, so that charts of an hour are full too.
const MINUTES: u32 = 24 * 60;
const PAGES: [&str; 16] = [
    "/",
    "/sign-in",
    "/account",
    "/caches?all",
    "/caches/{cache}",
    "/caches/{cache}?range=day",
    "/caches/{cache}?range=month",
    "/caches/{cache}/figures",
    "/caches/{cache}/state",
    "/caches/{cache}/connect",
    "/caches/{cache}/tokens",
    "/caches/{cache}/connections",
    "/caches/{cache}/denials",
    "/caches/{cache}/activity",
    "/caches/{cache}/usage",
    "/caches/{cache}/settings",
];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures for minutes: ./deploy/measure pages"]
async fn pages_with_a_thousand_users() {
    let site = Site::start_with(|config| config.limits.pages_per_minute = 1_000_000).await;
    let (mut visitor, _) = site.sign_up_user("ada@example.org").await;
    fill(&site.store).await;
    visitor.get("/caches/{cache}").await;
    println!("{:<34} {:>10} {:>10} {:>10} {:>10}", "page", "bytes", "p50 ms", "p99 ms", "worst ms");
    for path in PAGES {
        let size = visitor.get(path).await.body.len();
        let mut times = Vec::with_capacity(REQUESTS);
        for _ in 0..REQUESTS {
            times.push(first_byte(&visitor, path).await);
        }
        times.sort_unstable();
        let at = |part: usize| times[(times.len() * part / 100).min(times.len() - 1)].as_secs_f64() * 1e3;
        println!("{path:<34} {size:>10} {:>10.2} {:>10.2} {:>10.2}", at(50), at(99), at(100));
    }
}

/// From the request for a connection to the first byte of the response.
async fn first_byte(visitor: &Visitor, path: &str) -> Duration {
    let request = visitor.request_head("GET", path) + "\r\n";
    let started = Instant::now();
    let mut stream = TcpStream::connect(visitor.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.read_u8().await.unwrap();
    let took = started.elapsed();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    took
}

/// Adds users whose caches have been used for a month, as the measured one has.
async fn fill(store: &Store) {
    let folder = tempfile::tempdir().unwrap();
    let key = store::TokenKey::load_or_create(&folder.path().join("token.key")).unwrap();
    for number in 1..USERS {
        let email = format!("user{number}@example.org");
        let new = NewUser { email: &email, password_hash: None, plan: "default", is_admin: false };
        store.sign_up(&new, &NewToken::generate(&key, "app")).await.unwrap();
    }
    let instances: Vec<String> = store.instances().await.unwrap().into_iter().map(|it| it.id).collect();
    let end = now();
    let mut before: Vec<Option<InstanceStatistics>> = vec![None; instances.len()];
    let reporter = UsageReporterId::new();
    for hour in (0..HOURS).rev() {
        sample(store, &instances, &mut before, end.saturating_sub(HOUR * hour)).await;
        let at = end.saturating_sub(HOUR * hour);
        let reports = instances.iter().map(|instance| usage(instance, at.hour())).collect();
        let number = u64::from(HOURS - hour);
        let batch = UsageBatch {
            reporter: reporter.clone(),
            number: number.try_into().unwrap(),
            proxy: "p:1".to_owned(),
            reports,
        };
        store.add_usage(&batch, at).await.unwrap();
    }
    let user = store.user_by_email("ada@example.org").await.unwrap().unwrap();
    let own = [store.first_instance_of(&user.id).await.unwrap().unwrap().id];
    for minute in (0..MINUTES).rev() {
        let at = end.saturating_sub(Duration::from_mins(1) * minute);
        sample(store, &own, &mut before[..1], at).await;
    }
}

async fn sample(
    store: &Store,
    instances: &[String],
    before: &mut [Option<InstanceStatistics>],
    at: store::Timestamp,
) {
    let mut samples = Vec::with_capacity(instances.len());
    for (instance, before) in instances.iter().zip(before) {
        let mut newest = before.clone().unwrap_or_default();
        newest.instance_id.clone_from(instance);
        newest.gauges =
            StatisticsGauges { bytes: 12 << 20, limit_bytes: 64 << 20, items: 1_234, ..newest.gauges };
        newest.counters.hits += 90_000;
        newest.counters.misses += 10_000;
        newest.counters.sets += 20_000;
        newest.uptime_seconds = at.as_millis() / 1_000;
        newest.sampled_at = at;
        samples.push(StatisticsSample::new(newest.clone(), before.as_ref()));
        *before = Some(newest);
    }
    store.record_statistics(&samples).await.unwrap();
}

fn usage(instance: &str, hour: store::Timestamp) -> UsageReport {
    let usage = Usage {
        hits: 90_000,
        misses: 10_000,
        stores: 20_000,
        bytes_in: 1 << 20,
        bytes_out: 9 << 20,
        ..Usage::default()
    };
    let latency = vec![(128, 100_000), (256, 19_000), (2_048, 1_000)];
    UsageReport {
        instance_id: instance.to_owned(),
        hour,
        usage,
        latency,
        connections: 5,
        peak_connections: 9,
    }
}
