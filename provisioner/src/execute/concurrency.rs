//! How many tasks use Docker at a time, and what the work on an instance holds meanwhile.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, RwLock, RwLockReadGuard, Semaphore, SemaphorePermit};

use crate::plan::{self, Action};

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

/// What the work on an instance holds while it changes Docker: one permit at most, since tasks that had one each and wanted
/// another would wait for each other.
#[derive(Debug)]
pub(super) struct Held<'a> {
    _networks: RwLockReadGuard<'a, ()>,
    pub(super) write_permit: Option<SemaphorePermit<'a>>,
}

impl<'a> Held<'a> {
    /// Holds a write permit for the first of these actions if that needs one, and lets it go if none of them does: the rest may
    /// wait for the store, and others go on. A resize takes long, and acquires its own when it needs one.
    pub(super) async fn prepare_for(
        &mut self,
        mut actions: impl Iterator<Item = &Action>,
        concurrency: &'a Concurrency,
    ) {
        let Some(first) = actions.next() else { return };
        let needs_permit = plan::changes_docker(first);
        if matches!(first, Action::Resize(_)) || !needs_permit && !actions.any(plan::changes_docker) {
            self.write_permit = None;
        } else if needs_permit && self.write_permit.is_none() {
            self.write_permit = concurrency.write_permits.acquire().await.ok();
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::ContainerState;
    use crate::plan::tests::container;

    // A plan that a crash has left: another container was created, and neither is that recorded nor the holder removed.
    #[tokio::test]
    async fn resize_needs_the_only_write_permit_of_its_task() {
        let it = container(ContainerState::Running);
        let actions = [
            Action::Unpause(it.clone()),
            Action::Probe(it.clone()),
            Action::Resize(it.clone()),
            Action::SetState(store::InstanceState::Running, None),
            Action::Remove(it.id.clone()),
            Action::Probe(it),
        ];
        let concurrency = Concurrency::default();
        let mut held = concurrency.go_on().await;
        let mut has_permit = Vec::new();
        for number in 0..actions.len() {
            held.prepare_for(actions.iter().skip(number), &concurrency).await;
            let taken = WRITES_MAX - concurrency.write_permits.available_permits();
            assert_eq!(taken, usize::from(held.write_permit.is_some()));
            has_permit.push(held.write_permit.is_some());
        }
        assert_eq!(has_permit, [true, true, false, false, true, false]);
    }
}
