//! What was last read of the store, so that a container that has stopped is started although the store is away (F-34).
//! It is believed for as long as a released address stays unused: until then no other instance has one of these
//! addresses.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use store::Instance;
use tokio::time::Instant;

#[derive(Debug)]
pub(crate) struct KnownInstances {
    valid_for: Duration,
    instances: Mutex<HashMap<String, (Instance, Instant)>>,
    /// Whether this process may have lost the leader lock and can't find out: then it neither reads nor writes the store.
    store_away: AtomicBool,
}

impl KnownInstances {
    pub(crate) fn new(valid_for: Duration) -> Self {
        Self { valid_for, instances: Mutex::default(), store_away: AtomicBool::new(false) }
    }

    /// Forgets everything: another provisioner may have led since.
    pub(crate) fn reset(&self) {
        self.lock().clear();
        self.set_store_away(false);
    }

    /// Replaces everything by a complete read.
    pub(crate) fn replace(&self, all: &[Instance]) {
        let now = Instant::now();
        *self.lock() = all.iter().map(|it| (it.id.clone(), (it.clone(), now))).collect();
    }

    pub(crate) fn remember(&self, instance: &Instance) {
        self.lock().insert(instance.id.clone(), (instance.clone(), Instant::now()));
    }

    pub(crate) fn get(&self, id: &str) -> Option<Instance> {
        let instances = self.lock();
        instances.get(id).filter(|(_, read_at)| self.is_valid(*read_at)).map(|(instance, _)| instance.clone())
    }

    pub(crate) fn all(&self) -> Vec<Instance> {
        let instances = self.lock();
        let valid = instances.values().filter(|(_, read_at)| self.is_valid(*read_at));
        valid.map(|(instance, _)| instance.clone()).collect()
    }

    /// Returns whether it was away, and is back.
    pub(crate) fn set_store_away(&self, away: bool) -> bool {
        self.store_away.swap(away, Ordering::Relaxed) && !away
    }

    pub(crate) fn is_store_away(&self) -> bool {
        self.store_away.load(Ordering::Relaxed)
    }

    fn is_valid(&self, read_at: Instant) -> bool {
        read_at.elapsed() <= self.valid_for
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Instance, Instant)>> {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
