//! The reconciler: decides when each instance is worked on. Events and resyncs fill the work queue; tasks
//! empty it, many at a time but never two for one instance, so that a new instance waits neither for a resync
//! nor for other instances.

use std::collections::{BTreeSet, HashMap};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use daemon::Shutdown;
use daemon::health::Health;
use store::{Instance, InstanceState, LeaderLock, Network, Operation};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::conditions::Conditions;
use crate::desired::Desired;
use crate::docker::{Change, DockerEvent, Foreign};
use crate::error::Error;
use crate::events::Event;
use crate::execute::{Executor, log_failure};
use crate::firewall::Checked;
use crate::followers;
use crate::leadership::{Leadership, check_leadership};
use crate::resync::{ResyncReport, resync};
use crate::work_queue::{Outcome, WorkQueue};

/// Instances in work at a time. Most of them wait for a write permit, already marked as restarting.
const TASKS_MAX: usize = 512;
/// Events that wait to be read.
const EVENT_QUEUE_MAX: usize = 1_024;
/// Delay of the resync after an event: events come in bursts, and one resync serves a whole burst.
const RESYNC_DELAY: Duration = Duration::from_millis(100);
/// Delay of the next resync after a failed one.
const RESYNC_RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// A resync that takes longer has a slow Docker behind it.
const SLOW_RESYNC: Duration = Duration::from_secs(5);
/// Time between two attempts to make a broken network again.
const REMAKE_INTERVAL: Duration = Duration::from_secs(5);
/// How long it waits for the store to take the record of the last repairs.
const HISTORY_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the shutdown waits for work in progress. What is interrupted is continued at the next start.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// Interval at which an idle reconciler shows that it isn't stuck.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Why the reconciler ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Shutdown,
    /// Another provisioner may lead now.
    LostLeadership,
    /// A task panicked: the reconciler's state may be wrong, so it starts again.
    Panicked,
}

#[derive(Debug)]
enum TaskResult {
    Reconciled { id: String, failures: u32, result: Result<Outcome, Error> },
    Resynced(Result<ResyncReport, Error>, Duration),
    ImageRefreshed(Result<(), Error>),
    NetworksRemade(Result<(), Error>),
}

struct Reconciler {
    executor: Arc<Executor>,
    resync_interval: Duration,
    /// Asks for a check of the leadership before its time.
    check_now: Arc<Notify>,
    queue: WorkQueue,
    tasks: JoinSet<TaskResult>,
    conditions: Conditions,
    desired: HashMap<String, Desired>,
    /// Instances that can't be started.
    failed: BTreeSet<String>,
    instance_by_container: HashMap<String, String>,
    /// What claims to be the installation's and isn't; each is logged once.
    foreign: BTreeSet<Foreign>,
    resync_at: Instant,
    resync_running: bool,
    /// The image is looked up beside the resyncs: it may have to be built or pulled.
    refreshing_image: bool,
    /// The first resync has ended, so what instances share exists or is known to be missing.
    first_resync_done: bool,
    /// Docker was down: earlier failures mean nothing.
    reset_backoff: bool,
    /// When broken networks may be made again; `None` while they are.
    remake_at: Option<Instant>,
    remake_error: Option<Error>,
}

