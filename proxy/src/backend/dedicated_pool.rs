//! The lanes that an instance's clients have to themselves, each for a while.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::SemaphorePermit;
use tokio::time::{Instant, timeout};

use crate::lane::dedicated::Own;
use crate::notify::LocalNotify;
use crate::protocol::request::Fault;
use crate::tenant::Tenant;

/// Of those that nobody uses now, so many stay open, so long.
const KEPT: usize = 4;
const IDLE: Duration = Duration::from_secs(60);

impl Tenant {
    /// A lane for one client: one that waits, or a new one.
    pub(crate) async fn own_lane(&self, patience: Duration) -> Result<OwnLane<'_>, Fault> {
        let slot = timeout(patience, self.own_slots.acquire()).await.map_err(|_| Fault::TimedOut)?;
        let slot = slot.map_err(|_| Fault::Unavailable)?;
        let target = self.target.borrow().clone().ok_or(Fault::Unavailable)?;
        let kept = self.own_lanes.borrow_mut().pop().filter(Own::is_clean);
        let own = match kept {
            Some(own) => own,
            None => Own::open(&target).await.map_err(|error| {
                tracing::debug!(address = %target.address, %error, "no lane of its own for a client");
                Fault::Unavailable
            })?,
        };
        // The route may have changed meanwhile.
        if self.target.borrow().as_ref() != Some(&target) {
            return Err(Fault::Unavailable);
        }
        let cancel = Rc::new(LocalNotify::default());
        let mut cancels = self.cancels.borrow_mut();
        cancels.retain(|cancel| cancel.strong_count() > 0);
        cancels.push(Rc::downgrade(&cancel));
        Ok(OwnLane { own, cancel, tenant: self, _slot: slot })
    }

    /// Whether others wait for a lane of their own.
    pub(crate) fn own_lanes_are_short(&self) -> bool {
        self.own_slots.available_permits() == 0
    }

    /// A tag for a request on a client's own lane, another each time.
    pub(crate) fn tag(&self) -> u64 {
        let tag = self.next_tag.get();
        self.next_tag.set(tag.wrapping_add(1));
        tag
    }

    /// Closes lanes that nobody needs any more, and forgets tokens that have no connections left.
    pub(crate) fn tidy(&self) {
        self.own_lanes.borrow_mut().retain(|own| own.since.elapsed() < IDLE);
        self.passes.borrow_mut().retain(|_, pass| pass.strong_count() > 0);
    }
}

/// A lane that one client has to itself. Dropped, it is closed.
pub(crate) struct OwnLane<'a> {
    pub(crate) own: Own,
    /// Given when the lane must end.
    pub(crate) cancel: Rc<LocalNotify>,
    tenant: &'a Tenant,
    _slot: SemaphorePermit<'a>,
}

impl OwnLane<'_> {
    /// For the next client: all has been said that there was to say.
    pub(crate) fn give_back(mut self) {
        let mut kept = self.tenant.own_lanes.borrow_mut();
        let led_here =
            self.tenant.target.borrow().as_ref().is_some_and(|it| it.generation == self.own.generation);
        if led_here && kept.len() < KEPT {
            self.own.since = Instant::now();
            kept.push(self.own);
        }
    }
}
