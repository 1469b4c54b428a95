//! The reconciler: decides when each instance is worked on. Events and resyncs fill the work queue; tasks
//! empty it, many at a time but never two for one instance, so that a new instance waits neither for a resync
//! nor for other instances.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use daemon::Shutdown;
use daemon::health::Health;
use store::{DesiredState, Instance, LeaderLock};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::conditions::Conditions;
use crate::docker::{DockerEvent, Foreign};
use crate::error::Error;
use crate::events::{self, Event};
use crate::execute::{Executor, log_failure};
use crate::firewall::Checked;
use crate::resync::{ResyncReport, resync};
use crate::work_queue::WorkQueue;

/// Instances in work at a time. Most of them wait for a write permit, already marked as restarting.
const TASKS_MAX: usize = 512;
/// Events that wait to be read.
const EVENT_QUEUE_MAX: usize = 1_024;
/// Delay of the resync after an event: events come in bursts, and one resync serves a whole burst.
const RESYNC_DELAY: Duration = Duration::from_millis(100);
/// Delay of the next resync after a failed one.
const RESYNC_RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// How long the shutdown waits for work in progress. What is interrupted is continued at the next start.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// Time limit of the check that this process still holds the leader lock.
const LEASE_CHECK_TIMEOUT: Duration = Duration::from_secs(5);

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
    Reconciled { id: String, failures: u32, result: Result<(), Error> },
    Resynced(Result<ResyncReport, Error>),
}

/// The desired state of an instance, to tell a change of it from the provisioner's own record of the route.
type Desired = (DesiredState, i64, i64, i64);

struct Reconciler {
    executor: Arc<Executor>,
    resync_interval: Duration,
    queue: WorkQueue,
    tasks: JoinSet<TaskResult>,
    conditions: Conditions,
    desired: HashMap<String, Desired>,
    instance_by_container: HashMap<String, String>,
    /// What claims to be the installation's and isn't; each is logged once.
    foreign: BTreeSet<Foreign>,
    resync_at: Instant,
    resync_running: bool,
    /// The first resync has ended, so what instances share exists or is known to be missing.
    first_resync_done: bool,
    /// Docker was down: earlier failures mean nothing.
    reset_backoff: bool,
}

/// Reconciles until the shutdown begins or the leader lock is lost.
pub(crate) async fn lead(
    executor: Arc<Executor>,
    resync_interval: Duration,
    mut lock: LeaderLock,
    health: Health,
    shutdown: &Shutdown,
) -> Ended {
    executor.capacity.reset().await;
    let (sender, mut events) = mpsc::channel(EVENT_QUEUE_MAX);
    let mut followers = JoinSet::new();
    followers.spawn(events::follow_store(executor.store.clone(), sender.clone()));
    let docker = Arc::clone(&executor.docker);
    let from_docker = sender.clone();
    followers.spawn(async move { events::follow_docker(&docker, from_docker).await });
    let keeper = Arc::clone(&executor);
    followers.spawn(async move { events::keep_firewall(&keeper.firewall, sender).await });
    let capacity = Arc::clone(&executor);
    let progress = health.watch_loop("the reconciler");
    let mut progress_tick = tokio::time::interval(PROGRESS_INTERVAL);
    let mut reconciler = Reconciler::new(executor, resync_interval, health);
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
            waiting = capacity.capacity.room() => reconciler.retry(&waiting),
            _ = progress_tick.tick() => {}
            () = sleep_until(due) => {}
        }
        if reconciler.resync_is_due() {
            if !timeout(LEASE_CHECK_TIMEOUT, lock.is_held()).await.unwrap_or(false) {
                tracing::error!("lost the leader lock: waiting for it");
                break Ended::LostLeadership;
            }
            reconciler.start_resync();
        }
        reconciler.start_work();
    };
    drop(followers);
    reconciler.stop(ended).await;
    ended
}

