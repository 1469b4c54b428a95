//! The image upgrade: asks for a restart of each instance whose container has another image than new ones get, a few at a
//! time, and watches how they end. A restart replaces such a container; the operations survive a crash, and so does the count
//! of failures, so that an upgrade goes on from where it was.

mod rules;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use store::{
    DesiredState, ImageUpgrade, Instance, InstanceState, NewOperation, Operation, OperationKind,
    OperationState, StoreError, Timestamp, UpgradeProgress, UpgradeState, UpgradeWanted, now,
};
use tokio::time::{Instant, sleep};

use crate::error::Error;
use crate::execute::Executor;
use rules::Rules as _;

/// How often it looks how restarts go, and whether it has anything to do.
const STEP_INTERVAL: Duration = Duration::from_secs(1);
const IDLE_INTERVAL: Duration = Duration::from_secs(3);
/// How often it lists all containers although no restart has ended.
const LIST_INTERVAL: Duration = Duration::from_secs(5);
/// Characters of a reason in a message.
const REASON_MAX: usize = 200;
/// Operations of a cache that are looked at for a restart that has failed.
const OPERATIONS_READ: i64 = 5;
/// Who asks for its restarts, as the audit log says.
const ACTOR: &str = "operator";

/// An upgrade that this process carries on.
#[derive(Debug)]
struct Upgrading {
    id: String,
    attempt: i64,
    /// As last counted: it may not be recorded yet.
    progress: UpgradeProgress,
    /// The image that was looked up since it began: the operator may have built one just before.
    image: Option<String>,
    /// Whether what an earlier process has asked for was looked for.
    recovered: bool,
    restarts: Vec<Restart>,
    /// Ids of instances that wait, as of the last list.
    waiting: HashSet<String>,
    listed_at: Option<Instant>,
    /// Ids of instances that aren't tried again in this attempt.
    skipped: HashSet<String>,
    /// Why the last restart failed.
    reason: Option<String>,
}

/// A restart that was asked for.
#[derive(Debug)]
struct Restart {
    instance: String,
    cache: String,
    cache_name: String,
    operation: String,
}

/// What the store and Docker say of instances, by id, and of their containers.
struct InstanceImages {
    instances: HashMap<String, Instance>,
    /// Ids of instances whose containers have another image than new ones get, and of the others with a container.
    outdated: HashSet<String>,
    current: HashSet<String>,
}

/// Upgrades whenever that is asked for, until it is dropped.
pub(crate) async fn run(executor: &Executor) {
    let (mut current, mut failing) = (None, false);
    loop {
        sleep(if current.is_some() { STEP_INTERVAL } else { IDLE_INTERVAL }).await;
        if executor.known.is_store_away() {
            continue;
        }
        let result = step(executor, &mut current).await;
        if let Err(error) = &result
            && current.is_some()
            && !failing
        {
            tracing::warn!(%error, "the image upgrade waits: it goes on when that is over");
        }
        failing = result.is_err();
    }
}

async fn step(executor: &Executor, current: &mut Option<Upgrading>) -> Result<(), Error> {
    let counted_at = now();
    let Some(upgrade) = executor.store.image_upgrade().await?.filter(|upgrade| !upgrade.is_at_rest()) else {
        *current = None;
        return Ok(());
    };
    let is_same = |it: &Upgrading| it.id == upgrade.id && it.attempt == upgrade.attempt;
    let upgrading = current.take().filter(is_same).unwrap_or_else(|| Upgrading::new(&upgrade));
    let upgrading = current.insert(upgrading);
    let advanced = upgrading.advance(executor, &upgrade).await;
    upgrading.record(executor, &upgrade, counted_at).await?;
    advanced
}

impl Upgrading {
    fn new(upgrade: &ImageUpgrade) -> Self {
        Self {
            id: upgrade.id.clone(),
            attempt: upgrade.attempt,
            progress: upgrade.progress.clone(),
            image: None,
            recovered: false,
            restarts: Vec::new(),
            waiting: HashSet::new(),
            listed_at: None,
            skipped: HashSet::new(),
            reason: None,
        }
    }

