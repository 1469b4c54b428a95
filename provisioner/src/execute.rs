//! The executor: carries out the plan for one instance, and records the observed state.

mod adopt;
mod concurrency;
mod contents;
mod create;
mod network;
mod operations;
mod pool;
mod read;
mod record;
mod reserve;
mod resize;
mod restrictions;
mod shrink;
mod warm;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use store::{DesiredState, Instance, LaneKey, Operation, OperationKind, Store};
use tokio::sync::{Mutex, OwnedSemaphorePermit};
use tokio::time::{Instant, timeout};

use crate::activity::Activity;
use crate::capacity::Capacity;
use crate::docker::{Docker, copy_timeout};
use crate::error::Error;
use crate::firewall::Firewall;
use crate::history::History;
use crate::image::ImageCache;
use crate::known_instances::KnownInstances;
use crate::limits::Limits;
use crate::liveness::Silence;
use crate::metrics::Metrics;
use crate::names::{MemorySlot, Names, is_instance_id};
use crate::networks::Networks;
use crate::plan::{self, Action, Container, ContainerState, plan};
use crate::secrets::SecretChecks;
use crate::spec::Spec;
use crate::work_queue;

pub(crate) use concurrency::Concurrency;
use concurrency::Held;
use contents::{Copies, held_instances};
use operations::Outcome;
pub(crate) use pool::Pool;
pub(crate) use record::log_failure;
use restrictions::Restrictions;
use shrink::Shrinking;
use warm::Stopped;

/// Time limit of the work on one instance, whose requests to Docker have limits of their own, without a copy of its contents.
const RECONCILE_TIMEOUT: Duration = Duration::from_mins(5);
/// How long a repair waits for the store before it goes on without it.
const STORE_TIMEOUT: Duration = Duration::from_secs(1);

/// Carries out plans. Shared by all tasks.
#[derive(Debug)]
pub(crate) struct Executor {
    pub(crate) names: Names,
    pub(crate) docker: Arc<Docker>,
    pub(crate) store: Store,
    pub(crate) lane_key: LaneKey,
    pub(crate) metrics: Metrics,
    pub(crate) images: ImageCache,
    pub(crate) networks: Networks,
    pub(crate) firewall: Firewall,
    pub(crate) address_cooldown: Duration,
    /// CPUs of one instance at most; zero for no such limit.
    pub(crate) cpus: f64,
    /// The longest time between two checks of an instance's isolation.
    pub(crate) isolation_interval: Duration,
    /// Threads of one memcached.
    pub(crate) threads: u32,
    pub(crate) concurrency: Concurrency,
    pub(crate) capacity: Capacity,
    pub(crate) history: History,
    pub(crate) known: KnownInstances,
    /// How long metered hours are kept.
    pub(crate) usage_kept: Duration,
    pub(crate) activity: Activity,
    pub(crate) secrets: SecretChecks,
    pub(crate) observations: Observations,
    pub(crate) pool: Pool,
}

/// What is known about containers beside Docker's view.
#[derive(Debug, Default)]
pub(crate) struct Observations {
    /// Health checks without an answer, by container.
    silences: Mutex<HashMap<String, Silence>>,
    /// Containers whose limits Docker didn't restore: there is no use in trying again.
    stubborn: Mutex<HashSet<String>>,
    /// Resizes that take longer than one slice, by container.
    shrinking: Mutex<HashMap<String, Shrinking>>,
    copies: Copies,
    inspected: AtomicUsize,
    /// Counts isolation checks, each of which tries to reach other instances.
    isolation_checks: AtomicUsize,
    /// What Docker says of containers' restrictions.
    pub(crate) restrictions: Restrictions,
    passes: AtomicUsize,
    wants_full_pass: AtomicBool,
}

/// Of so many passes over all instances one is full, and each that something asks for. The others read containers only:
/// Docker tells of changes of everything else.
const FULL_PASS_EVERY: usize = 5;

impl Observations {
    /// Where the next inspection of `count` out of `total` containers begins.
    pub(crate) fn next_inspected(&self, total: usize, count: usize) -> usize {
        let begin = self.inspected.fetch_add(count, Ordering::Relaxed);
        if total > count { begin % total } else { 0 }
    }

    /// Which of `total` other instances an isolation check tries first.
    pub(crate) fn next_sibling(&self, total: usize) -> usize {
        self.isolation_checks.fetch_add(1, Ordering::Relaxed).checked_rem(total).unwrap_or(0)
    }

    /// Makes the next pass a full one.
    pub(crate) fn want_full_pass(&self) {
        self.wants_full_pass.store(true, Ordering::Relaxed);
    }

