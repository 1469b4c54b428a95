//! Meters the memory that instances have reserved, from their recorded states. What is metered, and up to when, is one
//! transaction of the store, so a provisioner that ends loses nothing, and the next one counts on from there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream;
use store::{MemoryChanges, MeteredMemory, ReservedMemory, Store, Timestamp, now};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::docker::Docker;
use crate::error::Error;
use crate::execute::Executor;
use crate::plan::{Container, ContainerState};

/// After a longer time without metering, Docker is asked whether the container has run meanwhile.
const GAP: Duration = Duration::from_secs(60);
/// The clock was set if it differs by more from the time that has passed since memory was last metered.
const CLOCK_STEP_MIN: Duration = Duration::from_secs(5);
/// Containers that are inspected at a time.
const READS_MAX: usize = 16;

/// A moment by the clock, which may be set, and by one that nobody sets.
#[derive(Debug, Clone, Copy)]
struct Moment {
    /// Whole seconds.
    clock: Timestamp,
    steady: Instant,
}

impl Moment {
    fn now() -> Self {
        Self { clock: now().whole_seconds(), steady: Instant::now() }
    }

    /// When, by the clock of this moment, an earlier moment was, if the clock was set since then.
    fn corrected(self, earlier: Self) -> Option<Timestamp> {
        let right = self.clock.saturating_sub(self.steady.saturating_duration_since(earlier.steady));
        let step = right.since(earlier.clock).max(earlier.clock.since(right));
        (step > CLOCK_STEP_MIN).then(|| right.whole_seconds())
    }
}

/// Meters the memory of all instances.
#[derive(Debug, Default)]
pub(crate) struct Metering {
    /// When this provisioner metered last.
    last: Option<Moment>,
}

impl Metering {
    /// Meters up to now.
    ///
    /// # Errors
    /// If the store or Docker doesn't answer: then the next call meters this time too.
    pub(crate) async fn meter(&mut self, executor: &Executor) -> Result<(), Error> {
        let mut reserved = executor.store.reserved_memory().await?;
        for it in &mut reserved {
            it.memory_mb = executor.held_memory_mb(&it.instance_id, it.memory_mb);
        }
        let starts = async |late| starts(executor, late).await;
        let write = self.meter_at(Moment::now(), &executor.store, &reserved, starts);
        executor.metrics.store.observe("meter_memory", write).await
    }

    /// Meters up to a moment. `starts` says since when the containers of instances run; those without one are missing.
    async fn meter_at(
        &mut self,
        now: Moment,
        store: &Store,
        reserved: &[ReservedMemory],
        starts: impl AsyncFnOnce(Vec<String>) -> Result<HashMap<String, Timestamp>, Error>,
    ) -> Result<(), Error> {
        let metered = store.metered_memory().await?;
        // Only the time that has passed counts, not the hours by which the clock was set.
        let resumed = self.last.and_then(|last| now.corrected(last));
        if resumed.is_some() {
            tracing::warn!("the machine's clock was set: only the time that has really passed is metered");
        }
        let last = resumed.or(self.last.map(|last| last.clock));
        let mut changes = changes(reserved, &metered, last, now.clock);
        changes.skipped = skipped(&metered, resumed, now.clock, starts).await?;
        store.meter_memory(now.clock, &changes).await?;
        self.last = Some(now);
        Ok(())
    }
}

/// What has changed between what is metered and what is reserved. `last` is when this provisioner metered: what isn't
/// metered has been reserved since then at the earliest.
fn changes(
    reserved: &[ReservedMemory],
    metered: &[MeteredMemory],
    last: Option<Timestamp>,
    now: Timestamp,
) -> MemoryChanges {
    let known: HashMap<&str, i64> =
        metered.iter().map(|it| (it.instance_id.as_str(), it.memory_mb)).collect();
    let wanted: HashMap<&str, i64> =
        reserved.iter().map(|it| (it.instance_id.as_str(), it.memory_mb)).collect();
    let begun = reserved.iter().filter(|it| known.get(it.instance_id.as_str()) != Some(&it.memory_mb));
    let begun =
        begun.map(|it| ReservedMemory { since: it.since.max(last.unwrap_or(now)).min(now), ..it.clone() });
    let ended = metered.iter().filter(|it| !wanted.contains_key(it.instance_id.as_str()));
    let ended = ended.map(|it| {
        let left = it.changed_at.filter(|at| *at > it.metered_until && *at < now);
        (it.instance_id.clone(), left.unwrap_or(now))
    });
    MemoryChanges { begun: begun.collect(), ended: ended.collect(), skipped: Vec::new() }
}