    /// Looks how the restarts have ended, and asks for further ones. What it has counted before a failure stays counted.
    async fn advance(&mut self, executor: &Executor, upgrade: &ImageUpgrade) -> Result<(), Error> {
        let has_settled = self.settle(executor).await;
        let image = self.look_up_image(executor, upgrade).await?;
        let is_fresh = self.listed_at.is_some_and(|at| at.elapsed() < LIST_INTERVAL);
        if is_fresh && !has_settled && !self.restarts.is_empty() {
            return Ok(());
        }
        let listed = InstanceImages::read(executor, &image).await?;
        if !self.recovered {
            self.recover(executor, upgrade, &listed).await?;
            self.recovered = true;
        }
        let ready = self.count(&listed);
        if self.progress.must_stop() {
            let reason = self.reason.as_deref().unwrap_or("see `memgate instance list`");
            self.progress.message = Some(format!(
                "restarts with the new image fail ({reason}): build another with `memgate image build`, then run `memgate \
                 image upgrade --resume`"
            ));
            self.progress.state = UpgradeState::Stopped;
            return Ok(());
        }
        let nothing_waits = self.waiting.is_empty();
        (self.progress.state, self.progress.message) = match (upgrade.wanted, self.restarts.len()) {
            (UpgradeWanted::Paused, 0) => (UpgradeState::Paused, None),
            (UpgradeWanted::Paused | UpgradeWanted::Aborted, _) => (UpgradeState::Running, None),
            (UpgradeWanted::Running, 0) if nothing_waits => (UpgradeState::Done, None),
            (UpgradeWanted::Running, _) => {
                self.begin(executor, ready, self.progress.at_a_time(upgrade.parallel)).await?;
                let waits = self.restarts.is_empty().then(|| {
                    "waiting for instances that don't run now; see `memgate instance list`".to_owned()
                });
                (UpgradeState::Running, waits)
            }
        };
        self.listed_at = Some(Instant::now());
        Ok(())
    }

    /// The id of the image that new containers get. Without one nothing is known to be done.
    async fn look_up_image(&mut self, executor: &Executor, upgrade: &ImageUpgrade) -> Result<String, Error> {
        if self.image.is_none() || executor.images.known_id().is_none() {
            self.progress.message = Some("waiting for the memcached image".to_owned());
            // Said first: a pull may take long.
            self.record(executor, upgrade, now()).await?;
            executor.images.refresh().await?;
        }
        self.image = executor.images.known_id();
        self.image.clone().ok_or(Error::ImageNotReady)
    }

    /// Records what has changed. `counted_at`: what ended before is counted.
    async fn record(
        &self,
        executor: &Executor,
        upgrade: &ImageUpgrade,
        counted_at: Timestamp,
    ) -> Result<(), Error> {
        let it = &self.progress;
        if *it == upgrade.progress {
            return Ok(());
        }
        if it.state != upgrade.progress.state {
            let (state, message) = (it.state.as_str(), it.message.as_deref().unwrap_or_default());
            tracing::info!(done = it.done, total = it.total, message, "image upgrade is {state}");
        }
        let recorded = executor.store.record_image_upgrade(upgrade, it, counted_at);
        Ok(executor.metrics.store.observe("record_upgrade", recorded).await?)
    }

    /// Takes over the restarts that an earlier process has asked for, and counts those that failed since it counted last.
    async fn recover(
        &mut self,
        executor: &Executor,
        upgrade: &ImageUpgrade,
        listed: &InstanceImages,
    ) -> Result<(), Error> {
        let mut by_cache: HashMap<&str, &Instance> = HashMap::new();
        by_cache.extend(listed.instances.values().map(|instance| (instance.cache_id.as_str(), instance)));
        let mut restarts = Vec::new();
        for operation in executor.store.open_operations().await? {
            let Some(instance) = by_cache.get(operation.cache_id.as_str()) else { continue };
            // Asking for a restart of the outdated ones would return this operation as well.
            if operation.kind == OperationKind::Restart
                && (is_own(&operation, upgrade) || listed.outdated.contains(&instance.id))
            {
                restarts.push(Restart::new(instance, operation.id));
            }
        }
        let mut failed = Vec::new();
        if let Some(counted_at) = upgrade.counted_at {
            let has_failed =
                |it: &&&Instance| it.state() == InstanceState::Failed && it.desired == DesiredState::Running;
            for instance in by_cache.values().filter(has_failed) {
                let operations = executor.store.operations_of(&instance.cache_id, OPERATIONS_READ).await?;
                let mut own = operations.into_iter().filter(|it| is_own(it, upgrade));
                let last = own.find(|it| it.finished_at.is_some_and(|at| at >= counted_at));
                failed.extend(last.filter(|it| it.state == OperationState::Failed).map(|it| (*instance, it)));
            }
        }
        for (instance, Operation { id, message, .. }) in failed {
            self.fail(&Restart::new(instance, id), message.as_deref());
        }
        self.restarts = restarts;
        Ok(())
    }

