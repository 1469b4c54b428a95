//! The dedicated lanes of a backend. A session leases one for one request.
//!
//! Each takes a file descriptor of the proxy's, so a cache may have a part of those only, and a token half of that part:
//! the sessions of one token wait for each other, and those of one cache too.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};

use super::Backend;
use crate::lane::dedicated::DedicatedLane;
use crate::notify::LocalNotify;
use crate::protocol::request::Fault;

/// Leases of one backend at a time. Its memcached accepts 1,024 connections.
const LEASES_MAX: usize = 448;
/// A backend may have one in this many of the proxy's dedicated lanes.
const BACKEND_SHARE: usize = 4;
/// Idle lanes that stay open, and for how long.
const POOL_IDLE_MAX: usize = 4;
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Unless more than one in this many of the proxy's dedicated lanes is free, none stays open idle.
const FREE_SHARE_MIN: usize = 4;

/// The dedicated lanes that all backends of the proxy may have open: each takes a file descriptor.
#[derive(Debug, Clone)]
pub(crate) struct DedicatedLanes {
    free: Arc<Semaphore>,
    max: usize,
}

impl DedicatedLanes {
    pub(crate) fn new(max: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(max)), max }
    }

    /// Leases of one backend at a time.
    fn per_backend(&self) -> usize {
        (self.max / BACKEND_SHARE).clamp(1, LEASES_MAX)
    }

    /// Leases of one token at a time: half of a backend's.
    fn per_token(&self) -> usize {
        self.per_backend().div_ceil(2)
    }

    /// Whether lanes are too few for idle ones.
    fn is_scarce(&self) -> bool {
        self.free.available_permits() <= self.max / FREE_SHARE_MIN
    }

    /// Whether there are none, or fewer than `leased`: then who has leased so many has more than its part.
    fn has_fewer_than(&self, leased: usize) -> bool {
        self.free.available_permits() < leased.max(1)
    }
}

pub(super) struct DedicatedPool {
    /// Each with its file descriptor's permit.
    idle: RefCell<Vec<(DedicatedLane, OwnedSemaphorePermit)>>,
    slots: Semaphore,
    /// The cancel signal of every lease.
    cancels: RefCell<Vec<Weak<LocalNotify>>>,
}

/// A dedicated lane that one session uses. Dropping the lease closes the lane.
pub(crate) struct Lease<'a> {
    pub(crate) lane: DedicatedLane,
    /// Notified when the lane must be closed, because the route has changed.
    pub(crate) cancel: Rc<LocalNotify>,
    backend: &'a Backend,
    descriptor: OwnedSemaphorePermit,
    _slot: SemaphorePermit<'a>,
    _of_token: OwnedSemaphorePermit,
}

impl DedicatedPool {
    pub(super) fn new(lanes: &DedicatedLanes) -> Self {
        let slots = Semaphore::new(lanes.per_backend());
        Self { idle: RefCell::default(), slots, cancels: RefCell::default() }
    }

    pub(super) fn close(&self) {
        self.idle.borrow_mut().clear();
        for cancel in self.cancels.take().iter().filter_map(Weak::upgrade) {
            cancel.notify();
        }
    }

    /// The leases, which go on until they are cancelled.
    pub(super) fn take_leases(&self) -> Vec<Weak<LocalNotify>> {
        let mut leases = self.cancels.take();
        leases.retain(|cancel| cancel.strong_count() > 0);
        leases
    }

    pub(super) fn close_idle(&self) {
        self.idle.borrow_mut().retain(|(lane, _)| lane.idle_since.elapsed() < IDLE_TIMEOUT);
    }

    pub(super) fn close_all_idle(&self) {
        self.idle.borrow_mut().clear();
    }
}

