//! Instances that come back late; and waking one that sleeps: for a request that policy allows, never for a login.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use store::Grant;
use tokio::time::Instant;

use crate::report::wake::WakeSender;

/// Time after which a backend asks again.
const REQUEST_INTERVAL: Duration = Duration::from_secs(1);

/// What backends need to wake their instances.
#[derive(Debug, Clone, Default)]
pub(crate) struct WakeRequester {
    /// How long requests wait for an instance that may come back late.
    hold: Duration,
    sender: Option<WakeSender>,
}

impl WakeRequester {
    /// Requests wait for `hold`.
    pub(crate) fn new(hold: Duration, sender: WakeSender) -> Self {
        Self { hold, sender: Some(sender) }
    }
}

/// Whether a backend's instance sleeps, and when it was asked to wake.
#[derive(Debug)]
pub(super) struct SleepState {
    requester: WakeRequester,
    /// Its id, while it sleeps.
    asleep: RefCell<Option<String>>,
    retry_at: Cell<Option<Instant>>,
}

impl SleepState {
    pub(super) fn new(requester: WakeRequester) -> Self {
        Self { requester, asleep: RefCell::default(), retry_at: Cell::default() }
    }

    /// Takes from `grant` whether the instance sleeps. Returns how long requests wait for it if it may come back late.
    pub(super) fn update(&self, grant: &Grant) -> Option<Duration> {
        let asleep = grant.asleep.then(|| grant.instance_id.clone());
        if self.asleep.replace(asleep).is_none() {
            self.retry_at.set(None);
        }
        grant.comes_back_late.then_some(self.requester.hold)
    }

    /// Asks for the instance to be woken, if it sleeps, once a second at most.
    pub(super) fn wake(&self, now: Instant) {
        let asleep = self.asleep.borrow();
        let (Some(instance_id), Some(sender)) = (asleep.as_ref(), &self.requester.sender) else { return };
        if self.retry_at.get().is_none_or(|at| now >= at) && sender.try_send(instance_id.clone()).is_ok() {
            self.retry_at.set(Some(now + REQUEST_INTERVAL));
        }
    }
}