    /// Counts the restarts that have ended. Returns whether any has.
    async fn settle(&mut self, executor: &Executor) -> bool {
        let before = self.restarts.len();
        for restart in std::mem::take(&mut self.restarts) {
            let read = executor.store.operation(&restart.cache, &restart.operation).await;
            match read.map(|operation| operation.map(|it| (it.state, it.message))) {
                // Its cache was deleted meanwhile.
                Ok(None) => self.progress.leave_out(),
                Ok(Some((OperationState::Done, _))) => self.progress.failures_in_row = 0,
                Ok(Some((OperationState::Failed, message))) => {
                    match executor.store.instance(&restart.instance).await {
                        Ok(Some(it)) if it.desired == DesiredState::Running => {
                            self.fail(&restart, message.as_deref());
                        }
                        // It was suspended or deleted before it was restarted.
                        Ok(_) => self.progress.leave_out(),
                        Err(_) => self.restarts.push(restart),
                    }
                }
                Ok(Some((OperationState::Pending | OperationState::Running, _))) | Err(_) => {
                    self.restarts.push(restart);
                }
            }
        }
        self.restarts.len() < before
    }

    fn fail(&mut self, restart: &Restart, message: Option<&str>) {
        self.progress.failed = self.progress.failed.saturating_add(1);
        self.progress.failures_in_row = self.progress.failures_in_row.saturating_add(1);
        self.reason = Some(restart.reason(message));
        self.skipped.insert(restart.instance.clone());
    }

    /// Counts the instances that are left, and returns those that can be restarted now. What is being restarted, or will run
    /// again, is left too.
    fn count(&mut self, listed: &InstanceImages) -> Vec<Instance> {
        let is_busy = |id: &String| self.restarts.iter().any(|restart| restart.instance == *id);
        let waits = |it: &&Instance| {
            it.desired == DesiredState::Running
                && comes_up(it)
                && listed.outdated.contains(&it.id)
                && !self.skipped.contains(&it.id)
                && !is_busy(&it.id)
        };
        let waiting: Vec<&Instance> = listed.instances.values().filter(waits).collect();
        let ids: HashSet<String> = waiting.iter().map(|it| it.id.clone()).collect();
        let ready = waiting.into_iter().filter(|it| it.state() == InstanceState::Running);
        let mut ready: Vec<Instance> = ready.cloned().collect();
        ready.sort_by(|a, b| a.id.cmp(&b.id));
        let is_counted = |id: &&String| ids.contains(*id) || is_busy(id) || self.skipped.contains(*id);
        let gone: Vec<String> = self.waiting.iter().filter(|id| !is_counted(id)).cloned().collect();
        self.waiting = ids;
        for id in gone {
            let instance = listed.instances.get(&id).filter(|it| it.desired == DesiredState::Running);
            match instance.map(Instance::state) {
                // Somebody else restarted it, or will.
                Some(state) if state != InstanceState::Failed && listed.current.contains(&id) => {}
                Some(InstanceState::Failed) => {
                    self.progress.failed = self.progress.failed.saturating_add(1);
                    self.skipped.insert(id);
                }
                // It was suspended or deleted, or its container is gone.
                Some(_) | None => self.progress.leave_out(),
            }
        }
        self.progress.count(self.waiting.len().saturating_add(self.restarts.len()));
        ready
    }

