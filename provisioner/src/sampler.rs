//! Samples what each memcached says of itself, and the machine's capacity, into the store, for those who look at a cache;
//! meters memory at the same interval; and notes which caches are used.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use store::{
    HostCapacity, InstanceStatistics, LaneCredential, StatisticsCounters, StatisticsGauges, StatisticsSample,
    Store, StoreError, Timestamp, now,
};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::activity::Activity;
use crate::cgroup::{self, ContainerUsage};
use crate::error::{Error, chain};
use crate::execute::Executor;
use crate::metering::Metering;
use crate::plan::ContainerState;
use crate::spec::PORT;
use crate::statistics::{self, Statistics};

/// How often.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(10);
/// Instances that are asked at a time.
const READS_MAX: usize = 16;
/// What an instance said longer ago is no sample before the next one.
const BEFORE_MAX: Duration = Duration::from_hours(24);
/// Transactions that delete old rows, at a time: others write too.
const DELETIONS_MAX: usize = 50;

/// Whether one of the things that happen at the interval fails now.
struct Outage {
    /// What doesn't work then.
    what: &'static str,
    is_on: bool,
}

/// A memcached to ask.
struct Target {
    instance: String,
    container: String,
    address: SocketAddr,
    credential: LaneCredential,
}

/// What a memcached said, and the kernel of its container, if that could be read.
struct Answer {
    row: InstanceStatistics,
    container: Option<ContainerUsage>,
}

/// The newest sample of each instance; `None` if the store has to be asked for them.
#[derive(Default)]
struct Samples(Option<HashMap<String, InstanceStatistics>>);

/// Samples until it is dropped.
pub(crate) async fn run(executor: &Executor) {
    let mut ticks = interval(SAMPLE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut samples, mut metering, mut cleaned) = (Samples::default(), Metering::default(), None);
    let [mut unmetered, mut unsampled, mut uncleaned] =
        ["meter memory", "record statistics", "delete old statistics"].map(Outage::new);
    loop {
        ticks.tick().await;
        if executor.known.is_store_away() {
            continue;
        }
        // Before the containers are counted, a cache that waits for memory seems to have it already.
        if executor.capacity.figures().await.is_some() {
            unmetered.note(metering.meter(executor).await);
        }
        unsampled.note(sample(executor, &mut samples).await);
        let hour = Some(now().hour());
        if cleaned != hour && uncleaned.note(forget(&executor.store, executor.usage_kept).await) {
            cleaned = hour;
        }
    }
}

impl Outage {
    fn new(what: &'static str) -> Self {
        Self { what, is_on: false }
    }

    /// Logs its begin and its end, and not each failure between them. Returns whether there was none.
    fn note(&mut self, result: Result<(), Error>) -> bool {
        let was_on = std::mem::replace(&mut self.is_on, result.is_err());
        match result {
            Ok(()) if was_on => tracing::info!("can {} again", self.what),
            Err(error) if !was_on => {
                tracing::warn!("can't {} now, and tries again: {}", self.what, chain(&error));
            }
            Ok(()) | Err(_) => {}
        }
        !self.is_on
    }
}

async fn sample(executor: &Executor, samples: &mut Samples) -> Result<(), Error> {
    // Without Docker's answer none is asked; the capacity is recorded nevertheless.
    let containers = executor.recorded_containers().await.unwrap_or_default();
    let running = containers.into_iter().filter(|container| container.state == ContainerState::Running);
    let targets = running.filter_map(|container| {
        let address: IpAddr = container.address.parse().ok()?;
        let credential = executor.lane_key.credential(&container.instance, container.generation);
        let (instance, container) = (container.instance, container.id);
        let is_ours = executor.networks.can_have_instance(address);
        is_ours.then(|| Target { instance, container, address: SocketAddr::new(address, PORT), credential })
    });
    let newest = ask(&executor.activity, targets.collect()).await;
    let recorded = async {
        samples.record(&executor.store, newest).await?;
        if let Some(capacity) = executor.capacity.figures().await {
            executor.store.set_host_capacity(&HostCapacity { changed_at: now(), ..capacity }).await?;
        }
        Ok::<(), StoreError>(())
    };
    Ok(executor.metrics.store.observe("record_statistics", recorded).await?)
}

/// Asks some memcacheds. Those that don't answer are left out.
async fn ask(activity: &Activity, targets: Vec<Target>) -> Vec<Answer> {
    let reads = targets.into_iter().map(|target| async move {
        let read = statistics::read_from(target.address, &target.credential).await.ok()?;
        activity.note(&target.container, read.commands, Instant::now());
        let container = spawn_blocking(move || cgroup::usage(&target.container)).await.ok().flatten();
        Some(Answer { row: row(target.instance, &read), container })
    });
    stream::iter(reads).buffer_unordered(READS_MAX).filter_map(std::future::ready).collect().await
}

