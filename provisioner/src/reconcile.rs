//! The reconciler: who is worked on when. News and passes fill the queue; tasks empty it, many at a time
//! but never two for one instance, so that a new instance waits neither for a pass nor for its neighbours.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use daemon::Shutdown;
use daemon::health::Readiness;
use store::{DesiredState, Instance, LeaderLock};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::Error;
use crate::engine::Event;
use crate::pass::Outcome;
use crate::queue::Queue;
use crate::troubles::Troubles;
use crate::watch::{self, News};
use crate::worker::{Worker, log_failure};

/// Instances taken up at a time; most of them wait for one of the worker's hands, marked as restarting.
const TASKS: usize = 512;
/// News not yet read.
const NEWS: usize = 1_024;
/// Events come in bursts: one pass for all of a burst.
const AFTER_EVENT: Duration = Duration::from_millis(100);
/// After a failed pass.
const AFTER_FAILURE: Duration = Duration::from_secs(2);
/// The stop waits this long for work in progress; what is cut off is taken up at the next start.
const STOP: Duration = Duration::from_secs(3);
/// A database that doesn't say in this time that the lock is ours no longer holds it for us.
const LEAD: Duration = Duration::from_secs(5);

/// Why the reconciler has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Shutdown,
    /// Somebody else may lead now.
    LostLead,
    /// A task panicked: what it held is unknown, so all begins anew.
    Broken,
}

#[derive(Debug)]
enum Done {
    Attended { id: String, strikes: u32, result: Result<(), Error> },
    Passed(Result<Outcome, Error>),
}

/// What is wanted of an instance, to tell a new wish from our own record of it.
type Want = (DesiredState, i64, i64, i64);

struct Reconciler {
    worker: Arc<Worker>,
    every: Duration,
    queue: Queue,
    tasks: JoinSet<Done>,
    troubles: Troubles,
    wants: HashMap<String, Want>,
    homes: HashMap<String, String>,
    pass_at: Instant,
    passing: bool,
    /// The first pass has been made: what instances share is there, or known not to be.
    begun: bool,
    /// Docker was away: earlier failures say nothing.
    forgive: bool,
}

/// Leads until the stop begins or the lead is lost.
pub(crate) async fn lead(
    worker: Arc<Worker>,
    every: Duration,
    mut lead: LeaderLock,
    readiness: Readiness,
    shutdown: &Shutdown,
) -> Ended {
    let (sender, mut news) = mpsc::channel(NEWS);
    let mut watchers = JoinSet::new();
    watchers.spawn(watch::store(worker.store.clone(), sender.clone()));
    let watched = Arc::clone(&worker);
    watchers.spawn(async move { watch::engine(&watched.engine, sender).await });
    let mut reconciler = Reconciler::new(worker, every, readiness);
    let ended = loop {
        let due = reconciler.next_due();
        tokio::select! {
            () = shutdown.begun() => break Ended::Shutdown,
            Some(news) = news.recv() => reconciler.hear(news),
            Some(done) = reconciler.tasks.join_next() => match done {
                Ok(done) => reconciler.finish(done),
                Err(error) => {
                    tracing::error!(%error, "a task has failed: please report this");
                    break Ended::Broken;
                }
            },
            () = sleep_until(due) => {}
        }
        if reconciler.pass_is_due() {
            if !timeout(LEAD, lead.holds()).await.unwrap_or(false) {
                tracing::error!("the lead is lost: waiting for it again");
                break Ended::LostLead;
            }
            reconciler.start_pass();
        }
        reconciler.start_work();
    };
    drop(watchers);
    reconciler.stop(ended).await;
    ended
}

