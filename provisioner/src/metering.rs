//! Meters the memory that instances have reserved, from their recorded states. What is metered, and up to when, is one
//! transaction of the store, so a provisioner that ends loses nothing, and the next one counts on from there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use store::{MemoryChanges, MeteredMemory, ReservedMemory, Timestamp, now};

use crate::docker::Docker;
use crate::error::Error;
use crate::execute::Executor;
use crate::plan::{Container, ContainerState};

/// After a longer time without metering, Docker is asked whether the container has run meanwhile.
const GAP: Duration = Duration::from_secs(60);
/// Containers that are inspected at a time.
const READS_MAX: usize = 16;

/// Meters the memory of all instances.
#[derive(Debug, Default)]
pub(crate) struct Metering {
    /// When this provisioner metered last.
    last: Option<Timestamp>,
}

impl Metering {
    /// Meters up to now.
    ///
    /// # Errors
    /// If the store or Docker doesn't answer: then the next call meters this time too.
    pub(crate) async fn meter(&mut self, executor: &Executor) -> Result<(), Error> {
        let (metered, mut reserved) =
            (executor.store.metered_memory().await?, executor.store.reserved_memory().await?);
        for it in &mut reserved {
            it.memory_mb = executor.held_memory_mb(&it.instance_id, it.memory_mb);
        }
        let now = now().whole_seconds();
        let mut changes = changes(&reserved, &metered, self.last, now);
        changes.skipped = skipped(executor, &metered, now).await?;
        let write = executor.store.meter_memory(now, &changes);
        executor.metrics.store.observe("meter_memory", write).await?;
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
/// with the machine meanwhile. Without a running container, that is now.
async fn skipped(
    executor: &Executor,
    metered: &[MeteredMemory],
    now: Timestamp,
) -> Result<Vec<(String, Timestamp)>, Error> {
    let late = metered.iter().filter(|it| it.metered_until.saturating_add(GAP) < now);
    let late: Vec<String> = late.map(|it| it.instance_id.clone()).collect();
    if late.is_empty() {
        return Ok(Vec::new());
    }
    let containers = executor.docker.containers().await?;
    let is_running = |it: &Container| !it.is_holder && it.state == ContainerState::Running;
    let running = containers.into_iter().filter(is_running);
    let mut running: HashMap<String, Container> = running.map(|it| (it.instance.clone(), it)).collect();
    let starts = late.into_iter().map(|id| {
        let (container, docker) = (running.remove(&id), Arc::clone(&executor.docker));
        async move { Ok((id, started_at(&docker, container).await?.unwrap_or(now))) }
    });
    let starts: Vec<Result<_, Error>> = stream::iter(starts).buffer_unordered(READS_MAX).collect().await;
    starts.into_iter().collect()
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
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    let has = |(at, separator): (usize, u8)| text.as_bytes().get(at) == Some(&separator);
    if !text.ends_with('Z') || !separators.into_iter().all(has) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Days of the civil calendar, counted in years that begin in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, year_of_era) = (year / 400, year % 400);
    let days_of_era =
        year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + (153 * month + 2) / 5 + day - 1;
    let days = era * 146_097 + days_of_era - 719_468;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second + 1;
    Some(Timestamp::from_millis(seconds * 1_000))
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn times_of_docker_are_read() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T23:59:59.5Z", 951_868_799),
            ("2026-11-29T22:46:07.123456789Z", 1_795_992_367),
        ] {
            assert_eq!(parse_time(text), Some(at(seconds + 1)), "{text}");
        }
        for text in ["", "monday", "0001-01-01T00:00:00Z", "2026-11-29 22:46:07Z", "2026-13-29T22:46:07Z"] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }
}