impl Backend {
    /// Leases a dedicated lane: an idle one, or a new one. `of_token` limits the leases of the session's token, so that
    /// its sessions wait for each other and not the cache's other tokens for them.
    ///
    /// # Errors
    /// `TimedOut` if no lease becomes free within `time_limit`; `Unavailable` if memcached can't be reached: at once if
    /// another lane has just found that out, or does while this one waits.
    pub(crate) async fn lease(
        &self,
        of_token: &Arc<Semaphore>,
        time_limit: Duration,
    ) -> Result<Lease<'_>, Fault> {
        let reachability = &self.faults.reachability;
        let failure = reachability.next_failure();
        if reachability.is_away() {
            return Err(Fault::Unavailable);
        }
        tokio::select! {
            biased;
            lease = self.open_lease(of_token, time_limit) => lease,
            () = failure => Err(Fault::Unavailable),
        }
    }

    async fn open_lease(&self, of_token: &Arc<Semaphore>, time_limit: Duration) -> Result<Lease<'_>, Fault> {
        let pool = &self.dedicated;
        let acquire = async {
            let of_token = of_token.clone().acquire_owned().await?;
            let slot = pool.slots.acquire().await?;
            // An idle lane has a descriptor.
            let idle = pool.idle.borrow_mut().pop().filter(|(lane, _)| lane.is_reusable());
            let (lane, descriptor) = match idle {
                Some((lane, descriptor)) => (Some(lane), descriptor),
                None => (None, self.deps.dedicated.free.clone().acquire_owned().await?),
            };
            Ok((of_token, slot, lane, descriptor))
        };
        let acquired: Result<_, AcquireError> =
            timeout(time_limit, acquire).await.map_err(|_| Fault::TimedOut)?;
        let (of_token, slot, lane, descriptor) = acquired.map_err(|_| Fault::Unavailable)?;
        let route = self.route.borrow().clone().ok_or(Fault::Unavailable)?;
        let lane = match lane.filter(|lane| lane.generation == route.generation) {
            Some(lane) => lane,
            None => DedicatedLane::open(&route, self.faults.clone()).await.ok_or(Fault::Unavailable)?,
        };
        // The route may have changed while the lane was opened.
        if self.route.borrow().as_ref() != Some(&route) {
            return Err(Fault::Unavailable);
        }
        let cancel = Rc::new(LocalNotify::default());
        let mut cancels = pool.cancels.borrow_mut();
        cancels.retain(|cancel| cancel.strong_count() > 0);
        cancels.push(Rc::downgrade(&cancel));
        Ok(Lease { lane, cancel, backend: self, descriptor, _slot: slot, _of_token: of_token })
    }

    /// What limits the leases of one token.
    pub(crate) fn leases_of_token(&self) -> Arc<Semaphore> {
        Arc::new(Semaphore::new(self.deps.dedicated.per_token()))
    }

    /// Whether this backend has all leases that it may have: its part, and never more than the proxy has left.
    pub(crate) fn is_exhausted(&self) -> bool {
        let free = self.dedicated.slots.available_permits();
        free == 0
            || self.deps.dedicated.has_fewer_than(self.deps.dedicated.per_backend().saturating_sub(free))
    }

    /// Closes idle lanes if the proxy has few left.
    pub(crate) fn close_idle_if_scarce(&self) {
        if self.deps.dedicated.is_scarce() {
            self.dedicated.close_all_idle();
        }
    }
}

impl Lease<'_> {
    /// Returns the lane to the pool. Its last reply must have been read to the end.
    pub(crate) fn release(mut self) {
        let mut idle = self.backend.dedicated.idle.borrow_mut();
        let route = self.backend.route.borrow();
        let is_current = route.as_ref().is_some_and(|route| route.generation == self.lane.generation);
        if is_current && idle.len() < POOL_IDLE_MAX && !self.backend.deps.dedicated.is_scarce() {
            self.lane.idle_since = Instant::now();
            idle.push((self.lane, self.descriptor));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //
    #[test]
    fn cache_has_a_part_of_the_proxys_lanes_and_a_token_half_of_it() {
        for (max, per_backend, per_token) in
            [(1, 1, 1), (4, 1, 1), (92, 23, 12), (256, 64, 32), (6250, LEASES_MAX, LEASES_MAX / 2)]
        {
            let lanes = DedicatedLanes::new(max);
            assert_eq!((lanes.per_backend(), lanes.per_token()), (per_backend, per_token), "of {max}");
        }
    }

    //
    #[test]
    fn lanes_are_scarce_before_they_are_exhausted() {
        let lanes = DedicatedLanes::new(8);
        let mut taken = Vec::new();
        while !lanes.is_scarce() {
            taken.push(lanes.free.clone().try_acquire_owned().unwrap());
        }
        assert_eq!(taken.len(), 6);
        assert!(
            !lanes.has_fewer_than(2) && lanes.has_fewer_than(3),
            "a cache that has leased more than are left"
        );
        taken.extend((0..2).map(|_| lanes.free.clone().try_acquire_owned().unwrap()));
        assert!(lanes.has_fewer_than(0));
    }
}
