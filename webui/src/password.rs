//! Password hashing off the async threads, a few hashes at a time.
//!
//! The workers are threads of their own: tokio's blocking pool grows under load, and the allocator keeps
//! 19 MiB for each of its threads.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use daemon::fair_queue::FairQueue;
use identity::password::{self, HashMemory, Password};
use prometheus_client::metrics::counter::Counter;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::Error;
pub(crate) use daemon::fair_queue::{Priority, Requester};

/// Each hash takes 19 MiB while it runs.
const WORKERS_MAX: usize = 4;
/// How long a request waits for its result.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the queue takes on an idle machine when it is full: it has as many places as are hashed in that time.
const QUEUE_TIME: Duration = Duration::from_millis(500);
/// Places of the queue, however slow a hash is.
const QUEUE_MIN: usize = 16;
/// Places of the queue, however fast a hash is.
const QUEUE_MAX: usize = 256;

/// Hashes and verifies passwords on worker threads. The parameters are those of [`identity::password`].
#[derive(Debug)]
pub(crate) struct PasswordHasher {
    queue: Arc<JobQueue>,
    /// Verified for unknown users, so that response times don't tell whether an account exists.
    decoy_hash: String,
    checks: Counter,
    refusals: Counter,
}

/// An account whose password is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account<T> {
    pub(crate) of: T,
    /// The password's hash in PHC form.
    pub(crate) hash: String,
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
        let (decoy, mut memory) = (password::generate(), HashMemory::default());
        let decoy_hash = password::hash(&decoy, &mut memory).map_err(|error| failed(error.to_string()))?;
        let started = Instant::now();
        password::hash(&decoy, &mut memory).map_err(|error| failed(error.to_string()))?;
        let workers = thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX);
        let capacity = queue_capacity(workers, started.elapsed());
        tracing::debug!(workers, capacity, "password hashing");
        let queue = Arc::new(JobQueue::new(capacity));
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
    pub(crate) async fn hash(
        &self,
        requester: Requester,
        password: Password,
    ) -> Result<String, PasswordError> {
        self.run(requester, move |memory| password::hash(&password, memory)).await?.map_err(|error| {
            tracing::error!(%error, "failed to hash a password");
            PasswordError::Failed
        })
    }

    /// What `accept` makes of the account that `find` finds, if the password matches its hash. Without an account it takes
    /// as long. Both run on the worker's thread when it is the requester's turn: a flood doesn't look more accounts up
    /// than are verified, and who has proved a password doesn't queue behind it at each request to the store.
    ///
    /// # Errors
    ///
    /// [`PasswordError`] if no worker is free in time; and what `find` and `accept` return.
    pub(crate) async fn verify<T, R, E, F, A>(
        &self,
        requester: Requester,
        password: String,
        find: F,
        accept: impl FnOnce(Account<T>) -> A + Send + 'static,
    ) -> Result<Result<Option<R>, E>, PasswordError>
    where
        T: Send + 'static,
        R: Send + 'static,
        E: Send + 'static,
        F: Future<Output = Result<Option<Account<T>>, E>> + Send + 'static,
        A: Future<Output = Result<R, E>>,
    {
        let (decoy_hash, checks) = (self.decoy_hash.clone(), self.checks.clone());
        let runtime = Handle::current();
        self.run(requester, move |memory| {
            let found = runtime.block_on(find)?;
            let hash = found.as_ref().map_or(decoy_hash.as_str(), |account| &account.hash);
            let matches = password::verify(&password, hash, memory).unwrap_or_else(|error| {
                tracing::error!(%error, "a user's password hash is corrupt");
                false
            });
            checks.inc();
            match found.filter(|_| matches) {
                Some(account) => runtime.block_on(accept(account)).map(Some),
                None => Ok(None),
            }
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        requester: Requester,
        work: impl FnOnce(&mut HashMemory) -> T + Send + 'static,
    ) -> Result<T, PasswordError> {
        let (done, result) = oneshot::channel();
        self.queue.push(
            requester,
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

/// Places of the queue, if a hash takes `hash_time`.
fn queue_capacity(workers: usize, hash_time: Duration) -> usize {
    let of_one = QUEUE_TIME.as_micros() / hash_time.as_micros().max(1);
    usize::try_from(of_one).unwrap_or(usize::MAX).saturating_mul(workers).clamp(QUEUE_MIN, QUEUE_MAX)
}

impl JobQueue {
    fn new(capacity: usize) -> Self {
        let state = Mutex::new(QueueState { waiting: FairQueue::new(capacity), closed: false });
        Self { state, changed: Condvar::new() }
    }

    /// Adds a job. One for which there is no place is refused at once.
    fn push(&self, requester: Requester, job: Job) {
        let refused = self.state().waiting.push(requester, job);
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
    use std::convert::Infallible;
    use std::future::ready;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use daemon::source::Source;
    use tokio::sync::{Semaphore, mpsc};
    use tokio::task::JoinSet;

    use super::*;

    fn requester(address: [u8; 4]) -> Requester {
        Requester { source: Source::of(address.into()), priority: Priority::Unknown }
    }

    //
    #[test]
    fn flood_of_one_network_waits_for_itself() {
        let queue = JobQueue::new(QUEUE_MAX);
        let (done, order) = std::sync::mpsc::channel();
        let push = |from, name: &'static str| {
            let done = done.clone();
            queue.push(
                requester(from),
                Job(Box::new(move |turn| {
                    let refused = matches!(turn, Turn::Refuse);
                    done.send(if refused { "refused" } else { name }).unwrap();
                })),
            );
        };
        for host in 0..100 {
            push([198, 51, 100, host % 10], "flood");
        }
        assert_eq!(order.try_iter().collect::<Vec<_>>(), ["refused"; 20], "eight wait of each source");
        push([203, 0, 113, 9], "other");
        push([198, 51, 100, 99], "neighbour");
        thread::scope(|scope| {
            scope.spawn(|| queue.work());
            let order: Vec<_> = order.iter().take(82).collect();
            queue.close();
            let place = |name| order.iter().position(|it| *it == name);
            assert_eq!(place("other"), Some(1), "after one of the flood");
            assert_eq!(place("neighbour"), Some(11), "after one of each source of the flood, and the other");
        });
    }

    #[test]
    fn queue_is_short_enough_for_a_short_wait() {
        assert_eq!(queue_capacity(2, Duration::from_millis(25)), 40);
        assert_eq!(queue_capacity(1, Duration::from_secs(1)), QUEUE_MIN);
        assert_eq!(queue_capacity(4, Duration::ZERO), QUEUE_MAX);
    }

    #[tokio::test]
    async fn hashes_verify_and_unknown_users_do_not() {
        let hasher = PasswordHasher::new(Counter::default(), Counter::default()).unwrap();
        let from = requester([127, 0, 0, 1]);
        let hash = hasher.hash(from, Password::parse("Grüße 🦀 und so".into()).unwrap()).await.unwrap();
        let verify = async |password: &str, hash: Option<&str>| {
            let account = hash.map(|hash| Account { of: (), hash: hash.to_owned() });
            let find = async { Ok::<_, Infallible>(account) };
            let accept = |account| ready(Ok(account));
            hasher.verify(from, password.to_owned(), find, accept).await.unwrap().unwrap().is_some()
        };
        assert!(verify("Grüße 🦀 und so", Some(&hash)).await);
        assert!(!verify("Grüße 🦀 und so ", Some(&hash)).await);
        assert!(!verify("Grüße 🦀 und so", None).await);
        assert!(!verify("Grüße 🦀 und so", Some("garbage")).await);
        let find = async { Err::<Option<Account<()>>, _>("store") };
        let fails = hasher.verify(from, String::new(), find, |account| ready(Ok(account)));
        assert_eq!(fails.await, Ok(Err("store")));
    }

    // each hash that runs takes 19 MiB.
    #[tokio::test]
    async fn a_few_hashes_run_at_once_however_many_are_asked_for() {
        let hasher = Arc::new(PasswordHasher::new(Counter::default(), Counter::default()).unwrap());
        let workers = thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX);
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut tasks = JoinSet::new();
        for n in 0..500_u16 {
            let [high, low] = n.to_be_bytes();
            let (hasher, running, most) = (hasher.clone(), running.clone(), most.clone());
            tasks.spawn(async move {
                let hash = move |memory: &mut HashMemory| {
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    let hash = password::hash(&password::generate(), memory);
                    running.fetch_sub(1, Ordering::SeqCst);
                    hash.is_ok()
                };
                hasher.run(requester([10, 0, high, low]), hash).await
            });
        }
        let outcomes = tasks.join_all().await;
        let done = outcomes.iter().filter(|outcome| **outcome == Ok(true)).count();
        let refused = outcomes.iter().filter(|outcome| **outcome == Err(PasswordError::Busy)).count();
        assert_eq!((outcomes.len(), done + refused), (500, 500), "{outcomes:?}");
        assert!(done >= QUEUE_MIN, "{done}");
        assert!((1..=workers).contains(&most.load(Ordering::SeqCst)), "{most:?}");
    }

    //
    #[tokio::test]
    async fn accounts_are_looked_up_in_turn() {
        let hasher = Arc::new(PasswordHasher::new(Counter::default(), Counter::default()).unwrap());
        let workers = thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX);
        // The store answers once there are permits.
        let answers = Arc::new(Semaphore::new(0));
        let (asked, mut order) = mpsc::unbounded_channel();
        let mut sign_ins = JoinSet::new();
        let mut begin = |requester, name: &'static str| {
            let (hasher, answers, asked) = (hasher.clone(), answers.clone(), asked.clone());
            sign_ins.spawn(async move {
                let find = async move {
                    asked.send(name).unwrap();
                    answers.acquire().await.unwrap().forget();
                    Ok::<Option<Account<()>>, Infallible>(None)
                };
                let _ = hasher.verify(requester, String::new(), find, |account| ready(Ok(account))).await;
            });
        };
        for host in 0..200 {
            begin(requester([198, 51, host, 1]), "flood");
        }
        for _ in 0..workers {
            assert_eq!(order.recv().await, Some("flood"));
        }
        begin(Requester { priority: Priority::Known, ..requester([203, 0, 113, 9]) }, "known");
        tokio::task::yield_now().await;
        assert!(order.is_empty(), "a look-up waits for its turn, and so for a worker");
        answers.add_permits(1000);
        let mut before = 0;
        while order.recv().await.unwrap() != "known" {
            before += 1;
        }
        assert!(before <= 2, "{before} look-ups of the flood go before the known one");
        sign_ins.shutdown().await;
    }
}