impl Reconciler {
    fn new(worker: Arc<Worker>, every: Duration, readiness: Readiness) -> Self {
        Self {
            worker,
            every,
            queue: Queue::default(),
            tasks: JoinSet::new(),
            troubles: Troubles::new(readiness, &["docker", "store", "pass"]),
            wants: HashMap::new(),
            homes: HashMap::new(),
            pass_at: Instant::now() + every,
            passing: false,
            begun: false,
            forgive: false,
        }
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Changed(instance) => {
                if let Some(container) = instance.route.as_ref().and_then(|route| route.container.clone()) {
                    self.homes.insert(container, instance.id.clone());
                }
                let want = want(&instance);
                if self.wants.insert(instance.id.clone(), want) != Some(want) {
                    self.queue.push_afresh(&instance.id);
                }
            }
            News::StoreUp => {
                self.troubles.set("store", None);
                self.pass_in(Duration::ZERO);
            }
            News::StoreDown(error) => self.troubles.set("store", Some(&error)),
            News::EngineUp => {
                self.troubles.set("docker", None);
                self.forgive = true;
                self.pass_in(Duration::ZERO);
            }
            News::EngineDown(error) => {
                self.begun = true;
                self.troubles.set("docker", Some(&error));
            }
            News::Touched(Event::Container { instance, .. }) => self.queue.push(&instance),
            News::Touched(Event::CutOff { container }) => {
                if let Some(instance) = self.homes.get(&container) {
                    self.queue.push(instance);
                } else {
                    self.pass_in(AFTER_EVENT);
                }
            }
            News::Touched(Event::Gone) => self.pass_in(AFTER_EVENT),
        }
    }

    fn finish(&mut self, done: Done) {
        match done {
            Done::Attended { id, strikes, result } => {
                if let Err(error) = &result {
                    log_failure(&id, error, strikes);
                }
                self.queue.done(&id, result.is_ok(), Instant::now());
            }
            Done::Passed(passed) => self.finish_pass(passed),
        }
    }

    fn finish_pass(&mut self, passed: Result<Outcome, Error>) {
        self.passing = false;
        match passed {
            Ok(outcome) => {
                self.begun = true;
                self.troubles.set("pass", None);
                for (part, error) in &outcome.parts {
                    self.troubles.set(part, error.as_ref());
                }
                self.homes = outcome.homes;
                let forgive = std::mem::take(&mut self.forgive);
                for id in &outcome.work {
                    if forgive { self.queue.push_afresh(id) } else { self.queue.push(id) }
                }
            }
            Err(error) => {
                // Said by the watcher already.
                if !error.is_engine_down() {
                    self.troubles.set("pass", Some(&error));
                }
                self.pass_in(AFTER_FAILURE);
            }
        }
    }

    fn start_pass(&mut self) {
        self.passing = true;
        self.pass_at = Instant::now() + self.every;
        let worker = Arc::clone(&self.worker);
        self.tasks.spawn(async move { Done::Passed(worker.pass().await) });
    }

    fn start_work(&mut self) {
        while self.begun && self.tasks.len() < TASKS {
            let Some((id, strikes)) = self.queue.take(Instant::now()) else { return };
            let worker = Arc::clone(&self.worker);
            self.tasks.spawn(async move {
                let result = worker.attend(&id, strikes).await;
                Done::Attended { id, strikes, result }
            });
        }
    }

    fn pass_in(&mut self, wait: Duration) {
        self.pass_at = self.pass_at.min(Instant::now() + wait);
    }

    fn pass_is_due(&self) -> bool {
        !self.passing && self.pass_at <= Instant::now()
    }

    fn next_due(&self) -> Instant {
        let pass = if self.passing { Instant::now() + self.every } else { self.pass_at };
        self.queue.next_retry().map_or(pass, |retry| retry.min(pass))
    }

    async fn stop(mut self, ended: Ended) {
        if ended == Ended::Shutdown {
            let all_done = async { while self.tasks.join_next().await.is_some() {} };
            let _ = timeout(STOP, all_done).await;
        }
        self.tasks.shutdown().await;
    }
}

fn want(instance: &Instance) -> Want {
    (instance.wanted, instance.memory_mb, instance.connections, instance.item_size_max)
}
