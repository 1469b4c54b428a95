//! What was last read of the store. Each resync replaces it, so it is valid for longer than the time between two of them.
//!
//! With it, a container that has stopped is started although the store is away (F-34). For that it is believed only for as
//! long as a released address stays unused: until then no other instance has one of these addresses.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use store::{Instance, InstanceState};
use tokio::time::Instant;

/// How long a resync may take.
const RESYNC_MAX: Duration = Duration::from_mins(5);

#[derive(Debug)]
pub(crate) struct KnownInstances {
    valid_for: Duration,
    /// The same while the store is away.
    valid_alone_for: Duration,
    instances: Mutex<HashMap<String, (Instance, Instant)>>,
    /// Whether this process may have lost the leader lock and can't find out: then it neither reads nor writes the store.
    store_away: AtomicBool,
}

impl KnownInstances {
    pub(crate) fn new(resync_interval: Duration, address_cooldown: Duration) -> Self {
        Self {
            valid_for: resync_interval.saturating_mul(2).saturating_add(RESYNC_MAX),
            valid_alone_for: address_cooldown,
            instances: Mutex::default(),
            store_away: AtomicBool::new(false),
        }
    }

    /// Forgets everything: another provisioner may have led since.
    pub(crate) fn reset(&self) {
        self.lock().clear();
        self.set_store_away(false);
    }

    /// Replaces what was remembered before `read_at`, when a complete read of the store began. What was remembered later stays: it
    /// may be newer than the read.
    pub(crate) fn replace(&self, all: &[Instance], read_at: Instant) {
        let mut instances = self.lock();
        instances.retain(|_, (_, remembered_at)| *remembered_at >= read_at);
        for instance in all {
            instances.entry(instance.id.clone()).or_insert_with(|| (instance.clone(), read_at));
        }
    }

    pub(crate) fn remember(&self, instance: &Instance) {
        self.lock().insert(instance.id.clone(), (instance.clone(), Instant::now()));
    }

    pub(crate) fn get(&self, id: &str) -> Option<Instance> {
        self.get_within(id, self.valid_for)
    }

    pub(crate) fn all(&self) -> Vec<Instance> {
        self.all_within(self.valid_for)
    }

    /// The ids of those that have failed.
    pub(crate) fn failed(&self) -> BTreeSet<String> {
        let instances = self.lock();
        let valid = instances.values().filter(|(_, read_at)| read_at.elapsed() <= self.valid_for);
        let failed = valid.filter(|(it, _)| it.state() == InstanceState::Failed && !it.is_gone());
        failed.map(|(instance, _)| instance.id.clone()).collect()
    }

    /// What may be believed of an instance without the store.
    pub(crate) fn get_alone(&self, id: &str) -> Option<Instance> {
        self.get_within(id, self.valid_alone_for)
    }

    /// What may be believed without the store.
    pub(crate) fn all_alone(&self) -> Vec<Instance> {
        self.all_within(self.valid_alone_for)
    }

    /// Returns whether it was away, and is back.
    pub(crate) fn set_store_away(&self, away: bool) -> bool {
        self.store_away.swap(away, Ordering::Relaxed) && !away
    }

    pub(crate) fn is_store_away(&self) -> bool {
        self.store_away.load(Ordering::Relaxed)
    }

    fn get_within(&self, id: &str, limit: Duration) -> Option<Instance> {
        let instances = self.lock();
        let found = instances.get(id).filter(|(_, read_at)| read_at.elapsed() <= limit);
        found.map(|(instance, _)| instance.clone())
    }

    fn all_within(&self, limit: Duration) -> Vec<Instance> {
        let instances = self.lock();
        let valid = instances.values().filter(|(_, read_at)| read_at.elapsed() <= limit);
        valid.map(|(instance, _)| instance.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Instance, Instant)>> {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use store::DesiredState;

    use super::*;
    use crate::plan::tests::instance;

    fn named(id: &str) -> Instance {
        Instance { id: id.into(), ..instance(DesiredState::Running, None) }
    }

    /// As if that much time had passed.
    fn pass(known: &KnownInstances, seconds: u64) {
        for (_, read_at) in known.lock().values_mut() {
            *read_at = read_at.checked_sub(Duration::from_secs(seconds)).unwrap();
        }
    }

    // F-34, R-49.
    #[test]
    fn what_is_believed_without_the_store_expires_before_the_rest() {
        let known = KnownInstances::new(Duration::from_secs(20), Duration::from_secs(10));
        known.replace(&[named("a"), named("b")], Instant::now());
        assert_eq!((known.all().len(), known.all_alone().len()), (2, 2));
        pass(&known, 11);
        assert_eq!((known.all_alone(), known.get_alone("a")), (vec![], None));
        known.remember(&named("b"));
        assert!(known.get_alone("b").is_some() && known.get_alone("a").is_none());
        pass(&known, 40);
        assert_eq!(
            (known.all().len(), known.get("a").is_some()),
            (2, true),
            "a resync may fail, or take long"
        );
        pass(&known, RESYNC_MAX.as_secs());
        assert_eq!(known.all(), []);
    }

    #[test]
    fn a_pass_replaces_nothing_that_is_newer_than_its_read() {
        let known = KnownInstances::new(Duration::from_secs(20), Duration::from_secs(10));
        let route = |state| crate::plan::tests::route(state, 1);
        let failed = |id: &str| Instance { route: route(InstanceState::Failed), ..named(id) };
        known.replace(&[failed("gone"), failed("mended"), named("broken")], Instant::now());
        assert_eq!(known.failed(), BTreeSet::from(["gone".into(), "mended".into()]));
        pass(&known, 1);
        let read_at = Instant::now();
        for newer in [named("new"), named("mended"), failed("broken")] {
            known.remember(&newer);
        }
        known.replace(&[failed("mended"), named("broken"), named("other")], read_at);
        assert_eq!(known.all().len(), 4, "{:?}", known.all());
        assert_eq!(known.failed(), BTreeSet::from(["broken".into()]));
        pass(&known, 1);
        known.replace(&[named("other")], Instant::now());
        assert_eq!(known.all().len(), 1);
    }
}
