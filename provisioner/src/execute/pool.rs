//! Instances that are made ahead (provisioner.ready_instances), so that a sign-up doesn't wait for a container: each is one
//! of the default plan that runs, for the id of an instance that doesn't exist yet. Who creates an instance takes one by its
//! id, and the reconciler then finds its container as it finds any other.
//!
//! None is reachable before: no route leads to it, the firewall lets root and the proxy only reach it, and it has a secret
//! that is derived from its id. In its memcached is a mark that says that nobody has had it. Taking it removes the mark, so
//! that a container is given away once, whatever the store says: one that was restored from a backup may offer it again. Of one
//! that its user has hijacked, that isn't sure.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use store::{DEFAULT_PLAN, DesiredState, Instance, InstanceMemory, Plan, ReadyInstance, now};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::Executor;
use crate::error::Error;
use crate::liveness::Health;
use crate::memcached::Memcached;
use crate::names::is_instance_id;
use crate::plan::{Container, ContainerState};
use crate::spec::Spec;

/// Instances that are made ahead at a time. Those that somebody waits for come first.
const MAKING_MAX: usize = 2;
/// Time between two attempts to fill the pool.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// The same after one that failed, as while the image is built.
const FAILURE_BACKOFF: Duration = Duration::from_secs(3);
/// Time between two attempts to remove one that can't be removed: each locks the store's revision, which sign-ups need.
const WITHDRAW_INTERVAL: Duration = Duration::from_secs(10);
/// The pool isn't filled with less room than for so many of its instances: what users ask for comes first.
const ROOM_MIN: i64 = 4;
/// The key of the mark: no client has it in its cache, since taking the instance removes it.
const MARK: &str = "memgate-nobody-has-had-this";
/// The generation of all that are made ahead: they are their instances' first containers.
const GENERATION: i64 = 1;

/// The pool's size, and what wakes its keeper.
#[derive(Debug)]
pub(crate) struct Pool {
    size: usize,
    changed: Notify,
}

impl Pool {
    pub(crate) fn new(size: usize) -> Self {
        Self { size, changed: Notify::new() }
    }

    /// Says that one may have been taken or lost.
    pub(crate) fn note_change(&self) {
        self.changed.notify_one();
    }
}

impl Executor {
    /// Keeps the pool full until it is dropped. It begins after the first resync.
    pub(crate) async fn keep_pool(&self) {
        let mut failures = WithdrawFailures::default();
        loop {
            self.pool.changed.notified().await;
            loop {
                match self.fill_pool(&mut failures).await {
                    // Without memory, the next resync tries again.
                    Ok(true) | Err(Error::NoMemory) => break,
                    Ok(false) => sleep(RETRY_INTERVAL).await,
                    Err(error) => {
                        tracing::debug!(%error, "the pool of ready instances can't be filled now");
                        sleep(FAILURE_BACKOFF).await;
                    }
                }
            }
        }
    }

    /// Withdraws what isn't to be there, and makes some of what is missing. Returns whether that was all.
    async fn fill_pool(&self, failures: &mut WithdrawFailures) -> Result<bool, Error> {
        if self.known.is_store_away() {
            return Ok(true);
        }
        self.store.forget_taken_instances().await?;
        // A warm one has memory of its own, which is made with its instance.
        let plan = self.store.plan(DEFAULT_PLAN).await?.filter(|plan| !plan.warm);
        let is_waited_for = self.capacity.waiting() > 0;
        let mut kept = 0;
        // Only this makes some, so that those that aren't ready are left from an attempt that failed.
        let all = self.store.ready_instances().await?;
        failures.retain(&all);
        for ready in all {
            let fits = plan.as_ref().is_some_and(|plan| has_size_of(&ready, plan));
            if fits && ready.ready_at.is_some() && kept < self.pool.size && !is_waited_for {
                kept += 1;
                continue;
            }
            if !failures.is_due(&ready.id, Instant::now()) {
                continue;
            }
            match self.withdraw(&ready.id).await {
                Ok(()) => {}
                Err(error) if !concerns_one(&error) => return Err(error),
                // Something of an operator's may use its volume for long. A later resync tries again; the others don't wait.
                Err(error) => {
                    if failures.note(&ready.id, Instant::now()) {
                        tracing::warn!(instance = ready.id, %error, "a ready instance can't be removed: trying again");
                    }
                }
            }
        }
        self.make_missing(plan, kept, is_waited_for).await
    }