    /// Begins a pass. Returns whether it is a full one.
    pub(crate) fn begin_pass(&self) -> bool {
        let number = self.passes.fetch_add(1, Ordering::Relaxed);
        self.wants_full_pass.swap(false, Ordering::Relaxed) || number.is_multiple_of(FULL_PASS_EVERY)
    }
}

/// An instance, what was asked of it, its containers, and what is to be done.
struct Situation {
    instance: Instance,
    /// Its unfinished operations.
    asked: Vec<Operation>,
    containers: Vec<Container>,
    actions: Vec<Action>,
    /// Why the store couldn't be read, so that the instance is the one that was read last.
    store_error: Option<Error>,
    /// Why it keeps the memory that it has: there is no room for more, or no turn, or copies have failed.
    no_room: Option<Error>,
    /// How its resize ended.
    resized: OnceLock<Outcome>,
    /// What became of its contents, if its memcached was stopped on purpose.
    stopped: OnceLock<Stopped>,
    /// Its turn to have its contents copied, if they are.
    turn: Option<OwnedSemaphorePermit>,
    /// Where its next container's memory is, once that is prepared.
    memory: OnceLock<MemorySlot>,
    /// How many times in a row the work on it has failed.
    failures: u32,
}

impl Situation {
    /// Whether a resize that was asked for goes on. Without an operation, which counts its slices, that waits for the next
    /// resync.
    fn is_resizing(&self) -> bool {
        self.resized.get() == Some(&Outcome::Unfinished)
            && self.asked.iter().any(|operation| operation.kind == OperationKind::Resize)
    }

    fn needs_no_store(&self) -> bool {
        plan::needs_no_store(&self.actions)
    }

    /// Whether the container was removed by hand, so that it can be made again as it was: at its recorded address, which
    /// is leased to it still, with its recorded generation, so that proxies need no new route.
    fn can_be_made_again(&self) -> bool {
        let recorded = |route: &store::Route| {
            route.generation > 0 && route.address.is_some() && route.container.is_some()
        };
        self.containers.iter().all(|container| container.state == ContainerState::Removing)
            && self.instance.desired == DesiredState::Running
            && self.instance.route.as_ref().is_some_and(recorded)
            && self.actions.iter().any(|action| matches!(action, Action::Create { .. }))
    }
}

impl Executor {
    /// Brings one instance to its desired state. `failures`: how many times in a row that has failed.
    pub(crate) async fn reconcile_one(&self, id: &str, failures: u32) -> Result<work_queue::Outcome, Error> {
        let started = Instant::now();
        let work = self.converge(id, failures);
        let late = || Error::DockerDown("the work on a cache took too long".into());
        let result = timeout(self.reconcile_timeout(id), work).await.unwrap_or_else(|_| Err(late()));
        self.metrics.reconcile.observe(started.elapsed().as_secs_f64());
        if let Err(error) = &result {
            if matches!(error, Error::NoMemory) {
                // What was made ahead makes room.
                self.pool.note_change();
            }
            self.record_failure(id, error, failures).await;
        }
        result
    }

    /// The copy of a large cache alone may take longer than all other work.
    fn reconcile_timeout(&self, id: &str) -> Duration {
        let warm = self.known.get(id).and_then(|it| Spec::of(&it).ok()).filter(Spec::is_warm);
        let bytes = warm.map_or(0, |spec| u64::try_from(spec.memory_mb() << 20).unwrap_or(0));
        RECONCILE_TIMEOUT + copy_timeout(bytes)
    }

    async fn converge(&self, id: &str, failures: u32) -> Result<work_queue::Outcome, Error> {
        use work_queue::Outcome::{Done, Unfinished};
        let mut held = self.concurrency.begin().await;
        let Some(mut situation) = self.observe(id, failures).await? else { return Ok(Done) };
        self.reserve_memory(&mut situation).await?;
        if situation.actions.iter().any(plan::changes_docker) {
            held.write_permit = self.concurrency.write_permits.try_acquire().ok();
            if held.write_permit.is_none() {
                // Proxies learn the new state while this waits; afterwards the plan may be another.
                for action in &situation.actions {
                    if let Action::SetState(state, message) = action {
                        let _ = self.mark(&situation.instance, *state, *message).await;
                    }
                }
                held.write_permit = self.concurrency.write_permits.acquire().await.ok();
                let Some(observed) = self.observe(id, failures).await? else { return Ok(Done) };
                situation = Situation { turn: situation.turn.take(), ..observed };
                self.reserve_memory(&mut situation).await?;
            }
        }
        self.begin_record(&situation).await;
        self.carry_out(&situation, held).await?;
        self.observations.copies.complete(id, situation.turn.is_some());
        // What was read last may be out of date: this isn't done before the store was read.
        let outcome = if situation.is_resizing() { Unfinished } else { Done };
        // After copies that have failed it waits for nothing.
        let no_room = situation.no_room.filter(|error| !matches!(error, Error::NotCopied(_)));
        situation.store_error.or(no_room).map_or(Ok(outcome), Err)
    }