/// Reconciles until the shutdown begins or the leader lock is lost.
pub(crate) async fn lead(
    executor: Arc<Executor>,
    resync_interval: Duration,
    lock: LeaderLock,
    health: Health,
    shutdown: &Shutdown,
) -> Ended {
    executor.reset().await;
    let (sender, mut events) = mpsc::channel(EVENT_QUEUE_MAX);
    let followers = followers::start(&executor, &sender);
    drop(sender);
    let (writer, mut writers) = (Arc::clone(&executor), JoinSet::new());
    writers.spawn(async move { writer.history.save(&writer.store).await });
    let capacity = Arc::clone(&executor);
    let progress = health.watch_loop("the reconciler");
    let mut progress_tick = tokio::time::interval(PROGRESS_INTERVAL);
    let check_now = Arc::new(Notify::new());
    let mut reconciler = Reconciler::new(executor, resync_interval, health, Arc::clone(&check_now));
    let store = reconciler.executor.store.clone();
    // Beside the loop, which a database that hangs must not hold up. It has the lock until the work has ended.
    let mut check = pin!(check_leadership(lock, &store, &check_now));
    let ended = loop {
        progress.mark();
        let due = reconciler.next_due();
        tokio::select! {
            () = shutdown.begun() => break Ended::Shutdown,
            Some(event) = events.recv() => reconciler.on_event(event),
            Some(result) = reconciler.tasks.join_next() => match result {
                Ok(result) => reconciler.on_task_result(result),
                Err(error) => {
                    tracing::error!(%error, "a task panicked: please report this");
                    break Ended::Panicked;
                }
            },
            (lock, leadership) = &mut check => {
                if leadership == Leadership::Lost {
                    tracing::error!("lost the leader lock: waiting for it");
                    break Ended::LostLeadership;
                }
                reconciler.on_leadership(leadership);
                check.set(check_leadership(lock, &store, &check_now));
            }
            waiting = capacity.capacity.room() => reconciler.retry(&waiting),
            _ = progress_tick.tick() => {}
            () = sleep_until(due) => {}
        }
        if reconciler.resync_is_due() {
            reconciler.start_resync();
        }
        reconciler.start_work();
    };
    drop(followers);
    let last = Arc::clone(&reconciler.executor);
    reconciler.stop(ended).await;
    writers.shutdown().await;
    let _ = timeout(HISTORY_TIMEOUT, last.history.save_rest(&last.store)).await;
    ended
}

impl Reconciler {
    fn new(
        executor: Arc<Executor>,
        resync_interval: Duration,
        health: Health,
        check_now: Arc<Notify>,
    ) -> Self {
        let conditions =
            Conditions::new(health, executor.metrics.clone(), &["docker", "store", "resync", "image"]);
        Self {
            executor,
            resync_interval,
            check_now,
            queue: WorkQueue::default(),
            tasks: JoinSet::new(),
            conditions,
            desired: HashMap::new(),
            failed: BTreeSet::new(),
            instance_by_container: HashMap::new(),
            foreign: BTreeSet::new(),
            resync_at: Instant::now() + resync_interval,
            resync_running: false,
            refreshing_image: false,
            first_resync_done: false,
            reset_backoff: false,
            remake_at: Some(Instant::now()),
            remake_error: None,
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::InstanceChanged(instance, asked) => self.on_instance_changed(&instance, asked),
            Event::StoreConnected => {
                self.conditions.set("store", None);
                self.check_now.notify_one();
                self.queue.expedite(Instant::now());
                self.resync_in(Duration::ZERO);
            }
            Event::StoreDown(error) => {
                self.conditions.set("store", Some(&error));
                self.check_now.notify_one();
                self.resync_in(RESYNC_RETRY_INTERVAL);
            }
            Event::DockerConnected => {
                self.conditions.set("docker", None);
                self.queue.expedite(Instant::now());
                self.reset_backoff = true;
                self.resync_in(Duration::ZERO);
            }
            Event::DockerDown(error) => {
                self.first_resync_done = true;
                self.conditions.set("docker", Some(&error));
            }
            Event::Drifted(instance) => self.queue.enqueue(&instance),
            Event::Firewall(result) => self.on_firewall(result),
            Event::NetworksBroken(networks) => self.on_networks_broken(networks),
            Event::Docker(DockerEvent::Container { instance, container, change }) => {
                self.executor.history.note(&container, change);
                if !matches!(change, Change::Signalled | Change::OutOfMemory) {
                    self.queue.enqueue(&instance);
                }
            }
            Event::Docker(DockerEvent::Disconnected { container }) => {
                if let Some(instance) = self.instance_by_container.get(&container) {
                    self.queue.enqueue(instance);
                } else {
                    // If it isn't one of ours, it may have had an instance's address.
                    if !self.executor.docker.has_created(&container) {
                        self.queue.expedite(Instant::now());
                    }
                    self.resync_in(RESYNC_DELAY);
                }
            }
            Event::Docker(DockerEvent::Removed) => {
                self.queue.expedite(Instant::now());
                self.resync_in(RESYNC_DELAY);
            }
        }
    }