    /// Makes some of what is missing beside those that are kept. Returns whether that was all.
    async fn make_missing(
        &self,
        plan: Option<Plan>,
        kept: usize,
        is_waited_for: bool,
    ) -> Result<bool, Error> {
        self.metrics.ready.set(i64::try_from(kept).unwrap_or(i64::MAX));
        let missing = self.pool.size.saturating_sub(kept);
        let Some(plan) = plan.filter(|_| missing > 0 && !is_waited_for) else { return Ok(true) };
        let made = stream::iter(0..missing.min(MAKING_MAX)).map(|_| self.make_ahead(&plan));
        let made: Vec<Result<bool, Error>> = made.buffer_unordered(MAKING_MAX).collect().await;
        let mut is_full = missing <= MAKING_MAX;
        for one in made {
            is_full &= one?;
        }
        if is_full {
            self.metrics.ready.set(i64::try_from(self.pool.size).unwrap_or(i64::MAX));
        }
        Ok(is_full)
    }

    /// Makes one, unless somebody else needs Docker or the memory. Returns whether it did.
    async fn make_ahead(&self, plan: &Plan) -> Result<bool, Error> {
        let _networks = self.concurrency.networks.read().await;
        let Ok(_permit) = self.concurrency.write_permits.try_acquire() else { return Ok(false) };
        self.firewall.require()?;
        self.check_secrets()?;
        let size = InstanceMemory::new(plan.memory_mb, plan.connections, plan.item_size_max).limit();
        let in_use = async { Ok(self.memory_in_use(&self.docker.containers().await?)) };
        self.capacity.count_existing(in_use).await?;
        if self.capacity.free() < size.saturating_mul(ROOM_MIN) {
            return Err(Error::NoMemory);
        }
        let ready =
            self.store.begin_ready_instance(plan.memory_mb, plan.connections, plan.item_size_max).await?;
        let instance = instance_of(&ready, plan);
        let made = self.make_and_offer(&instance).await;
        if made.is_err() {
            self.withdraw(&instance.id).await?;
        }
        made
    }

    async fn make_and_offer(&self, instance: &Instance) -> Result<bool, Error> {
        let bytes = Spec::of(instance).map_err(Error::InvalidInstance)?.memory_limit();
        self.capacity.reserve(&instance.id, bytes)?;
        let made = self.make(instance, GENERATION, None, (0, true)).await?;
        let no_answer = || Error::NoAnswer { address: made.address.clone() };
        let ip = made.address.parse().map_err(|_| no_answer())?;
        let credential = self.lane_key.credential(&instance.id, GENERATION);
        let marked = async {
            let mut memcached = Memcached::connect(ip, &credential).await?;
            memcached.request(&format!("ms {MARK} 1\r\n1")).await
        };
        if marked.await.ok().as_deref() != Some("HD") {
            return Err(no_answer());
        }
        self.store.offer_ready_instance(&instance.id).await?;
        Ok(true)
    }

    /// Removes one that nobody has taken, with everything of it. What a crash leaves of that is withdrawn again.
    async fn withdraw(&self, id: &str) -> Result<(), Error> {
        if !self.store.withdraw_ready_instance(id).await? {
            return Ok(());
        }
        // With SQLite a less privileged role may have written any id, which would become part of a request's path.
        if is_instance_id(id) {
            for container in self.docker.containers_of(id).await? {
                self.remove(&container.id).await?;
            }
            self.capacity.release(id);
            self.docker.remove_volumes_of(id).await?;
            self.store.release_address(id).await?;
        }
        Ok(self.store.forget_withdrawn_instance(id).await?)
    }

    /// Withdraws those whose containers aren't as they were made. What there is beyond the pool's size its keeper withdraws.
    pub(crate) async fn check_pool(
        &self,
        pool: &[ReadyInstance],
        containers: &[Container],
    ) -> Result<(), Error> {
        for ready in pool.iter().filter(|ready| ready.ready_at.is_some()).take(self.pool.size) {
            let own = containers.iter().find(|container| container.instance == ready.id);
            let is_well = match own {
                Some(it) => {
                    it.state == ContainerState::Running && it.attached && !it.outdated && it.made_ahead && {
                        let target = (it.id.as_str(), it.generation, it.address.as_str());
                        matches!(self.check_container(&ready.id, target).await, Health::Healthy(_))
                    }
                }
                None => false,
            };
            if !is_well {
                tracing::info!(instance = ready.id, "a ready instance isn't as it was made: withdrawn");
                let withdrawn = self.withdraw(&ready.id).await;
                // The pool's keeper tries it again.
                withdrawn.or_else(|error| if concerns_one(&error) { Ok(()) } else { Err(error) })?;
            }
        }
        Ok(())
    }