impl Samples {
    /// Records new samples, with what has happened since those before.
    async fn record(&mut self, store: &Store, newest: Vec<Answer>) -> Result<(), StoreError> {
        // Until the store has confirmed them, nobody knows which are the last: it is asked again then.
        let mut before = match self.0.take() {
            Some(before) => before,
            None => {
                let all = store.all_instance_statistics().await?;
                all.into_iter().map(|it| (it.instance_id.clone(), it)).collect()
            }
        };
        let oldest = now().saturating_sub(BEFORE_MAX);
        before.retain(|_, it| it.sampled_at >= oldest);
        let new: Vec<StatisticsSample> = newest
            .into_iter()
            .map(|it| {
                let last = before.get(&it.row.instance_id);
                it.sample(last)
            })
            .collect();
        store.record_statistics(&new).await?;
        before.extend(new.into_iter().map(|it| (it.newest.instance_id.clone(), it.newest)));
        self.0 = Some(before);
        Ok(())
    }
}

impl Answer {
    /// What has happened since the sample before. If the kernel's figures couldn't be read, they are as they were: zeros
    /// would count the container's whole CPU time once more the next time.
    fn sample(mut self, before: Option<&InstanceStatistics>) -> StatisticsSample {
        let read = self.container.map(|it| (number(it.memory_bytes), number(it.cpu_us)));
        let last = before.map(|it| (it.gauges.container_bytes, it.counters.cpu_us));
        (self.row.gauges.container_bytes, self.row.counters.cpu_us) = read.or(last).unwrap_or_default();
        let mut sample = StatisticsSample::new(self.row, before);
        if self.container.is_none() {
            sample.increments.cpu_us = 0;
        }
        sample
    }
}

/// Deletes what is older than it is kept.
async fn forget(store: &Store, usage_kept: Duration) -> Result<(), Error> {
    for _ in 0..DELETIONS_MAX {
        if !store.forget_usage_hours(now(), usage_kept).await? {
            break;
        }
    }
    for _ in 0..DELETIONS_MAX {
        if !store.forget_statistics().await? {
            break;
        }
    }
    Ok(())
}

