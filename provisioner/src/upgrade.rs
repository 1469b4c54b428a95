//! The image upgrade: asks for a restart of each instance whose container has another image than new ones get, a few at a
//! time, and watches how they end. A restart replaces such a container; the operations survive a crash, and so does the count
//! of failures, so that an upgrade goes on from where it was.

use std::collections::HashSet;
use std::time::Duration;

use store::{
    DesiredState, ImageUpgrade, Instance, InstanceState, NewOperation, OperationState, StoreError,
    UpgradeProgress, UpgradeState, UpgradeWanted,
};
use tokio::time::sleep;

use crate::error::Error;
use crate::execute::Executor;

/// How often it looks whether it has anything to do, and how restarts go.
const STEP_INTERVAL: Duration = Duration::from_secs(1);
/// Failures in a row, or among the first instances, after which it stops by itself.
const FAILURES_MAX: i64 = 2;
const FIRST_INSTANCES: i64 = 5;
/// Characters of a reason in a message.
const REASON_MAX: usize = 200;

/// An upgrade that this process carries on.
#[derive(Debug)]
struct Upgrading {
    id: String,
    attempt: i64,
    /// Whether the image was looked up since it began: the operator may have built one just before.
    knows_image: bool,
    restarts: Vec<Restart>,
    /// Ids of instances that aren't tried again in this attempt.
    skipped: HashSet<String>,
}

/// A restart that was asked for.
#[derive(Debug)]
struct Restart {
    instance: String,
    cache: String,
    cache_name: String,
    operation: String,
}

/// Upgrades whenever that is asked for, until it is dropped.
pub(crate) async fn run(executor: &Executor) {
    let mut current = None;
    loop {
        sleep(STEP_INTERVAL).await;
        if executor.known.is_store_away() {
            continue;
        }
        if let Err(error) = step(executor, &mut current).await {
            tracing::debug!(%error, "the image upgrade waits");
        }
    }
}

async fn step(executor: &Executor, current: &mut Option<Upgrading>) -> Result<(), Error> {
    let Some(upgrade) = executor.store.image_upgrade().await?.filter(|upgrade| !upgrade.is_at_rest()) else {
        *current = None;
        return Ok(());
    };
    let is_same = |it: &Upgrading| it.id == upgrade.id && it.attempt == upgrade.attempt;
    let mut upgrading = current.take().filter(is_same).unwrap_or_else(|| Upgrading::new(&upgrade));
    let mut progress = upgrade.progress.clone();
    let advanced = upgrading.advance(executor, &upgrade, &mut progress).await;
    *current = Some(upgrading);
    if progress != upgrade.progress {
        if progress.state != upgrade.progress.state {
            let (state, message) = (progress.state.as_str(), progress.message.as_deref().unwrap_or_default());
            tracing::info!(done = progress.done, total = progress.total, message, "image upgrade is {state}");
        }
        let recorded = executor.store.record_image_upgrade(&upgrade, &progress);
        executor.metrics.store.observe("record_upgrade", recorded).await?;
    }
    advanced
}

impl Upgrading {
    fn new(upgrade: &ImageUpgrade) -> Self {
        let (id, attempt) = (upgrade.id.clone(), upgrade.attempt);
        Self { id, attempt, knows_image: false, restarts: Vec::new(), skipped: HashSet::new() }
    }

    /// Looks how the restarts have ended, and asks for further ones. Writes down how far it is, also before a failure.
    async fn advance(
        &mut self,
        executor: &Executor,
        upgrade: &ImageUpgrade,
        progress: &mut UpgradeProgress,
    ) -> Result<(), Error> {
        let reason = self.settle(executor, progress).await;
        if !self.knows_image || executor.images.known_id().is_none() {
            progress.message = Some("waiting for the memcached image".to_owned());
            executor.images.refresh().await?;
            self.knows_image = true;
        }
        let waiting = self.waiting(executor).await?;
        progress.count(waiting.len() + self.restarts.len());
        if progress.must_stop() {
            let reason = reason.unwrap_or_else(|| "see `memgate instance list`".to_owned());
            progress.state = UpgradeState::Stopped;
            progress.message = Some(format!(
                "restarts with the new image fail ({reason}): build another with `memgate image build`, then run `memgate \
                 image upgrade --resume`"
            ));
            return Ok(());
        }
        (progress.state, progress.message) = match (upgrade.wanted, self.restarts.len()) {
            (UpgradeWanted::Paused, 0) => (UpgradeState::Paused, None),
            (UpgradeWanted::Paused | UpgradeWanted::Aborted, _) => (UpgradeState::Running, None),
            (UpgradeWanted::Running, 0) if waiting.is_empty() => (UpgradeState::Done, None),
            (UpgradeWanted::Running, _) => {
                self.begin(executor, waiting, progress.at_a_time(upgrade.parallel)).await?;
                (UpgradeState::Running, None)
            }
        };
        Ok(())
    }

    /// Counts the restarts that have ended. Returns why the last of them failed, if one did.
    async fn settle(&mut self, executor: &Executor, progress: &mut UpgradeProgress) -> Option<String> {
        let mut reason = None;
        let mut unfinished = Vec::new();
        for restart in std::mem::take(&mut self.restarts) {
            let read = executor.store.operation(&restart.cache, &restart.operation).await;
            match read.map(|operation| operation.map(|it| (it.state, it.message))) {
                // Its cache was deleted meanwhile.
                Ok(None) => {}
                Ok(Some((OperationState::Done, _))) => progress.failures_in_row = 0,
                Ok(Some((OperationState::Failed, message))) => {
                    progress.failed = progress.failed.saturating_add(1);
                    progress.failures_in_row = progress.failures_in_row.saturating_add(1);
                    reason = Some(restart.reason(message.as_deref()));
                    self.skipped.insert(restart.instance);
                }
                Ok(Some((OperationState::Pending | OperationState::Running, _))) | Err(_) => {
                    unfinished.push(restart);
                }
            }
        }
        self.restarts = unfinished;
        reason
    }