    /// Whether nobody has stored anything in a container.
    pub(super) async fn is_untouched(&self, container: &Container) -> bool {
        let looked = async {
            let mut memcached = self.connect(container).await.ok()?;
            let figures = memcached.statistics("").await.ok()?;
            let is_zero =
                |name: &str| figures.iter().any(|(found, value)| found == name && value.as_str() == "0");
            Some(is_zero("cmd_set") && is_zero("curr_items"))
        };
        looked.await.unwrap_or(false)
    }

    /// Takes the mark out of a container that was made ahead. Returns whether nobody has had it before: the mark is there,
    /// and was all that anyone ever stored.
    pub(super) async fn take(&self, container: &Container) -> bool {
        self.pool.note_change();
        let taken = async {
            let mut memcached = self.connect(container).await.ok()?;
            let figures = memcached.statistics("").await.ok()?;
            let sets = figures.iter().find(|(name, _)| name == "cmd_set").map(|(_, value)| value.as_str());
            let removed = memcached.request(&format!("md {MARK}")).await.ok()?;
            Some(sets == Some("1") && removed == "HD")
        };
        taken.await.unwrap_or(false)
    }
}

/// When those that can't be removed were last tried.
#[derive(Debug, Default)]
struct WithdrawFailures(HashMap<String, Instant>);

impl WithdrawFailures {
    /// Forgets those that exist no more.
    fn retain(&mut self, existing: &[ReadyInstance]) {
        self.0.retain(|id, _| existing.iter().any(|ready| ready.id == *id));
    }

    /// Whether it is time to try one.
    fn is_due(&self, id: &str, now: Instant) -> bool {
        self.0.get(id).is_none_or(|tried_at| now.duration_since(*tried_at) >= WITHDRAW_INTERVAL)
    }

    /// Notes that one can't be removed. Returns whether that is news.
    fn note(&mut self, id: &str, now: Instant) -> bool {
        self.0.insert(id.to_owned(), now).is_none()
    }
}

/// Whether the others may be withdrawn in spite of an error.
fn concerns_one(error: &Error) -> bool {
    !matches!(error, Error::Store(_) | Error::DockerDown(_))
}

fn has_size_of(ready: &ReadyInstance, plan: &Plan) -> bool {
    ready.memory_mb == plan.memory_mb
        && ready.connections == plan.connections
        && ready.item_size_max == plan.item_size_max
}

/// The instance that one is made for.
fn instance_of(ready: &ReadyInstance, plan: &Plan) -> Instance {
    Instance {
        id: ready.id.clone(),
        cache_id: String::new(),
        cache: String::new(),
        user_id: String::new(),
        memory_mb: ready.memory_mb,
        connections: ready.connections,
        item_size_max: ready.item_size_max,
        warm: false,
        effective_sleep_after_seconds: None,
        wake_requested: false,
        cpu_weight: plan.cpu_weight,
        desired: DesiredState::Running,
        created_at: now(),
        route: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_cannot_be_removed_is_tried_now_and_then() {
        let ready = |id: &str| ReadyInstance {
            id: id.into(),
            memory_mb: 64,
            connections: 7,
            item_size_max: 1 << 20,
            ready_at: None,
        };
        let (mut failures, begin) = (WithdrawFailures::default(), Instant::now());
        let after = |seconds| begin + Duration::from_secs(seconds);
        assert!(failures.is_due("a", begin));
        assert!(failures.note("a", begin), "news");
        assert!(!failures.is_due("a", after(9)) && failures.is_due("b", after(9)));
        assert!(failures.is_due("a", after(10)));
        assert!(!failures.note("a", after(10)), "logged once");
        assert!(!failures.is_due("a", after(11)));
        failures.retain(&[ready("a")]);
        assert_eq!(failures.0.len(), 1);
        failures.retain(&[ready("b")]);
        assert_eq!(failures.0.len(), 0);
    }
}
