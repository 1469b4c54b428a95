//! Password hashing off the async threads, a few hashes at a time.
//!
//! The workers are threads of their own: tokio's blocking pool grows under load, and the allocator keeps
//! 19 MiB for each of its threads.

mod fair_queue;

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use daemon::source::Source;
use identity::password::{self, HashMemory, Password};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::oneshot;

use crate::Error;
use fair_queue::FairQueue;

/// Each hash takes 19 MiB while it runs.
const WORKERS_MAX: usize = 4;
/// How long a request waits for its result.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(10);

/// Hashes and verifies passwords on worker threads. The parameters are those of [`identity::password`].
#[derive(Debug)]
pub(crate) struct PasswordHasher {
    queue: Arc<JobQueue>,
    /// Verified for unknown users, so that response times don't tell whether an account exists.
    decoy_hash: String,
    checks: Counter,
    refusals: Counter,
}

/// Why a password was neither hashed nor verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PasswordError {
    /// Too many wait already, or no worker was free within [`QUEUE_TIMEOUT`].
    Busy,
    /// A worker failed; the log has the cause.
    Failed,
}

impl PasswordHasher {
    /// Starts the workers. `checks` counts verified passwords, `refusals` those for which there was no worker.
    ///
    /// # Errors
    ///
    /// [`Error::Passwords`] if a thread can't be started or the system has no random numbers.
    pub(crate) fn new(checks: Counter, refusals: Counter) -> Result<Self, Error> {
        let failed = |error: String| Error::Passwords(error);
        let decoy_hash = password::hash(&password::generate(), &mut HashMemory::default())
            .map_err(|error| failed(error.to_string()))?;
        let workers = thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX);
        let queue = Arc::new(JobQueue::default());
        for _ in 0..workers {
            let queue = queue.clone();
            thread::Builder::new()
                .name("password".into())
                .spawn(move || queue.work())
                .map_err(|error| failed(error.to_string()))?;
        }
        Ok(Self { queue, decoy_hash, checks, refusals })
    }

    /// The password's hash in PHC form.
    ///
    /// # Errors
    ///
    /// [`PasswordError`] if no worker is free in time or the hash fails.
    pub(crate) async fn hash(&self, source: Source, password: Password) -> Result<String, PasswordError> {
        self.run(source, move |memory| password::hash(&password, memory)).await?.map_err(|error| {
            tracing::error!(%error, "failed to hash a password");
            PasswordError::Failed
        })
    }

    /// Whether the password matches the hash. Without a hash it takes as long and returns `false`.
    ///
    /// # Errors
    ///
    /// [`PasswordError`] if no worker is free in time.
    pub(crate) async fn verify(
        &self,
        source: Source,
        password: String,
        hash: Option<String>,
    ) -> Result<bool, PasswordError> {
        let exists = hash.is_some();
        let hash = hash.unwrap_or_else(|| self.decoy_hash.clone());
        let checks = self.checks.clone();
        let matches = self.run(source, move |memory| {
            let verified = password::verify(&password, &hash, memory);
            match verified {
                Ok(matches) => {
                    checks.inc();
                    matches
                }
                Err(error) => {
                    tracing::error!(%error, "a user's password hash is corrupt");
                    false
                }
            }
        });
        Ok(matches.await? && exists)
    }

    async fn run<T: Send + 'static>(
        &self,
        source: Source,
        work: impl FnOnce(&mut HashMemory) -> T + Send + 'static,
    ) -> Result<T, PasswordError> {
        let (done, result) = oneshot::channel();
        self.queue.push(
            source,
            Job(Box::new(move |turn| {
                // A browser that disconnected waits for nothing.
                if !done.is_closed() {
                    let outcome = match turn {
                        Turn::Run(memory) => Ok(work(memory)),
                        Turn::Refuse => Err(PasswordError::Busy),
                    };
                    let _ = done.send(outcome);
                }
            })),
        );
        let outcome = match tokio::time::timeout(QUEUE_TIMEOUT, result).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => {
                tracing::error!("a password worker panicked");
                Err(PasswordError::Failed)
            }
            Err(_) => Err(PasswordError::Busy),
        };
        if matches!(outcome, Err(PasswordError::Busy)) {
            self.refusals.inc();
        }
        outcome
    }
}

impl Drop for PasswordHasher {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// What becomes of a job.
enum Turn<'a> {
    Run(&'a mut HashMemory),
    /// There is no place in the queue.
    Refuse,
}

struct Job(Box<dyn FnOnce(Turn<'_>) + Send>);

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Job")
    }
}

/// Jobs for the workers.
#[derive(Debug)]
struct JobQueue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Debug)]
struct QueueState {
    waiting: FairQueue<Job>,
    /// The workers end.
    closed: bool,
}

impl Default for JobQueue {
    fn default() -> Self {
        let state = Mutex::new(QueueState { waiting: FairQueue::new(), closed: false });
        Self { state, changed: Condvar::new() }
    }
}

impl JobQueue {
    /// Adds a job. One for which there is no place is refused at once.
    fn push(&self, source: Source, job: Job) {
        let refused = self.state().waiting.push(source, job);
        self.changed.notify_one();
        if let Some(Job(refused)) = refused {
            refused(Turn::Refuse);
        }
    }

    fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    /// Runs jobs until the queue is closed.
    fn work(&self) {
        while let Some(Job(first)) = self.next() {
            // Kept until the queue is empty.
            let mut memory = HashMemory::default();
            let mut next = Some(first);
            while let Some(job) = next {
                // A job that panics drops its result channel; the thread goes on with the next job.
                let run = std::panic::AssertUnwindSafe(|| job(Turn::Run(&mut memory)));
                let _ = std::panic::catch_unwind(run);
                next = self.state().waiting.pop().map(|Job(job)| job);
            }
        }
    }

    /// Waits for the next job; `None` if the queue is closed.
    fn next(&self) -> Option<Job> {
        let mut state = self.state();
        loop {
            if state.closed {
                return None;
            }
            if let Some(job) = state.waiting.pop() {
                return Some(job);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn hashes_verify_and_unknown_users_do_not() {
        let hasher = PasswordHasher::new(Counter::default(), Counter::default()).unwrap();
        let source = Source::of([127, 0, 0, 1].into());
        let hash = hasher.hash(source, Password::parse("Grüße 🦀 und so".into()).unwrap()).await.unwrap();
        let verify = |password: &str, hash: Option<&str>| {
            hasher.verify(source, password.to_owned(), hash.map(ToOwned::to_owned))
        };
        assert!(verify("Grüße 🦀 und so", Some(&hash)).await.unwrap());
        assert!(!verify("Grüße 🦀 und so ", Some(&hash)).await.unwrap());
        assert!(!verify("Grüße 🦀 und so", None).await.unwrap());
        assert!(!verify("Grüße 🦀 und so", Some("garbage")).await.unwrap());
    }
}
