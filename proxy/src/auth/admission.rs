//! Limits unauthenticated connections, in total and per source. Authenticated connections are not counted, so half-open
//! connections can't take their slots.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::transport::address::network;

/// Unauthenticated connections of one source: an IPv4 address or an IPv6 /64.
const PENDING_PER_SOURCE_MAX: usize = 64;
/// Further connections of one source that may queue for a slot while the proxy is less than half full: an application
/// that starts opens hundreds of connections at once, and each logs in within milliseconds.
const QUEUED_PER_SOURCE_MAX: usize = 256;
/// Time limit in that queue.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(1);
/// One in this many of the proxy's connections may be unauthenticated.
const PENDING_SHARE: usize = 4;
/// Connections being rejected with a reply; beyond this they are closed silently.
const REJECTING_MAX: usize = 256;

pub(crate) struct AdmissionLimiter {
    pending_max: usize,
    connections_max: usize,
    pending: AtomicUsize,
    rejecting: AtomicUsize,
    /// Sources that have unauthenticated connections, each with its slots.
    sources: DashMap<IpAddr, Arc<Semaphore>>,
}

/// Counts one unauthenticated connection until it is dropped.
pub(crate) struct Permit {
    /// Its slot among those of its source.
    slot: Option<(IpAddr, OwnedSemaphorePermit)>,
    limiter: Arc<AdmissionLimiter>,
    count: fn(&AdmissionLimiter) -> &AtomicUsize,
}

impl AdmissionLimiter {
    pub(crate) fn new(connections_max: usize) -> Arc<Self> {
        Arc::new(Self {
            pending_max: (connections_max / PENDING_SHARE).max(1),
            connections_max,
            pending: AtomicUsize::new(0),
            rejecting: AtomicUsize::new(0),
            sources: DashMap::new(),
        })
    }

    /// Admits a new connection, the `connections`th of all; `None` at the limit.
    pub(crate) fn admit(self: &Arc<Self>, connections: usize) -> Option<Permit> {
        if connections > self.connections_max {
            return None;
        }
        self.take(|limiter| &limiter.pending, self.pending_max)
    }

    /// Admits a connection that will only be told that there are too many.
    pub(crate) fn admit_for_rejection(self: &Arc<Self>) -> Option<Permit> {
        self.take(|limiter| &limiter.rejecting, REJECTING_MAX)
    }

    fn is_half_full(&self) -> bool {
        self.pending.load(Ordering::Acquire) > self.pending_max / 2
    }

    fn take(self: &Arc<Self>, count: fn(&Self) -> &AtomicUsize, max: usize) -> Option<Permit> {
        let permit = Permit { slot: None, limiter: self.clone(), count };
        (count(self).fetch_add(1, Ordering::AcqRel) < max).then_some(permit)
    }
}

impl Permit {
    /// Releases the slot to the next connection of the source.
    pub(crate) fn release_source_slot(&mut self) {
        if let Some((source, slot)) = self.slot.take() {
            drop(slot);
            self.limiter.remove_unused(source);
        }
    }

    /// Exchanges this permit for one to be rejected with a reply, so that a crowded source takes no permits of others.
    pub(crate) fn downgrade(self) -> Option<Self> {
        let limiter = self.limiter.clone();
        drop(self);
        limiter.admit_for_rejection()
    }

    /// Waits up to [`QUEUE_TIMEOUT`] for a slot of the source; returns whether there was one.
    pub(crate) async fn acquire_source_slot(&mut self, source: IpAddr) -> bool {
        let source = network(source);
        let queue = || Arc::new(Semaphore::new(PENDING_PER_SOURCE_MAX));
        let slots = self.limiter.sources.entry(source).or_insert_with(queue).value().clone();
        // One reference is the table's; each connection that holds or awaits a slot has another.
        let is_crowded = Arc::strong_count(&slots) - 1 > PENDING_PER_SOURCE_MAX + QUEUED_PER_SOURCE_MAX
            || self.limiter.is_half_full();
        // Even a zero timer takes a millisecond, and many connections can arrive in that time.
        let immediate = slots.clone().try_acquire_owned().ok();
        let slot = if immediate.is_some() || is_crowded {
            drop(slots);
            immediate
        } else {
            timeout(QUEUE_TIMEOUT, slots.acquire_owned()).await.ok().and_then(Result::ok)
        };
        self.slot = slot.map(|slot| (source, slot));
        if self.slot.is_none() {
            self.limiter.remove_unused(source);
        }
        self.slot.is_some()
    }
}

impl AdmissionLimiter {
    /// Removes a source without connections. A connection that is about to queue holds a reference to the semaphore.
    fn remove_unused(&self, source: IpAddr) {
        self.sources.remove_if(&source, |_, slots| {
            Arc::strong_count(slots) == 1 && slots.available_permits() == PENDING_PER_SOURCE_MAX
        });
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.release_source_slot();
        (self.count)(&self.limiter).fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test may leave a task to itself")]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

    async fn admit(limiter: &Arc<AdmissionLimiter>, source: IpAddr) -> Option<Permit> {
        let mut permit = limiter.admit(1)?;
        permit.acquire_source_slot(source).await.then_some(permit)
    }

    async fn queue(limiter: Arc<AdmissionLimiter>) -> Option<Permit> {
        admit(&limiter, HERE).await
    }

    #[tokio::test]
    async fn slots_and_queue_are_limited_per_source() {
        let limiter = AdmissionLimiter::new(10_000);
        let mut permits = Vec::new();
        for _ in 0..PENDING_PER_SOURCE_MAX {
            permits.push(admit(&limiter, HERE).await.unwrap());
        }
        assert!(admit(&limiter, HERE).await.is_none());
        // The queue is limited too, or one source could hold any number of connections.
        let queued: Vec<_> =
            (0..2 * QUEUED_PER_SOURCE_MAX).map(|_| tokio::spawn(queue(limiter.clone()))).collect();
        let began = std::time::Instant::now();
        while queued.iter().filter(|task| !task.is_finished()).count() > QUEUED_PER_SOURCE_MAX {
            assert!(began.elapsed() < QUEUE_TIMEOUT, "all of them queue");
            tokio::task::yield_now().await;
        }
        queued.iter().for_each(tokio::task::JoinHandle::abort);
        let other = admit(&limiter, THERE).await.unwrap();
        // A queued connection gets the slot of one that closes.
        let next = tokio::spawn(queue(limiter.clone()));
        tokio::task::yield_now().await;
        permits.pop();
        assert!(next.await.unwrap().is_some());
        drop((permits, other));
        assert_eq!(limiter.pending.load(Ordering::Acquire), 0);
        assert!(limiter.sources.is_empty(), "an unused source is kept");
    }

    //
    #[test]
    fn a_quarter_of_all_connections_may_be_unauthenticated() {
        let limiter = AdmissionLimiter::new(100);
        let permits: Vec<_> = (0..100).map_while(|_| limiter.admit(1)).collect();
        assert_eq!(permits.len(), 25);
        assert!(limiter.admit(1).is_none());
        drop(permits);
        assert!(limiter.admit(100).is_some());
        assert!(limiter.admit(101).is_none(), "authenticated connections count against the total");
        let rejected: Vec<_> = (0..1000).map_while(|_| limiter.admit_for_rejection()).collect();
        assert_eq!(rejected.len(), REJECTING_MAX);
        assert!(limiter.admit(1).is_some(), "rejected connections take no permits");
    }
}
