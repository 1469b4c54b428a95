//! How many tasks use Docker at a time, and what the work on an instance holds meanwhile.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, RwLock, RwLockReadGuard, Semaphore, SemaphorePermit};

/// Instances that are changed in Docker at a time; with more, each is slower.
const WRITES_MAX: usize = 8;
/// Instances that are read from Docker at a time.
const READS_MAX: usize = 16;

/// Limits how many tasks use Docker at a time.
#[derive(Debug)]
pub(crate) struct Concurrency {
    pub(super) write_permits: Semaphore,
    pub(super) read_permits: Semaphore,
    /// Read by the work on an instance, written while a network is made again: its containers are disconnected then.
    pub(super) networks: RwLock<()>,
    /// Contents of warm caches that are copied at a time: one, whose copy has all of Docker's speed.
    copies: Arc<Semaphore>,
}

impl Default for Concurrency {
    fn default() -> Self {
        Self {
            write_permits: Semaphore::new(WRITES_MAX),
            read_permits: Semaphore::new(READS_MAX),
            networks: RwLock::new(()),
            copies: Arc::new(Semaphore::new(1)),
        }
    }
}

/// What the work on an instance holds while it changes Docker.
#[derive(Debug)]
pub(super) struct Held<'a> {
    _networks: RwLockReadGuard<'a, ()>,
    pub(super) write_permit: Option<SemaphorePermit<'a>>,
}

impl Concurrency {
    /// Begins work on an instance that changes nothing yet.
    pub(super) async fn begin(&self) -> Held<'_> {
        Held { _networks: self.networks.read().await, write_permit: None }
    }

    /// Goes on with work that changes something.
    pub(super) async fn go_on(&self) -> Held<'_> {
        let held = self.begin().await;
        Held { write_permit: self.write_permits.acquire().await.ok(), ..held }
    }

    /// The turn of an instance whose contents are to be copied. Nothing waits for it, so that a cache that runs goes on, and
    /// is repaired, until its turn comes.
    pub(super) fn turn_to_copy(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.copies).try_acquire_owned().ok()
    }
}
