//! Password hashing off the async threads, a few hashes at a time.
//!
//! The workers are threads of their own: tokio's blocking pool grows under load, and the allocator keeps
//! 19 MiB for each of its threads.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use identity::password::{self, Password};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{Semaphore, oneshot};

use crate::Error;

/// Each hash takes 19 MiB while it runs.
const WORKERS_MAX: usize = 4;
/// How long a request waits for a worker.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(30);

type Job = Box<dyn FnOnce() + Send>;

/// Hashes and verifies passwords on worker threads. The parameters are those of [`identity::password`].
#[derive(Debug)]
pub(crate) struct PasswordHasher {
    permits: Arc<Semaphore>,
    /// The workers end when this is dropped.
    jobs: Sender<Job>,
    /// Verified for unknown users, so that response times don't tell whether an account exists.
    decoy_hash: String,
    checks: Counter,
}

/// Why a password was neither hashed nor verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PasswordError {
    /// No worker was free within [`QUEUE_TIMEOUT`].
    Busy,
    /// A worker failed; the log has the cause.
    Failed,
}

impl PasswordHasher {
    /// Starts the workers. `checks` counts verified passwords.
    ///
    /// # Errors
    ///
    /// [`Error::Passwords`] if a thread can't be started or the system has no random numbers.
    pub(crate) fn new(checks: Counter) -> Result<Self, Error> {
        let failed = |error: String| Error::Passwords(error);
        let decoy_hash = password::hash(&password::generate()).map_err(|error| failed(error.to_string()))?;
        let workers = thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX);
        let (jobs, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..workers {
            let queue = queue.clone();
            thread::Builder::new()
                .name("password".into())
                .spawn(move || worker_loop(&queue))
                .map_err(|error| failed(error.to_string()))?;
        }
        Ok(Self { permits: Arc::new(Semaphore::new(workers)), jobs, decoy_hash, checks })
    }

    /// The password's hash in PHC form.
    ///
    /// # Errors
    ///
    /// [`PasswordError`] if no worker is free in time or the hash fails.
    pub(crate) async fn hash(&self, password: Password) -> Result<String, PasswordError> {
        self.run(move || password::hash(&password)).await?.map_err(|error| {
            tracing::error!(%error, "failed to hash a password");
            PasswordError::Failed
        })
    }

    /// Whether the password matches the hash. Without a hash it takes as long and returns `false`.
    ///
    /// # Errors
    ///
    /// [`PasswordError`] if no worker is free in time.
    pub(crate) async fn verify(&self, password: String, hash: Option<String>) -> Result<bool, PasswordError> {
        let exists = hash.is_some();
        let hash = hash.unwrap_or_else(|| self.decoy_hash.clone());
        let checks = self.checks.clone();
        let matches = self.run(move || {
            let verified = password::verify(&password, &hash);
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
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PasswordError> {
        let permit = tokio::time::timeout(QUEUE_TIMEOUT, self.permits.clone().acquire_owned()).await;
        let permit = permit.map_err(|_| PasswordError::Busy)?.map_err(|_| PasswordError::Failed)?;
        let (done, result) = oneshot::channel();
        // The permit moves into the job: a browser that disconnects doesn't free a worker that still runs.
        let job: Job = Box::new(move || {
            let value = work();
            drop(permit);
            // The receiver is gone if the browser disconnected.
            let _ = done.send(value);
        });
        self.jobs.send(job).map_err(|_| PasswordError::Failed)?;
        result.await.map_err(|_| {
            tracing::error!("a password worker panicked");
            PasswordError::Failed
        })
    }
}

fn worker_loop(queue: &Mutex<Receiver<Job>>) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        // A job that panics drops its result channel; the thread goes on with the next job.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn hashes_verify_and_unknown_users_do_not() {
        let hasher = PasswordHasher::new(Counter::default()).unwrap();
        let hash = hasher.hash(Password::parse("Grüße 🦀 und so".into()).unwrap()).await.unwrap();
        let verify = |password: &str, hash: Option<&str>| {
            hasher.verify(password.to_owned(), hash.map(ToOwned::to_owned))
        };
        assert!(verify("Grüße 🦀 und so", Some(&hash)).await.unwrap());
        assert!(!verify("Grüße 🦀 und so ", Some(&hash)).await.unwrap());
        assert!(!verify("Grüße 🦀 und so", None).await.unwrap());
        assert!(!verify("Grüße 🦀 und so", Some("garbage")).await.unwrap());
    }
}