    /// Without the store, another provisioner may lead: then only what needs no store is repaired.
    fn on_leadership(&mut self, leadership: Leadership) {
        if self.executor.known.set_store_away(leadership == Leadership::Unknown) {
            self.resync_in(Duration::ZERO);
        }
    }

    fn on_firewall(&mut self, result: Result<Checked, Error>) {
        if matches!(result, Ok(Checked::Restored)) {
            self.executor.metrics.firewall_repairs.inc();
            tracing::warn!("the firewall rules were changed by something else: restored");
        }
        self.conditions.set("firewall", result.err().as_ref());
    }

    /// Makes broken networks again, all at once, and says so until they are right.
    fn on_networks_broken(&mut self, networks: Vec<Network>) {
        let Some(first) = networks.first() else {
            self.remake_error = None;
            if self.conditions.set("bridge", None) {
                self.queue.expedite(Instant::now());
                self.resync_in(Duration::ZERO);
            }
            return;
        };
        let broken = || Error::NetworkBroken { network: first.name.clone(), bridge: first.bridge.clone() };
        let error = self.remake_error.take().unwrap_or_else(broken);
        self.conditions.set("bridge", Some(&error));
        self.remake_error = Some(error);
        if self.remake_at.is_none_or(|at| Instant::now() < at) {
            return;
        }
        self.remake_at = None;
        let executor = Arc::clone(&self.executor);
        self.tasks.spawn(async move {
            let mut result = Ok(());
            for network in &networks {
                result = result.and(executor.remake_network(network).await);
            }
            TaskResult::NetworksRemade(result)
        });
    }

    fn note_foreign(&mut self, foreign: BTreeSet<Foreign>) {
        for Foreign { kind, name } in foreign.difference(&self.foreign) {
            tracing::warn!(
                kind,
                name,
                "not created by memgate, and left alone: remove its `memgate` label or `memgate-` name"
            );
        }
        self.foreign = foreign;
    }

    /// Tries instances again at once.
    fn retry(&mut self, ids: &[String]) {
        for id in ids {
            self.queue.enqueue_reset(id);
        }
    }

    fn on_instance_changed(&mut self, instance: &Instance, asked: Vec<Operation>) {
        // Its route, too: without that, a container can't be made again while the store is away.
        self.executor.known.remember(instance);
        if let Some(container) = instance.route.as_ref().and_then(|route| route.container.clone()) {
            self.instance_by_container.insert(container, instance.id.clone());
        }
        let changed = if instance.state() == InstanceState::Failed {
            self.failed.insert(instance.id.clone())
        } else {
            self.failed.remove(&instance.id)
        };
        if changed {
            self.conditions.show_failed(self.failed.len());
        }
        let desired = Desired::new(instance, asked);
        let is_new = self.desired.get(&instance.id).is_none_or(|before| desired.asks_more_than(before));
        self.desired.insert(instance.id.clone(), desired);
        if is_new {
            self.queue.enqueue_reset(&instance.id);
        }
    }

