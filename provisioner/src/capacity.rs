//! The memory of this machine, shared out to instances: the sum of their containers' limits has a budget.
//! Beyond it no container is created, so that sign-ups can't take the memory of the caches that run. Containers
//! count with the size that they have, not with the one that their instances are to get.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::gauge::Gauge;
use store::{DesiredState, HostCapacity, Instance, Timestamp};
use tokio::sync::{Mutex as AsyncMutex, Notify};
use tokio::time::Instant;

use crate::config::Config;
use crate::error::Error;
use crate::plan::Container;
use crate::spec::Spec;

const MIB: i64 = 1 << 20;
/// Waiting instances that are tried again when memory is released.
const WOKEN_MAX: usize = 32;

/// The budget and what is reserved of it.
#[derive(Debug)]
pub(crate) struct Capacity {
    /// Bytes.
    budget: i64,
    reservations: Mutex<Reservations>,
    /// Whether the containers that existed at the start are counted.
    counted: AsyncMutex<bool>,
    released: Notify,
    gauges: CapacityGauges,
}

/// Metrics. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct CapacityGauges {
    /// Bytes.
    pub(crate) budget: Gauge,
    /// Bytes.
    pub(crate) reserved: Gauge,
    /// Instances.
    pub(crate) waiting: Gauge,
}

#[derive(Debug, Default)]
struct Reservations {
    by_instance: HashMap<String, Reservation>,
    /// The sum of their bytes. A sum of so many container limits fits: each is at most some terabytes.
    total: i128,
    /// Since when instances wait.
    waiting: BTreeMap<String, Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Reservation {
    bytes: i64,
    /// When the instance reserved its first memory.
    begun_at: Instant,
}

/// The memory limits of the instances in the store, and what they may be in sum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct PromisedMemory {
    /// The sum of the limits.
    pub promised_bytes: i64,
    /// Its maximum.
    pub budget_bytes: i64,
}

impl PromisedMemory {
    /// Adds up the limits of the instances that run, or wait for room.
    #[must_use]
    pub fn of<'a>(config: &Config, instances: impl IntoIterator<Item = &'a Instance>) -> Self {
        let wanted = instances.into_iter().filter(|instance| instance.desired == DesiredState::Running);
        let limits = wanted.filter_map(|instance| Spec::of(instance).ok()).map(|spec| spec.memory_limit());
        Self { promised_bytes: limits.fold(0, i64::saturating_add), budget_bytes: budget_bytes(config) }
    }
}

/// The configured budget, or that part of the machine's memory. Most caches never fill: an idle one of 64 MB has a limit of
/// 140 MB and uses about 5. Three times the memory lets a machine of 16 GB run 300 such caches.
fn budget_bytes(config: &Config) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "the setting is checked: at most 100")]
    let percent = (config.overcommit * 100.0) as i64;
    let machine = i64::try_from(daemon::memory::machine_bytes()).unwrap_or(i64::MAX);
    let default = || (machine / 100).saturating_mul(percent);
    config.memory_mb.map_or_else(default, |mb| i64::from(mb).saturating_mul(MIB))
}

impl Capacity {
    pub(crate) fn new(config: &Config, gauges: CapacityGauges) -> Self {
        let budget = budget_bytes(config);
        gauges.budget.set(budget);
        let reservations = Mutex::default();
        Self { budget, reservations, counted: AsyncMutex::default(), released: Notify::new(), gauges }
    }

    /// Forgets everything: another provisioner may have led since.
    pub(crate) async fn reset(&self) {
        *self.counted.lock().await = false;
        let mut reservations = self.lock();
        *reservations = Reservations::default();
        self.show(&reservations);
    }

    /// Counts the instances that have containers (see [`memory_of`]), once.
    ///
    /// # Errors
    /// The error of `existing`; then the next call tries again.
    pub(crate) async fn count_existing(
        &self,
        existing: impl Future<Output = Result<HashMap<String, i64>, Error>>,
    ) -> Result<(), Error> {
        let mut counted = self.counted.lock().await;
        if *counted {
            return Ok(());
        }
        let existing = existing.await?;
        *counted = true;
        let mut reservations = self.lock();
        for (instance, bytes) in existing {
            if !reservations.by_instance.contains_key(&instance) {
                reservations.set(&instance, Some(bytes));
            }
        }
        self.show(&reservations);
        Ok(())
    }

    /// Whether the containers that existed at the start are counted.
    pub(crate) async fn is_counted(&self) -> bool {
        *self.counted.lock().await
    }

    /// The figures for those who want more memory; `None` before the containers that existed at the start are counted.
    pub(crate) async fn figures(&self) -> Option<HostCapacity> {
        if !*self.counted.lock().await {
            return None;
        }
        let reservations = self.lock();
        let free = self.budget.saturating_sub(reservations.total()).max(0);
        Some(HostCapacity {
            budget_bytes: self.budget,
            reserved_bytes: reservations.total(),
            growth_mb: free / MIB * 4 / 5,
            waiting: i64::try_from(reservations.waiting.len()).unwrap_or(i64::MAX),
            changed_at: Timestamp::EPOCH,
        })
    }

