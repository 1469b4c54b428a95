//! How many may stand before the door at once, in all and from one source. Whoever has logged in is not
//! counted: however many strangers there are, those who are in stay in, and there is room for more.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::transport::address::network;

/// Strangers of one source: an address, or IPv6's network of 64 bits.
const SOURCE_MAX: usize = 64;
/// And so many more may wait for their turn, as long as half of the places are free: an application that starts
/// comes with hundreds at once, each known in a moment.
const QUEUED_PER_SOURCE_MAX: usize = 256;
/// So long.
const TURN: Duration = Duration::from_secs(1);
/// Of all connections that the proxy may hold, one in so many may be a stranger's.
const PENDING_SHARE: usize = 4;
/// Those who are told that there is no room, besides. Who comes then is told nothing.
const REJECTING_MAX: usize = 256;

pub(crate) struct AdmissionLimiter {
    strangers_max: usize,
    connections_max: usize,
    strangers: AtomicUsize,
    refused: AtomicUsize,
    /// A source is here as long as one of its strangers is.
    sources: DashMap<IpAddr, Arc<Semaphore>>,
}

/// A stranger's place, until it is dropped.
pub(crate) struct Permit {
    /// Its turn among those of its source.
    turn: Option<(IpAddr, OwnedSemaphorePermit)>,
    admission_limiter: Arc<AdmissionLimiter>,
    count: fn(&AdmissionLimiter) -> &AtomicUsize,
}

impl AdmissionLimiter {
    pub(crate) fn new(connections_max: usize) -> Arc<Self> {
        Arc::new(Self {
            strangers_max: (connections_max / PENDING_SHARE).max(1),
            connections_max,
            strangers: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            sources: DashMap::new(),
        })
    }

    /// A place for a new connection, the `connections`th of all; `None` when there is none.
    pub(crate) fn enter(self: &Arc<Self>, connections: usize) -> Option<Permit> {
        if connections > self.connections_max {
            return None;
        }
        self.take(|admission_limiter| &admission_limiter.strangers, self.strangers_max)
    }

    /// A place for one who is only to hear that there is no room.
    pub(crate) fn admit_for_rejection(self: &Arc<Self>) -> Option<Permit> {
        self.take(|admission_limiter| &admission_limiter.refused, REJECTING_MAX)
    }

    fn is_half_full(&self) -> bool {
        self.strangers.load(Ordering::Acquire) > self.strangers_max / 2
    }

    fn take(self: &Arc<Self>, count: fn(&Self) -> &AtomicUsize, most: usize) -> Option<Permit> {
        let place = Permit { turn: None, admission_limiter: self.clone(), count };
        (count(self).fetch_add(1, Ordering::AcqRel) < most).then_some(place)
    }
}

impl Permit {
    /// Lets the next of its source take its turn.
    pub(crate) fn release_source_slot(&mut self) {
        if let Some((source, turn)) = self.turn.take() {
            drop(turn);
            self.admission_limiter.forget(source);
        }
    }

    /// Leaves, for one of the places of those who are only to hear that there is no room: however many come from
    /// one source, they take nobody else's.
    pub(crate) fn downgrade(self) -> Option<Self> {
        let admission_limiter = self.admission_limiter.clone();
        drop(self);
        admission_limiter.admit_for_rejection()
    }

    /// Waits a moment for a turn among the strangers of its source; whether it came.
    pub(crate) async fn acquire_source_slot(&mut self, source: IpAddr) -> bool {
        let source = network(source);
        let queue = || Arc::new(Semaphore::new(SOURCE_MAX));
        let turns = self.admission_limiter.sources.entry(source).or_insert_with(queue).value().clone();
        // One is the table's, the others those of who stands here or waits.
        let is_crowded = Arc::strong_count(&turns) - 1 > SOURCE_MAX + QUEUED_PER_SOURCE_MAX
            || self.admission_limiter.is_half_full();
        // A timer of no time at all takes a millisecond, and in one many can come.
        let at_once = turns.clone().try_acquire_owned().ok();
        let turn = if at_once.is_some() || is_crowded {
            drop(turns);
            at_once
        } else {
            timeout(TURN, turns.acquire_owned()).await.ok().and_then(Result::ok)
        };
        self.turn = turn.map(|turn| (source, turn));
        if self.turn.is_none() {
            self.admission_limiter.forget(source);
        }
        self.turn.is_some()
    }
}

impl AdmissionLimiter {
    /// Forgets a source that has nobody here any more. Whoever is about to wait holds its semaphore.
    fn forget(&self, source: IpAddr) {
        self.sources.remove_if(&source, |_, turns| {
            Arc::strong_count(turns) == 1 && turns.available_permits() == SOURCE_MAX
        });
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.release_source_slot();
        (self.count)(&self.admission_limiter).fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

    async fn enter(admission_limiter: &Arc<AdmissionLimiter>, source: IpAddr) -> Option<Permit> {
        let mut place = admission_limiter.enter(1)?;
        place.acquire_source_slot(source).await.then_some(place)
    }

    async fn wait(admission_limiter: Arc<AdmissionLimiter>) -> Option<Permit> {
        enter(&admission_limiter, HERE).await
    }

    #[tokio::test]
    async fn a_source_has_so_many_places_and_another_its_own() {
        let admission_limiter = AdmissionLimiter::new(10_000);
        let mut places = Vec::new();
        for _ in 0..SOURCE_MAX {
            places.push(enter(&admission_limiter, HERE).await.unwrap());
        }
        assert!(enter(&admission_limiter, HERE).await.is_none());
        // Not all wait, or one source would have as many places as it likes.
        let queue: Vec<_> =
            (0..2 * QUEUED_PER_SOURCE_MAX).map(|_| tokio::spawn(wait(admission_limiter.clone()))).collect();
        let began = std::time::Instant::now();
        while queue.iter().filter(|waits| !waits.is_finished()).count() > QUEUED_PER_SOURCE_MAX {
            assert!(began.elapsed() < TURN, "all wait");
            tokio::task::yield_now().await;
        }
        queue.iter().for_each(tokio::task::JoinHandle::abort);
        let other = enter(&admission_limiter, THERE).await.unwrap();
        // Whoever waits is let in as soon as somebody is gone.
        let waits = tokio::spawn(wait(admission_limiter.clone()));
        tokio::task::yield_now().await;
        places.pop();
        assert!(waits.await.unwrap().is_some());
        drop((places, other));
        assert_eq!(admission_limiter.strangers.load(Ordering::Acquire), 0);
        assert!(admission_limiter.sources.is_empty(), "a source is kept for ever");
    }

    #[test]
    fn strangers_are_a_quarter_of_all() {
        let admission_limiter = AdmissionLimiter::new(100);
        let places: Vec<_> = (0..100).map_while(|_| admission_limiter.enter(1)).collect();
        assert_eq!(places.len(), 25);
        assert!(admission_limiter.enter(1).is_none());
        drop(places);
        assert!(admission_limiter.enter(100).is_some());
        assert!(admission_limiter.enter(101).is_none(), "those who are in count against the limit of all");
        let refused: Vec<_> = (0..1000).map_while(|_| admission_limiter.admit_for_rejection()).collect();
        assert_eq!(refused.len(), REJECTING_MAX);
        assert!(admission_limiter.enter(1).is_some(), "who is refused takes nobody's place");
    }
}