    async fn carry_out<'a>(&'a self, situation: &Situation, mut held: Held<'a>) -> Result<(), Error> {
        for (number, action) in situation.actions.iter().enumerate() {
            held.prepare_for(situation.actions.iter().skip(number), &self.concurrency).await;
            if matches!(action, Action::Create { .. }) && situation.turn.is_some() {
                // A copy takes long, and concerns neither networks nor other instances: their work goes on.
                drop(held);
                self.prepare_memory(situation).await?;
                held = self.concurrency.go_on().await;
            }
            let mut result = self.execute(situation, action).await;
            self.metrics.count_action(action, result.is_ok());
            match (action, result) {
                (Action::SetState(..), Err(Error::Store(_))) if situation.needs_no_store() => result = Ok(()),
                (Action::SetState(..), Err(Error::Store(_))) if situation.can_be_made_again() => {
                    return self.make_again(situation).await;
                }
                (Action::Start(container) | Action::Restart(container), Err(error))
                    if error.is_address_in_use() =>
                {
                    result = Err(self.release_address_of(situation, container, error).await?);
                }
                (Action::Attach(container), Err(error)) if error.is_address_in_use() => {
                    let why = self.release_address_of(situation, container, error).await?;
                    if matches!(why, Error::AddressTaken { .. }) {
                        self.history.lose_contents(&situation.instance.id);
                        self.remove(&container.id).await?;
                    }
                    result = Err(why);
                }
                (Action::Probe(container), Err(error @ Error::Unreachable { .. })) => {
                    self.reattach(container, situation.failures).await;
                    result = Err(error);
                }
                (_, other) => result = other,
            }
            result?;
        }
        drop(held);
        Ok(())
    }

    /// Reads an instance and its containers, and plans. Refuses plans that may do harm: those that would replace a
    /// container because this process has the wrong key, and those that need the store while it is away.
    async fn observe(&self, id: &str, failures: u32) -> Result<Option<Situation>, Error> {
        // A container without a row is left to the resync, which removes orphans after a while.
        let Some((instance, asked, store_error)) = self.read_wanted(id).await? else { return Ok(None) };
        if !is_instance_id(id) {
            return Err(Error::InvalidInstance("its id isn't one that memgate makes"));
        }
        let _permit = self.concurrency.read_permits.acquire().await;
        let mut containers = self.docker.containers_of(id).await?;
        self.assess(&mut containers, |_| Spec::of(&instance).ok()).await;
        let actions = plan(&instance, &asked, &containers, failures);
        let situation = Situation {
            instance,
            asked,
            containers,
            actions,
            store_error,
            no_room: None,
            resized: OnceLock::new(),
            stopped: OnceLock::new(),
            turn: None,
            memory: OnceLock::new(),
            failures,
        };
        if situation.needs_no_store() {
            return Ok(Some(situation));
        }
        if situation.instance.desired == DesiredState::Running {
            self.check_secrets()?;
        }
        match situation.store_error {
            Some(error) if !situation.can_be_made_again() => Err(error),
            _ => Ok(Some(situation)),
        }
    }

    /// Adds what is known about containers beside Docker's view. `spec`: what a container's instance is to have.
    pub(crate) async fn assess(
        &self,
        containers: &mut [Container],
        spec: impl Fn(&Container) -> Option<Spec>,
    ) {
        let image = self.images.known_id();
        let (silences, now) = (self.observations.silences.lock().await, Instant::now());
        let stubborn = self.observations.stubborn.lock().await;
        self.observations.restrictions.assess(containers, now);
        let held = held_instances(containers);
        for container in containers {
            container.outdated = image.as_ref().is_some_and(|image| *image != container.image);
            let take_back = self.time_to_take_back(container).filter(|_| held.contains(&container.instance));
            let silence = silences.get(&container.id);
            container.hung = silence.is_some_and(|silence| silence.proves_hung(now, take_back));
            let spec = spec(container);
            let sleep_after = self.known.get(&container.instance).and_then(|it| it.sleep_after());
            container.idle = sleep_after.is_some_and(|time| self.activity.is_idle(&container.id, time, now));
            container.limits_differ =
                !stubborn.contains(&container.id) && self.limits_differ(container, spec);
            if let (Some(ended), Some(end)) = (&mut container.ended, self.history.end_of(&container.id)) {
                ended.out_of_memory |= end.out_of_memory;
                ended.by_itself = end.exit_code.is_some() && !end.was_signalled;
            }
        }
    }

    /// MiB that an instance has reserved of `wanted`: less, while it waits for room.
    pub(crate) fn held_memory_mb(&self, instance: &str, wanted: i64) -> i64 {
        let held = self.capacity.reserved_bytes(instance).zip(self.known.get(instance));
        let held = held.and_then(|(bytes, known)| Some(Spec::of(&known).ok()?.memory_mb_within(bytes)));
        held.map_or(wanted, |held| wanted.min(held.max(1)))
    }

    /// What a container's instance is to have, as far as that is known.
    pub(crate) fn spec_of(&self, container: &Container) -> Option<Spec> {
        self.known.get(&container.instance).and_then(|instance| Spec::of(&instance).ok())
    }

    pub(crate) fn limits_differ(&self, container: &Container, spec: Option<Spec>) -> bool {
        // A holder has less than the memcached whose memory it keeps.
        let label = Spec::from_label(&container.spec).filter(|_| !container.is_holder);
        // Of one that will be replaced, the limits that it was created with count.
        let resized = spec.filter(|spec| label.is_some_and(|label| spec.is_resize_of(&label)));
        let wanted = resized.or(label).map(|spec| Limits::wanted(&spec, self.cpus));
        let differs = |limits: &Limits| wanted.is_some_and(|wanted| !limits.are(&wanted, &all_cpus()));
        container.limits.as_ref().is_some_and(differs)
    }

    async fn execute(&self, situation: &Situation, action: &Action) -> Result<(), Error> {
        let instance = &situation.instance;
        if plan::starts_container(action) {
            self.firewall.require()?;
        }
        if let Action::Start(container) | Action::Restart(container) = action {
            // What was silent then is another process.
            self.observations.silences.lock().await.remove(&container.id);
        }
        match action {
            Action::SetState(state, message) => self.mark(instance, *state, *message).await,
            Action::Probe(container) => self.adopt(instance, container).await,
            Action::Start(container) => self.start(container).await,
            Action::Unpause(container) => self.docker.unpause(&container.id).await,
            Action::Attach(container) => self.attach(container).await,
            Action::Detach(container) => self.detach(container).await,
            Action::RestoreLimits(container) => self.restore_limits(instance, container).await,
            Action::Begin(operation, checkpoint) => self.begin(operation, checkpoint).await,
            Action::Keep(container) => self.prepare_stop(situation, container).await,
            Action::Restart(container) => self.restart(situation, container).await,
            Action::Stop(container) => self.save(situation, container).await,
            Action::Sleep(container) => self.put_to_sleep(situation, container).await,
            Action::Flush(container) => self.flush(container).await,
            Action::Resize(container) => self.resize(situation, container).await,
            Action::Finish(operation) => self.finish(situation, operation).await,
            Action::Abandon(operation, why) => self.abandon(operation, why).await,
            Action::Remove(container) => {
                self.drop_unclean_memory(situation, container).await?;
                self.remove(container).await
            }
            Action::Create { .. } if situation.store_error.is_some() => self.make_again(situation).await,
            Action::Create { generation } => self.create(situation, *generation).await,
            Action::TearDown(state) => self.tear_down(instance, *state).await,
        }
    }

    /// Removes a container. What it answered says nothing about the others' secrets any more.
    async fn remove(&self, container: &str) -> Result<(), Error> {
        self.secrets.forget(container);
        self.docker.remove_container(container).await.map(drop)
    }

    /// Forgets what exists no more. How a container ended is known until another is recorded. `read_at`: when the read began.
    pub(crate) async fn forget_removed(
        &self,
        instances: &HashSet<String>,
        containers: &HashSet<&str>,
        recorded: &HashSet<&str>,
        read_at: Instant,
    ) {
        self.capacity.retain(instances, read_at);
        self.observations.copies.retain(instances);
        self.history.retain(instances, &(containers | recorded));
        self.secrets.retain(containers);
        self.activity.retain(containers);
        let exists = |id: &String| containers.contains(id.as_str());
        self.observations.silences.lock().await.retain(|id, _| exists(id));
        self.observations.shrinking.lock().await.retain(|id, _| exists(id));
        self.observations.stubborn.lock().await.retain(exists);
        self.observations.restrictions.retain(exists);
    }

    /// Forgets what another provisioner may have changed since.
    pub(crate) async fn reset(&self) {
        self.capacity.reset().await;
        self.known.reset();
        self.secrets.reset();
        self.observations.restrictions.reset();
        self.observations.want_full_pass();
    }

    /// Restores the image and the networks: something that a container needs was removed by hand.
    async fn restore_dependencies(&self) -> Result<(), Error> {
        self.images.refresh_unless_busy().await?;
        let networks = self.docker.networks().await?;
        self.networks.ensure(&networks).await
    }
}

/// The CPUs of this machine, like `0-3`.
fn all_cpus() -> String {
    std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default().trim().to_owned()
}