    /// Reserves memory for an instance, instead of what it has reserved. An instance never needs more room for
    /// what it has already.
    ///
    /// # Errors
    /// [`Error::NoMemory`] beyond the budget; the instance then waits.
    pub(crate) fn reserve(&self, instance: &str, bytes: i64) -> Result<(), Error> {
        let mut reservations = self.lock();
        let held = reservations.bytes(instance).unwrap_or(0);
        let others = reservations.total().saturating_sub(held);
        if bytes > held && others.saturating_add(bytes) > self.budget {
            if reservations.waiting.is_empty() {
                tracing::warn!(
                    budget_mb = self.budget / MIB,
                    "no memory for another cache: those that run are kept, new ones wait; \
                     free memory, or set provisioner.overcommit or provisioner.memory_mb"
                );
            }
            reservations.waiting.entry(instance.to_owned()).or_insert_with(Instant::now);
            self.show(&reservations);
            return Err(Error::NoMemory);
        }
        self.hold(&mut reservations, instance, bytes);
        Ok(())
    }

    /// What an instance has reserved.
    pub(crate) fn reserved_bytes(&self, instance: &str) -> Option<i64> {
        self.lock().bytes(instance)
    }

    /// Counts what an instance has, if that is known. It needs nothing else, so it doesn't wait any more.
    pub(crate) fn settle(&self, instance: &str, bytes: Option<i64>) {
        let mut reservations = self.lock();
        match bytes.or_else(|| reservations.bytes(instance)) {
            Some(bytes) => self.hold(&mut reservations, instance, bytes),
            None => {
                reservations.waiting.remove(instance);
                self.show(&reservations);
            }
        }
    }

    /// Releases what an instance has reserved.
    pub(crate) fn release(&self, instance: &str) {
        let mut reservations = self.lock();
        let released = reservations.set(instance, None).is_some();
        reservations.waiting.remove(instance);
        self.show(&reservations);
        if released {
            self.released.notify_one();
        }
    }

    /// Forgets instances that exist no more. `known` are those that do, by a read that began at `read_at`: it may lack instances
    /// that have reserved memory since.
    pub(crate) fn retain(&self, known: &HashSet<String>, read_at: Instant) {
        let gone: Vec<String> = {
            let reservations = self.lock();
            let reserved = reservations.by_instance.iter().map(|(instance, it)| (instance, it.begun_at));
            let waiting = reservations.waiting.iter().map(|(instance, since)| (instance, *since));
            let gone = reserved.chain(waiting);
            let gone = gone.filter(|(instance, begun_at)| *begun_at < read_at && !known.contains(*instance));
            gone.map(|(instance, _)| instance.clone()).collect()
        };
        for instance in gone {
            self.release(&instance);
        }
    }

    /// Bytes that nothing has reserved.
    pub(crate) fn free(&self) -> i64 {
        self.budget.saturating_sub(self.lock().total())
    }

    /// How many instances wait for memory.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Waits until memory is released, and returns instances that wait for some.
    pub(crate) async fn room(&self) -> Vec<String> {
        self.released.notified().await;
        self.lock().waiting.keys().take(WOKEN_MAX).cloned().collect()
    }

    fn hold(&self, reservations: &mut Reservations, instance: &str, bytes: i64) {
        let before = reservations.set(instance, Some(bytes));
        reservations.waiting.remove(instance);
        self.show(reservations);
        if before.is_some_and(|before| bytes < before) {
            self.released.notify_one();
        }
    }

    fn show(&self, reservations: &Reservations) {
        self.gauges.reserved.set(reservations.total());
        self.gauges.waiting.set(i64::try_from(reservations.waiting.len()).unwrap_or(i64::MAX));
    }

    fn lock(&self) -> MutexGuard<'_, Reservations> {
        self.reservations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservations {
    fn total(&self) -> i64 {
        i64::try_from(self.total).unwrap_or(i64::MAX)
    }

    fn bytes(&self, instance: &str) -> Option<i64> {
        self.by_instance.get(instance).map(|reservation| reservation.bytes)
    }

    /// Sets or removes what an instance has reserved; returns what it had.
    fn set(&mut self, instance: &str, bytes: Option<i64>) -> Option<i64> {
        let before = self.by_instance.get(instance).copied();
        if let Some(bytes) = bytes {
            let begun_at = before.map_or_else(Instant::now, |before| before.begun_at);
            self.by_instance.insert(instance.to_owned(), Reservation { bytes, begun_at });
        } else {
            self.by_instance.remove(instance);
        }
        let before = before.map(|before| before.bytes);
        self.total += i128::from(bytes.unwrap_or(0)) - i128::from(before.unwrap_or(0));
        before
    }
}

/// The memory limits of containers in bytes, by instance: those that they have, if they were inspected, or were created
/// with. Of several containers of one instance the largest counts: the others are about to be removed.
pub(crate) fn memory_of(containers: &[Container]) -> HashMap<String, i64> {
    let mut bytes = HashMap::new();
    for container in containers.iter().filter(|it| !it.is_holder) {
        let Some(spec) = Spec::from_label(&container.spec) else { continue };
        let has = container.limits.as_ref().map(|limits| limits.memory).filter(|memory| *memory > 0);
        let held: &mut i64 = bytes.entry(container.instance.clone()).or_default();
        *held = has.unwrap_or_else(|| spec.memory_limit()).max(*held);
    }
    bytes
}

#[cfg(test)]
mod tests;