/// Instances that weren't metered for a while, with the time from which they are: their containers may have been stopped
/// with the machine meanwhile. Without a running container, that is now. None is metered from before `resumed`.
async fn skipped(
    metered: &[MeteredMemory],
    resumed: Option<Timestamp>,
    now: Timestamp,
    starts: impl AsyncFnOnce(Vec<String>) -> Result<HashMap<String, Timestamp>, Error>,
) -> Result<Vec<(String, Timestamp)>, Error> {
    let resumed = resumed.unwrap_or(Timestamp::EPOCH);
    let is_late = |it: &&MeteredMemory| it.metered_until.max(resumed).saturating_add(GAP) < now;
    let late: Vec<String> = metered.iter().filter(is_late).map(|it| it.instance_id.clone()).collect();
    let starts = if late.is_empty() { HashMap::new() } else { starts(late).await? };
    let skipped = metered.iter().filter(|it| it.metered_until < resumed || is_late(it)).map(|it| {
        let start = if is_late(&it) { starts.get(&it.instance_id).copied().unwrap_or(now) } else { resumed };
        (it.instance_id.clone(), start.max(resumed))
    });
    Ok(skipped.collect())
}

/// Since when the containers of some instances run.
async fn starts(executor: &Executor, instances: Vec<String>) -> Result<HashMap<String, Timestamp>, Error> {
    let booted = booted_at();
    let containers = executor.docker.containers().await?;
    let is_running = |it: &Container| !it.is_holder && it.state == ContainerState::Running;
    let running = containers.into_iter().filter(is_running);
    let mut running: HashMap<String, Container> = running.map(|it| (it.instance.clone(), it)).collect();
    let starts = instances.into_iter().map(|id| {
        let (container, docker) = (running.remove(&id), Arc::clone(&executor.docker));
        async move {
            let start = started_at(&docker, container).await?;
            // Before the clock was right, a container may have seemed to start years ago.
            Ok(start.map(|start| (id, start.max(booted))))
        }
    });
    let starts: Vec<Result<_, Error>> = stream::iter(starts).buffer_unordered(READS_MAX).collect().await;
    starts.into_iter().filter_map(Result::transpose).collect()
}

/// When the machine was started, by its clock now.
fn booted_at() -> Timestamp {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = text.split('.').next().and_then(|seconds| seconds.parse().ok());
    seconds.map_or(Timestamp::EPOCH, |seconds| now().saturating_sub(Duration::from_secs(seconds)))
}