/// memcached may say anything; the store's numbers have a sign.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn row(instance_id: String, read: &Statistics) -> InstanceStatistics {
    let mut row = InstanceStatistics {
        instance_id,
        gauges: StatisticsGauges {
            bytes: number(read.bytes),
            limit_bytes: number(read.limit_maxbytes),
            items: number(read.curr_items),
            connections: number(read.curr_connections),
            container_bytes: 0,
        },
        counters: StatisticsCounters {
            hits: number(read.get_hits),
            misses: number(read.get_misses),
            sets: number(read.cmd_set),
            evictions: number(read.evictions),
            evicted_unfetched: number(read.evicted_unfetched),
            reclaimed: number(read.reclaimed),
            out_of_memory: number(read.out_of_memory()),
            bytes_read: number(read.bytes_read),
            bytes_written: number(read.bytes_written),
            cpu_us: 0,
        },
        uptime_seconds: number(read.uptime),
        sampled_at: Timestamp::now(),
        slab_text: String::new(),
    };
    row.set_slab_classes(&read.slab_classes);
    row
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use store::{Database, NewCache, NewToken, NewUser, StatisticsResolution, TokenKey};

    use super::*;

    const INSTANCES: usize = 250;
    const ROUNDS: usize = 4;
    /// Sizes of items of a memcached that has been filled with values of all kinds.
    const CLASSES: usize = 39;

    /// What a memcached with many sizes of items answers.
    fn replies() -> [String; 3] {
        let general: String = (0..60).map(|n| format!("STAT figure_{n} {}\r\n", n * 1_000_003)).collect();
        let figures = |prefix: &str, class: usize, count: usize| {
            (0..count)
                .map(move |n| format!("STAT {prefix}{class}:figure_{n} {}\r\n", n * 77))
                .collect::<String>()
        };
        let slabs: String = (1..=CLASSES).map(|class| figures("", class, 13)).collect();
        let items: String = (1..=CLASSES).map(|class| figures("items:", class, 15)).collect();
        let statistics = format!("{general}STAT get_hits 5\r\nEND\r\n{slabs}END\r\n{items}END\r\n");
        ["CLIENT_ERROR unauthenticated\r\n".to_owned(), "STORED\r\n".to_owned(), statistics]
    }

    fn serve(mut client: TcpStream, replies: &[String; 3]) {
        let mut request = [0; 4_096];
        for reply in replies {
            if client.read(&mut request).unwrap_or(0) == 0 || client.write_all(reply.as_bytes()).is_err() {
                return;
            }
        }
        // Until the other side has read it all.
        let _ = client.read(&mut request);
    }

    /// CPU time of this thread, and of those that write to SQLite.
    fn cpu() -> Duration {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten().map(|task| task.path());
        let is_ours = |task: &std::path::PathBuf| {
            let name = std::fs::read_to_string(task.join("comm")).unwrap_or_default();
            name.starts_with("sqlx") || Some(task.as_path()) == own_task().as_deref()
        };
        let nanos = tasks.filter(is_ours).filter_map(|task| {
            let text = std::fs::read_to_string(task.join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(nanos.sum())
    }

    fn own_task() -> Option<std::path::PathBuf> {
        let own = std::fs::read_link("/proc/thread-self").ok()?;
        Some(std::path::Path::new("/proc/self/task").join(own.file_name()?))
    }

    async fn instances(store: &Store, folder: &std::path::Path, users: usize) -> Vec<String> {
        let key = TokenKey::load_or_create(&folder.join("token.key")).unwrap();
        for user in 0..users {
            let email = format!("user-{user}@example.org");
            let new = NewUser { email: &email, password_hash: None, plan: "default", is_admin: false };
            let user = store.sign_up(&new, &NewToken::generate(&key, "first")).await.unwrap();
            for cache in 0..50 {
                let name = format!("cache-{cache}").parse().unwrap();
                let new = NewCache { user_id: &user.id, name: &name, plan: None };
                store.create_cache(&new, usize::MAX).await.unwrap();
            }
        }
        store.instance_ids().await.unwrap()
    }

    //
    #[tokio::test]
    async fn figures_that_cannot_be_read_for_once_or_are_old_make_no_increment_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&Database::Sqlite(folder.path().join("memgate.db"))).await.unwrap();
        let ids = instances(&store, folder.path(), 1).await;
        let answer = |seconds_ago, uptime_seconds, cpu_us: Option<u64>| Answer {
            row: InstanceStatistics {
                instance_id: ids[0].clone(),
                uptime_seconds,
                sampled_at: now().saturating_sub(Duration::from_secs(seconds_ago)),
                ..InstanceStatistics::default()
            },
            container: cpu_us.map(|cpu_us| ContainerUsage { memory_bytes: 5, cpu_us }),
        };
        let old = answer(86_500, 5, Some(1));
        Samples::default().record(&store, vec![old]).await.unwrap();
        let mut samples = Samples::default();
        for it in [answer(30, 86_475, Some(1_000)), answer(20, 86_485, None), answer(10, 86_495, Some(1_200))]
        {
            samples.record(&store, vec![it]).await.unwrap();
            let newest = store.instance_statistics(&ids[0]).await.unwrap().unwrap();
            assert_eq!(newest.gauges.container_bytes, 5);
        }
        let hours =
            store.statistics_history(&ids[0], StatisticsResolution::Hours, Timestamp::EPOCH).await.unwrap();
        assert_eq!(hours.iter().map(|it| it.counters.cpu_us).sum::<i64>(), 200);
        assert!(hours.iter().map(|it| it.measured_ms).sum::<i64>() < 30_000, "{hours:?}");
    }

    #[test]
    fn an_outage_begins_and_ends_once() {
        let mut outage = Outage::new("work");
        let away = || Err(Error::Store(StoreError::Timeout));
        assert!(outage.note(Ok(())) && !outage.note(away()) && !outage.note(away()) && outage.is_on);
        assert!(outage.note(Ok(())) && !outage.is_on);
    }

    //
    #[tokio::test]
    async fn figures_of_a_thousand_instances_are_recorded() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&Database::Sqlite(folder.path().join("memgate.db"))).await.unwrap();
        let ids = instances(&store, folder.path(), INSTANCES / 50).await;
        assert!(ids.len() >= INSTANCES);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let replies = replies();
            listener.incoming().take(INSTANCES * ROUNDS).flatten().for_each(|client| serve(client, &replies));
        });
        let mut samples = Samples::default();
        let before = cpu();
        for _ in 0..ROUNDS {
            let targets = ids.iter().take(INSTANCES).map(|id| Target {
                instance: id.clone(),
                container: "0".repeat(64),
                address,
                credential: LaneCredential::new("secret-of-the-lane".to_owned()),
            });
            let newest = ask(&Activity::default(), targets.collect()).await;
            assert_eq!(newest.len(), INSTANCES);
            samples.record(&store, newest).await.unwrap();
        }
        // A thread of SQLite that has ended is missing.
        let used = cpu().saturating_sub(before);
        server.join().unwrap();
        eprintln!("{} samples took {used:?} of CPU time", INSTANCES * ROUNDS);
        assert_eq!(store.all_instance_statistics().await.unwrap().len(), INSTANCES);
    }
}