    /// The instances that run in containers of another image, and aren't being restarted.
    async fn waiting(&self, executor: &Executor) -> Result<Vec<Instance>, Error> {
        let mut containers = executor.docker.containers().await?;
        executor.assess(&mut containers, |container| executor.spec_of(container)).await;
        let outdated: HashSet<String> =
            containers.into_iter().filter(|it| it.outdated).map(|it| it.instance).collect();
        let is_busy = |id: &String| self.restarts.iter().any(|restart| restart.instance == *id);
        let runs = |instance: &Instance| {
            instance.desired == DesiredState::Running && instance.state() == InstanceState::Running
        };
        let known = outdated.into_iter().filter(|id| !self.skipped.contains(id) && !is_busy(id));
        let known = known.filter_map(|id| executor.known.get(&id)).filter(runs);
        let mut waiting: Vec<Instance> = known.collect();
        waiting.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(waiting)
    }

    /// Asks for restarts until as many as may be are on their way.
    async fn begin(
        &mut self,
        executor: &Executor,
        waiting: Vec<Instance>,
        at_a_time: usize,
    ) -> Result<(), Error> {
        for instance in waiting {
            if self.restarts.len() >= at_a_time {
                break;
            }
            match executor.store.request_operation(&instance.cache_id, NewOperation::Restart).await {
                Ok(operation) => self.restarts.push(Restart {
                    instance: instance.id,
                    cache: instance.cache_id,
                    cache_name: instance.cache,
                    operation: operation.id,
                }),
                // It was suspended or deleted just now.
                Err(StoreError::Operation(_) | StoreError::NotFound(_)) => {
                    self.skipped.insert(instance.id);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl Restart {
    /// Why it has failed, without the hint for its owner.
    fn reason(&self, message: Option<&str>) -> String {
        let what = message.and_then(|message| message.split(": ").next()).unwrap_or("see the log");
        format!("{what}, cache {}", self.cache_name).chars().take(REASON_MAX).collect()
    }
}

/// The rules of an upgrade's progress. Pure.
trait Rules {
    /// Counts those that are left.
    fn count(&mut self, left: usize);
    fn must_stop(&self) -> bool;
    /// Instances to restart at a time.
    fn at_a_time(&self, parallel: i64) -> usize;
}

impl Rules for UpgradeProgress {
    fn count(&mut self, left: usize) {
        let left = i64::try_from(left).unwrap_or(i64::MAX);
        self.total = self.total.max(left.saturating_add(self.failed));
        self.done = self.total.saturating_sub(left).saturating_sub(self.failed);
    }

    fn must_stop(&self) -> bool {
        let is_early = self.done.saturating_add(self.failed) <= FIRST_INSTANCES;
        self.failures_in_row >= FAILURES_MAX || (is_early && self.failed >= FAILURES_MAX)
    }

    /// The first one alone: a broken image costs no more.
    fn at_a_time(&self, parallel: i64) -> usize {
        if self.done == 0 { 1 } else { usize::try_from(parallel).unwrap_or(1).max(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //
    #[test]
    fn it_begins_with_one_and_stops_when_the_first_ones_fail() {
        let mut progress = UpgradeProgress::default();
        progress.count(10);
        assert_eq!((progress.total, progress.done, progress.at_a_time(4)), (10, 0, 1));
        progress.count(9);
        assert_eq!((progress.total, progress.done, progress.at_a_time(4)), (10, 1, 4));
        assert_eq!(progress.at_a_time(i64::MIN), 1);
        let of = |done, failed, failures_in_row| {
            UpgradeProgress { total: 100, done, failed, failures_in_row, ..UpgradeProgress::default() }
                .must_stop()
        };
        for (done, failed, failures_in_row, stops) in [
            (0, 0, 0, false),
            (0, 1, 1, false),
            (0, 2, 2, true),
            (1, 2, 1, true),
            (3, 2, 0, true),
            (4, 2, 0, false),
            (50, 2, 1, false),
            (50, 3, 2, true),
        ] {
            assert_eq!(of(done, failed, failures_in_row), stops, "{done} {failed} {failures_in_row}");
        }
    }

    #[test]
    fn what_was_done_while_nobody_looked_counts() {
        let mut progress = UpgradeProgress { total: 10, failed: 1, ..UpgradeProgress::default() };
        progress.count(4);
        assert_eq!((progress.total, progress.done), (10, 5));
        progress.count(0);
        assert_eq!((progress.total, progress.done), (10, 9));
        let mut changed = UpgradeProgress::default();
        changed.count(usize::MAX);
        assert_eq!(changed.total, i64::MAX);
    }

    #[test]
    fn a_reason_is_one_short_clause() {
        let restart = Restart {
            instance: String::new(),
            cache: String::new(),
            cache_name: "shop".into(),
            operation: String::new(),
        };
        let reason = restart.reason(Some("memcached was started but doesn't answer: trying again"));
        assert_eq!(reason, "memcached was started but doesn't answer, cache shop");
        assert_eq!(restart.reason(Some(&"x".repeat(1_000))).len(), REASON_MAX);
    }
}