impl Reconciler {
    fn new(executor: Arc<Executor>, resync_interval: Duration, health: Health) -> Self {
        Self {
            executor,
            resync_interval,
            queue: WorkQueue::default(),
            tasks: JoinSet::new(),
            conditions: Conditions::new(health, &["docker", "store", "resync"]),
            desired: HashMap::new(),
            instance_by_container: HashMap::new(),
            foreign: BTreeSet::new(),
            resync_at: Instant::now() + resync_interval,
            resync_running: false,
            first_resync_done: false,
            reset_backoff: false,
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::InstanceChanged(instance) => self.on_instance_changed(&instance),
            Event::StoreConnected => {
                self.conditions.set("store", None);
                self.resync_in(Duration::ZERO);
            }
            Event::StoreDown(error) => self.conditions.set("store", Some(&error)),
            Event::DockerConnected => {
                self.conditions.set("docker", None);
                self.reset_backoff = true;
                self.resync_in(Duration::ZERO);
            }
            Event::DockerDown(error) => {
                self.first_resync_done = true;
                self.conditions.set("docker", Some(&error));
            }
            Event::Firewall(result) => self.on_firewall(result),
            Event::Docker(DockerEvent::Container { instance, .. }) => self.queue.enqueue(&instance),
            Event::Docker(DockerEvent::Disconnected { container }) => {
                if let Some(instance) = self.instance_by_container.get(&container) {
                    self.queue.enqueue(instance);
                } else {
                    self.resync_in(RESYNC_DELAY);
                }
            }
            Event::Docker(DockerEvent::Removed) => self.resync_in(RESYNC_DELAY),
        }
    }

    fn on_firewall(&mut self, result: Result<Checked, Error>) {
        if matches!(result, Ok(Checked::Restored)) {
            self.executor.metrics.firewall_repairs.inc();
            tracing::warn!("the firewall rules were changed by something else: restored");
        }
        self.conditions.set("firewall", result.err().as_ref());
    }

    /// Tries instances again at once.
    fn retry(&mut self, ids: &[String]) {
        for id in ids {
            self.queue.enqueue_reset(id);
        }
    }

    fn on_instance_changed(&mut self, instance: &Instance) {
        if let Some(container) = instance.route.as_ref().and_then(|route| route.container.clone()) {
            self.instance_by_container.insert(container, instance.id.clone());
        }
        let desired = desired(instance);
        if self.desired.insert(instance.id.clone(), desired) != Some(desired) {
            self.queue.enqueue_reset(&instance.id);
        }
    }

    fn on_task_result(&mut self, result: TaskResult) {
        match result {
            TaskResult::Reconciled { id, failures, result } => {
                if let Err(error) = &result {
                    log_failure(&id, error, failures);
                }
                self.queue.finish(&id, result.is_ok(), Instant::now());
            }
            TaskResult::Resynced(result) => self.on_resynced(result),
        }
    }

    fn on_resynced(&mut self, result: Result<ResyncReport, Error>) {
        self.resync_running = false;
        match result {
            Ok(report) => {
                self.first_resync_done = true;
                self.conditions.set("resync", None);
                for (part, error) in &report.conditions {
                    self.conditions.set(part, error.as_ref());
                }
                self.instance_by_container = report.instance_by_container;
                for Foreign { kind, name } in report.foreign.difference(&self.foreign) {
                    tracing::warn!(
                        kind,
                        name,
                        "not created by memgate, and left alone: remove its `memgate` label or `memgate-` name"
                    );
                }
                self.foreign = report.foreign;
                let reset = std::mem::take(&mut self.reset_backoff);
                for id in &report.work {
                    if reset { self.queue.enqueue_reset(id) } else { self.queue.enqueue(id) }
                }
            }
            Err(error) => {
                // The event follower has reported this already.
                if !error.is_docker_down() {
                    self.conditions.set("resync", Some(&error));
                }
                self.resync_in(RESYNC_RETRY_INTERVAL);
            }
        }
    }

    fn start_resync(&mut self) {
        self.resync_running = true;
        self.resync_at = Instant::now() + self.resync_interval;
        let executor = Arc::clone(&self.executor);
        self.tasks.spawn(async move { TaskResult::Resynced(resync(&executor).await) });
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

fn desired(instance: &Instance) -> Desired {
    (instance.desired, instance.memory_mb, instance.connections, instance.item_size_max)
}