    /// Asks for restarts until as many as may be are on their way.
    async fn begin(
        &mut self,
        executor: &Executor,
        ready: Vec<Instance>,
        at_a_time: usize,
    ) -> Result<(), Error> {
        for instance in ready {
            if self.restarts.len() >= at_a_time {
                break;
            }
            match executor.store.request_operation(&instance.cache_id, NewOperation::Restart).await {
                Ok(operation) => {
                    self.waiting.remove(&instance.id);
                    self.restarts.push(Restart::new(&instance, operation.id));
                }
                // It was suspended or deleted just now: the next list shows it.
                Err(StoreError::Operation(_) | StoreError::NotFound(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Whether it runs, or will without anybody's help.
fn comes_up(instance: &Instance) -> bool {
    use InstanceState::{Pending, Restarting, Running};
    matches!(instance.state(), Running | Restarting | Pending)
}

/// Whether an upgrade, or an operator beside it, has asked for this restart.
fn is_own(operation: &Operation, upgrade: &ImageUpgrade) -> bool {
    operation.kind == OperationKind::Restart
        && operation.requested_by == ACTOR
        && operation.created_at >= upgrade.created_at
}

impl InstanceImages {
    /// Reads the store: what is known of it may be old, or nothing yet.
    async fn read(executor: &Executor, image: &str) -> Result<Self, Error> {
        let containers = executor.docker.containers().await?.into_iter().filter(|it| !it.is_holder);
        let instances = executor.metrics.store.observe("read_instances", executor.store.instances()).await?;
        let (current, outdated): (Vec<_>, Vec<_>) = containers.partition(|it| it.image == image);
        Ok(Self {
            instances: instances.into_iter().map(|it| (it.id.clone(), it)).collect(),
            outdated: outdated.into_iter().map(|it| it.instance).collect(),
            current: current.into_iter().map(|it| it.instance).collect(),
        })
    }
}

impl Restart {
    fn new(instance: &Instance, operation: String) -> Self {
        let Instance { id, cache_id, cache, .. } = instance.clone();
        Self { instance: id, cache: cache_id, cache_name: cache, operation }
    }

    /// Why it has failed, without the hint for its owner.
    fn reason(&self, message: Option<&str>) -> String {
        let what = message.and_then(|message| message.split(": ").next()).unwrap_or("see the log");
        format!("{what}, cache {}", self.cache_name).chars().take(REASON_MAX).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::{instance, route};

    fn upgrading() -> Upgrading {
        Upgrading::new(&ImageUpgrade {
            id: "one".into(),
            wanted: UpgradeWanted::Running,
            parallel: 2,
            attempt: 1,
            requested_by: ACTOR.into(),
            created_at: Timestamp::EPOCH,
            counted_at: None,
            progress: UpgradeProgress::default(),
        })
    }

    /// Instances with their states, and whether their containers have another image than new ones get; `None` for no container.
    fn listed(all: &[(&str, DesiredState, InstanceState, Option<bool>)]) -> InstanceImages {
        let has =
            |outdated| move |it: &&(&str, DesiredState, InstanceState, Option<bool>)| it.3 == Some(outdated);
        let named = |(id, desired, state, _): &(&str, DesiredState, InstanceState, Option<bool>)| {
            ((*id).to_owned(), Instance { id: (*id).to_owned(), ..instance(*desired, route(*state, 1)) })
        };
        InstanceImages {
            instances: all.iter().map(named).collect(),
            outdated: all.iter().filter(has(true)).map(|it| it.0.to_owned()).collect(),
            current: all.iter().filter(has(false)).map(|it| it.0.to_owned()).collect(),
        }
    }

    //
    #[test]
    fn only_what_has_the_new_image_is_done() {
        use DesiredState::{Running as On, Suspended as Off};
        use InstanceState::{Failed, Restarting, Running, Suspended};
        let mut upgrading = upgrading();
        let all = ["a", "b", "c", "d", "e"].map(|id| (id, On, Running, Some(true)));
        assert_eq!(upgrading.count(&listed(&all)).len(), 5);
        let ready = upgrading.count(&listed(&[
            ("a", On, Running, Some(false)),
            ("b", On, Restarting, Some(true)),
            ("c", Off, Suspended, None),
            ("d", On, Failed, Some(true)),
        ]));
        let it = &upgrading.progress;
        assert!(ready.is_empty() && upgrading.waiting.contains("b"), "it comes back");
        assert_eq!((it.total, it.done, it.failed), (3, 1, 1), "c was suspended, e deleted");
        // What is being restarted is left, whatever its container has.
        let mut upgrading = self::upgrading();
        upgrading.restarts = vec![Restart::new(&instance(On, None), "operation".into())];
        upgrading.count(&listed(&[("one", On, Restarting, Some(false))]));
        let it = &upgrading.progress;
        assert_eq!((it.total, it.done, it.failed), (1, 0, 0));
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