/// When a container was started; `None` if it doesn't run.
async fn started_at(docker: &Docker, container: Option<Container>) -> Result<Option<Timestamp>, Error> {
    let Some(container) = container else { return Ok(None) };
    match docker.inspect(&container).await {
        Ok(container) => Ok(container.started_at.as_deref().and_then(parse_time)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// A time as Docker writes it: `2026-11-29T22:46:07.123456789Z`. A second later, because parts of it are left out: nobody
/// pays for more than was reserved.
fn parse_time(text: &str) -> Option<Timestamp> {
    let seconds = OffsetDateTime::parse(text, &Rfc3339).ok()?.unix_timestamp();
    // It is the year 1 in a container that never ran.
    (seconds >= 0).then(|| Timestamp::from_millis((seconds + 1) * 1_000))
}

#[cfg(test)]
mod tests {
    use store::{Database, InstanceState, NewToken, NewUser, Observed, TokenKey, UsageSpan};

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    fn reserved(id: &str, memory_mb: i64, since: i64) -> ReservedMemory {
        ReservedMemory { instance_id: id.to_owned(), memory_mb, since: at(since) }
    }

    fn metered(id: &str, memory_mb: i64, until: i64, changed_at: i64) -> MeteredMemory {
        let (metered_until, changed_at) = (at(until), Some(at(changed_at)));
        MeteredMemory { instance_id: id.to_owned(), memory_mb, metered_until, changed_at }
    }

    //
    #[test]
    fn memory_counts_from_the_first_moment_to_the_last_and_never_twice() {
        let all = [
            reserved("same", 64, 5),
            reserved("grown", 128, 5),
            reserved("new", 32, 107),
            // Reserved for long, and not metered: it was metered as another one until the last time.
            reserved("back", 32, 5),
        ];
        let before = [
            metered("same", 64, 100, 5),
            metered("grown", 64, 100, 5),
            metered("stopped", 64, 100, 104),
            metered("suspended", 64, 100, 5),
            metered("gone", 64, 100, 200),
        ];
        let found = changes(&all, &before, Some(at(100)), at(110));
        let begun = [reserved("grown", 128, 100), reserved("new", 32, 107), reserved("back", 32, 100)];
        assert_eq!(found.begun, begun);
        let ended = [("stopped", 104), ("suspended", 110), ("gone", 110)];
        assert_eq!(found.ended, ended.map(|(id, until)| (id.to_owned(), at(until))));
        // A provisioner that has just started doesn't know what was metered before.
        let found = changes(&all, &before, None, at(110));
        assert!(found.begun.iter().all(|it| it.since == at(110)), "{found:?}");
    }

    /// A machine whose clock can be set, with one instance of 64 MiB that has been running for long.
    struct Machine {
        store: Store,
        metering: Metering,
        now: Moment,
        _folder: tempfile::TempDir,
    }

    impl Machine {
        async fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let store = Store::open(&Database::Sqlite(folder.path().join("memgate.db"))).await.unwrap();
            let key = TokenKey::load_or_create(&folder.path().join("token.key")).unwrap();
            let email = "ann@example.org";
            let new = NewUser { email, password_hash: None, plan: "default", is_admin: false };
            let user = store.sign_up(&new, &NewToken::generate(&key, "first")).await.unwrap();
            let id = store.first_instance_of(&user.id).await.unwrap().unwrap().id;
            let state = InstanceState::Running;
            let seen = Observed {
                state,
                generation: 1,
                address: None,
                container: None,
                version: None,
                message: None,
            };
            store.record_route(&id, &seen).await.unwrap();
            let mut machine =
                Self { store, metering: Metering::default(), now: Moment::now(), _folder: folder };
            machine.round().await;
            machine
        }

        async fn round(&mut self) {
            let reserved = self.store.reserved_memory().await.unwrap();
            let long_ago = self.now.clock.saturating_sub(Duration::from_hours(10_000));
            let starts = async |late: Vec<String>| {
                Ok(late.into_iter().map(|id| (id, long_ago)).collect::<HashMap<_, _>>())
            };
            self.metering.meter_at(self.now, &self.store, &reserved, starts).await.unwrap();
        }

        /// Time passes.
        async fn pass(&mut self, seconds: u64, rounds: usize) {
            for _ in 0..rounds {
                let span = Duration::from_secs(seconds);
                self.now =
                    Moment { clock: self.now.clock.saturating_add(span), steady: self.now.steady + span };
                self.round().await;
            }
        }

        fn set_clock(&mut self, seconds: i64) {
            let millis = self.now.clock.as_millis() + seconds * 1_000;
            self.now.clock = Timestamp::from_millis(millis);
        }

        async fn metered_seconds(&self) -> i64 {
            let span = UsageSpan { from: Timestamp::EPOCH, to: Timestamp::MAX };
            let hours = self.store.usage_hours(span, None, None).await.unwrap();
            hours.iter().map(|hour| hour.memory_mb_seconds).sum::<i64>() / 64
        }
    }

    //
    #[tokio::test]
    async fn only_time_that_has_passed_is_metered_however_the_clock_is_set() {
        let mut machine = Machine::new().await;
        machine.pass(10, 3).await;
        assert_eq!(machine.metered_seconds().await, 30);
        // Ahead for a while, and right again.
        machine.set_clock(5 * 3_600);
        machine.pass(10, 3).await;
        assert_eq!(machine.metered_seconds().await, 60);
        machine.set_clock(-5 * 3_600);
        machine.pass(10, 3).await;
        // The round that finds the clock set back doesn't count: where it would, time counts already.
        assert_eq!(machine.metered_seconds().await, 80);
        machine.set_clock(20 * 24 * 3_600);
        machine.pass(10, 1).await;
        assert_eq!(machine.metered_seconds().await, 90);
        // Set while the store was away for longer than a gap.
        machine.set_clock(-3_600);
        machine.set_clock(3_600 * 30);
        machine.pass(300, 1).await;
        assert_eq!(machine.metered_seconds().await, 390);
        // Set back by little: nothing counts until it is as late as it was.
        machine.set_clock(-60);
        machine.pass(10, 6).await;
        assert_eq!(machine.metered_seconds().await, 390);
        machine.pass(10, 1).await;
        assert_eq!(machine.metered_seconds().await, 400);
        // Another provisioner, when this one was away for an hour: the container has run meanwhile.
        machine.metering = Metering::default();
        machine.pass(3_600, 1).await;
        assert_eq!(machine.metered_seconds().await, 4_000);
    }

    //
    #[tokio::test]
    async fn memory_that_begins_while_the_clock_is_set_does_not_count_before() {
        let mut machine = Machine::new().await;
        // Reserved since the old time, and metered for the first time after it.
        machine
            .store
            .meter_memory(
                machine.now.clock,
                &MemoryChanges {
                    ended: vec![(machine.store.instance_ids().await.unwrap().remove(0), machine.now.clock)],
                    ..MemoryChanges::default()
                },
            )
            .await
            .unwrap();
        machine.set_clock(5 * 3_600);
        machine.pass(10, 2).await;
        assert_eq!(machine.metered_seconds().await, 20);
    }

    #[test]
    fn times_of_docker_are_read() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T23:59:59.5Z", 951_868_799),
            ("2026-11-29T22:46:07.123456789Z", 1_795_992_367),
        ] {
            assert_eq!(parse_time(text), Some(at(seconds + 1)), "{text}");
        }
        for text in ["", "monday", "0001-01-01T00:00:00Z", "2026-11-29T22:46:07", "2026-13-29T22:46:07Z"] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }
}