    fn on_task_result(&mut self, result: TaskResult) {
        match result {
            TaskResult::Reconciled { id, failures, result } => {
                if let Err(error) = &result {
                    log_failure(&id, error, failures);
                }
                let outcome = match &result {
                    Ok(outcome) => *outcome,
                    // Checking it takes seconds.
                    Err(Error::TakesBack { .. }) => Outcome::Unfinished,
                    Err(error) if error.is_general() || matches!(error, Error::NoMemory) => {
                        Outcome::Postponed
                    }
                    Err(_) => Outcome::Failed,
                };
                self.queue.finish(&id, outcome, Instant::now());
                self.conditions.show_waiting(self.executor.capacity.waiting());
            }
            TaskResult::Resynced(result, took) => {
                self.queue.set_docker_busy(result.is_err() || took > SLOW_RESYNC);
                self.on_resynced(result);
            }
            TaskResult::ImageRefreshed(result) => {
                self.refreshing_image = false;
                // The event follower has reported this already.
                if !result.as_ref().is_err_and(Error::is_docker_down)
                    && self.conditions.set("image", result.err().as_ref())
                {
                    self.queue.expedite(Instant::now());
                }
            }
            TaskResult::NetworksRemade(result) => {
                self.remake_at = Some(Instant::now() + REMAKE_INTERVAL);
                self.remake_error = result.err();
            }
        }
    }

    fn on_resynced(&mut self, result: Result<ResyncReport, Error>) {
        self.resync_running = false;
        match result {
            Ok(report) => {
                self.first_resync_done = true;
                self.executor.pool.note_change();
                let mut recovered = self.conditions.set_resync(report.incomplete.as_ref());
                for (part, error) in &report.conditions {
                    recovered |= self.conditions.set(part, error.as_ref());
                }
                if recovered {
                    self.queue.expedite(Instant::now());
                }
                if report.incomplete.is_some() {
                    self.resync_in(RESYNC_RETRY_INTERVAL);
                } else {
                    let known = &self.executor.known;
                    self.desired.retain(|id, _| known.get(id).is_some());
                    self.failed = known.failed();
                    self.conditions.show_failed(self.failed.len());
                    self.conditions.show_unreadable(report.unreadable);
                    report.foreign.into_iter().for_each(|foreign| self.note_foreign(foreign));
                }
                self.instance_by_container = report.instance_by_container;
                let reset = std::mem::take(&mut self.reset_backoff);
                for id in &report.work {
                    if reset { self.queue.enqueue_reset(id) } else { self.queue.enqueue(id) }
                }
            }
            Err(error) => {
                // The event follower has reported this already.
                if !error.is_docker_down() {
                    self.conditions.set_resync(Some(&error));
                }
                self.resync_in(RESYNC_RETRY_INTERVAL);
            }
        }
    }

    fn start_resync(&mut self) {
        self.resync_running = true;
        self.resync_at = Instant::now() + self.resync_interval;
        let (executor, full) = (Arc::clone(&self.executor), self.executor.observations.begin_pass());
        self.tasks.spawn(async move {
            let started = Instant::now();
            TaskResult::Resynced(resync(&executor, full).await, started.elapsed())
        });
        if full && !std::mem::replace(&mut self.refreshing_image, true) {
            let executor = Arc::clone(&self.executor);
            self.tasks.spawn(async move { TaskResult::ImageRefreshed(executor.images.refresh().await) });
        }
    }

    fn start_work(&mut self) {
        while self.first_resync_done && self.tasks.len() < TASKS_MAX {
            let Some((id, failures)) = self.queue.take(Instant::now()) else { return };
            let executor = Arc::clone(&self.executor);
            self.tasks.spawn(async move {
                let result = executor.reconcile_one(&id, failures).await;
                TaskResult::Reconciled { id, failures, result }
            });
        }
    }

    fn resync_in(&mut self, delay: Duration) {
        self.executor.observations.want_full_pass();
        self.resync_at = self.resync_at.min(Instant::now() + delay);
    }

    fn resync_is_due(&self) -> bool {
        !self.resync_running && self.resync_at <= Instant::now()
    }

    fn next_due(&self) -> Instant {
        let resync = if self.resync_running { Instant::now() + self.resync_interval } else { self.resync_at };
        self.queue.next_retry().map_or(resync, |retry| retry.min(resync))
    }

    async fn stop(mut self, ended: Ended) {
        if ended == Ended::Shutdown {
            let all_done = async { while self.tasks.join_next().await.is_some() {} };
            let _ = timeout(STOP_TIMEOUT, all_done).await;
        }
        self.tasks.shutdown().await;
    }
}
