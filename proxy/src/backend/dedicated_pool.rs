//! The dedicated lanes of a backend. A session leases one for one request.

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
/// Leases of one token at a time: half of them.
pub(crate) const LEASES_PER_TOKEN_MAX: usize = LEASES_MAX / 2;
/// Idle lanes that stay open, and for how long.
const POOL_IDLE_MAX: usize = 4;
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

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
    pub(super) fn new() -> Self {
        Self { idle: RefCell::default(), slots: Semaphore::new(LEASES_MAX), cancels: RefCell::default() }
    }

    pub(super) fn close(&self) {
        self.idle.borrow_mut().clear();
        for cancel in self.cancels.take().iter().filter_map(Weak::upgrade) {
            cancel.notify();
        }
    }

    pub(super) fn close_idle(&self) {
        self.idle.borrow_mut().retain(|(lane, _)| lane.idle_since.elapsed() < IDLE_TIMEOUT);
    }
}

impl Backend {
    /// Leases a dedicated lane: an idle one, or a new one. `of_token` limits the leases of the session's token, so that
    /// its sessions wait for each other and not the cache's other tokens for them.
    ///
    /// # Errors
    /// `TimedOut` if no lease becomes free within `time_limit`; `Unavailable` if memcached can't be reached.
    pub(crate) async fn lease(
        &self,
        of_token: &Arc<Semaphore>,
        time_limit: Duration,
    ) -> Result<Lease<'_>, Fault> {
        let pool = &self.dedicated;
        let acquire = async {
            let of_token = of_token.clone().acquire_owned().await?;
            let slot = pool.slots.acquire().await?;
            // An idle lane has a descriptor.
            let idle = pool.idle.borrow_mut().pop().filter(|(lane, _)| lane.is_reusable());
            let (lane, descriptor) = match idle {
                Some((lane, descriptor)) => (Some(lane), descriptor),
                None => (None, self.deps.dedicated.clone().acquire_owned().await?),
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

    /// Whether all leases are taken.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.dedicated.slots.available_permits() == 0
    }
}

impl Lease<'_> {
    /// Returns the lane to the pool. Its last reply must have been read to the end.
    pub(crate) fn release(mut self) {
        let mut idle = self.backend.dedicated.idle.borrow_mut();
        let route = self.backend.route.borrow();
        let is_current = route.as_ref().is_some_and(|route| route.generation == self.lane.generation);
        if is_current && idle.len() < POOL_IDLE_MAX {
            self.lane.idle_since = Instant::now();
            idle.push((self.lane, self.descriptor));
        }
    }
}
