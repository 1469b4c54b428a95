//! Opens lanes for the sessions that wait for one. However many wait, one dial at a time is on its way: while an instance
//! restarts, thousands of sessions cost no more than one, and all wake once, when their lane is open.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use super::Backend;
use crate::lane::connect::{self, ConnectError};
use crate::lane::{CloseReason, Lane, REPLY_TIMEOUT, Route};
use crate::metrics::{ConnectionGuard, PanicGuard};
use crate::protocol::request::{Fault, FlagSet};

/// The place of one shared lane.
#[derive(Default)]
pub(super) struct Slot {
    lane: RefCell<Option<Rc<Lane>>>,
    /// Sessions that wait for the lane.
    waiting: Cell<usize>,
    /// Wakes them: the lane has opened, or a dial has failed that is the last they wait for.
    settled: Notify,
}

/// Counts something until it is dropped.
struct CountGuard<'a>(&'a Cell<usize>);

impl<'a> CountGuard<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.update(|count| count + 1);
        Self(count)
    }
}

impl Drop for CountGuard<'_> {
    fn drop(&mut self) {
        self.0.update(|count| count.saturating_sub(1));
    }
}

/// Lowers a flag when it is dropped, even by a panic.
struct FlagGuard<'a>(&'a Cell<bool>);

impl<'a> FlagGuard<'a> {
    fn new(flag: &'a Cell<bool>) -> Self {
        flag.set(true);
        Self(flag)
    }
}

impl Drop for FlagGuard<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl Slot {
    pub(super) fn open_lane(&self) -> Option<Rc<Lane>> {
        self.lane.borrow().as_ref().filter(|lane| lane.is_open()).cloned()
    }

    pub(super) fn close(&self, fault: Fault) {
        if let Some(lane) = self.lane.take() {
            lane.close(fault);
        }
    }

    /// Takes the lane out, which accepts no more requests.
    pub(super) fn drain(&self) -> Option<Rc<Lane>> {
        self.lane.take().inspect(|lane| lane.drain())
    }

    /// Whether sessions wait for a lane that isn't open.
    fn is_wanted(&self) -> bool {
        self.waiting.get() > 0 && self.open_lane().is_none()
    }
}

impl Backend {
    /// How much longer a request of a session may wait for its lane if it has waited for `waited`; `None` if it is answered
    /// now that the backend is unavailable.
    pub(crate) fn wait_limit(&self, waited: Duration) -> Option<Duration> {
        let now = Instant::now();
        let works = self.slots.iter().filter_map(Slot::open_lane).filter(|lane| lane.has_worked(now));
        works.for_each(|lane| self.outage.end_before(lane.opened_at()));
        let has_route = self.route.borrow().is_some();
        if !has_route {
            self.outage.begin_without_route(now);
            self.sleep.wake(now);
        }
        let may_dial = has_route && now >= self.outage.retry_at() && !self.faults.reachability.is_away();
        self.outage.wait_limit(waited, may_dial || self.is_dialling.get(), now)
    }

    /// Waits for the lane of a session, for `limit` at most, which is what [`Backend::wait_limit`] allows. Returns whether it
    /// is open; if not, ask again.
    pub(crate) async fn wait_for_lane(self: &Rc<Self>, session: usize, limit: Duration) -> bool {
        let slot = self.slot(session);
        if slot.open_lane().is_some() {
            return true;
        }
        let settled = slot.settled.notified();
        let _waiting = CountGuard::new(&slot.waiting);
        let _gauge = ConnectionGuard::new(&self.deps.metrics.held_sessions);
        self.open_lanes();
        tokio::select! {
            biased;
            () = settled => {}
            () = sleep(limit) => {}
        }
        slot.open_lane().is_some()
    }

    /// A dedicated lane couldn't be opened, for a request that has waited for it since `begun`. Returns whether no shared lane
    /// is open either, so that the backend is away.
    pub(crate) fn lease_failed(&self, begun: Instant) -> bool {
        let is_away = self.slots.iter().all(|slot| slot.open_lane().is_none());
        if is_away {
            self.outage.fail(Some(begun), Instant::now());
        }
        is_away
    }

    /// Whether a read that was in flight on a lane that has failed is sent again.
    pub(crate) fn repeats_reads(&self) -> bool {
        self.outage.holds()
    }

    /// Starts the task that opens lanes, unless it runs or nobody waits.
    pub(super) fn open_lanes(self: &Rc<Self>) {
        if self.is_opening.get() || !self.slots.iter().any(Slot::is_wanted) {
            return;
        }
        self.is_opening.set(true);
        let backend = self.clone();
        self.deps.tasks.spawn_local(async move {
            let _panic_guard = PanicGuard::new(&backend.deps.metrics);
            let _opening = FlagGuard::new(&backend.is_opening);
            backend.open_wanted_lanes().await;
        });
    }

    /// Opens lanes until nobody waits for one, or there is no route.
    async fn open_wanted_lanes(self: &Rc<Self>) {
        while let Some(slot) = self.slots.iter().position(Slot::is_wanted) {
            let Some(route) = self.route.borrow().clone() else { return };
            let dial = async {
                sleep_until(self.outage.retry_at()).await;
                let _dialling = FlagGuard::new(&self.is_dialling);
                let begun_at = Instant::now();
                (begun_at, connect::connect(&route).await)
            };
            let (begun_at, connected) = tokio::select! {
                biased;
                () = self.route_changed.notified() => continue,
                dialled = dial => dialled,
            };
            if self.route.borrow().as_ref() != Some(&route) {
                continue;
            }
            match connected {
                Ok((stream, flags)) => self.serve_lane(slot, route, (stream, flags)),
                Err(error) => self.dial_failed(&route, begun_at, &error),
            }
        }
    }

    fn serve_lane(self: &Rc<Self>, slot: usize, route: Route, (stream, flags): (TcpStream, FlagSet)) {
        let Some(place) = self.slots.get(slot) else { return };
        self.flags.set(flags);
        self.faults.reachability.answered();
        self.outage.set_hold(self.deps.hold);
        let lane = Lane::new(route.value_max, self.usage.clone(), self.outage.holds());
        place.lane.replace(Some(lane.clone()));
        let backend = self.clone();
        self.deps.tasks.spawn_local(async move {
            let _panic_guard = PanicGuard::new(&backend.deps.metrics);
            backend.run_lane(&lane, &route, &stream).await;
        });
        place.settled.notify_waiters();
    }

    async fn run_lane(&self, lane: &Rc<Lane>, route: &Route, stream: &TcpStream) {
        let reason = lane.run(stream, route.address, &self.faults, &self.deps.buffers).await;
        for slot in &self.slots {
            slot.lane.borrow_mut().take_if(|other| Rc::ptr_eq(other, lane));
        }
        if self.route.borrow().as_ref() != Some(route) {
            return;
        }
        let now = Instant::now();
        let silence = match reason {
            CloseReason::Idle => return self.outage.end(),
            CloseReason::Failed(Fault::TimedOut) => REPLY_TIMEOUT,
            CloseReason::Failed(Fault::Unavailable) => Duration::ZERO,
        };
        self.deps.metrics.lane_failures.inc();
        if lane.has_worked(now) {
            self.outage.end();
        }
        let since = now.checked_sub(silence).unwrap_or(now);
        self.outage.fail(lane.has_interrupted().then_some(since), now);
    }

    fn dial_failed(&self, route: &Route, begun_at: Instant, error: &ConnectError) {
        self.faults.connect_failed(route.address, error);
        self.deps.metrics.lane_failures.inc();
        let now = Instant::now();
        self.outage.fail(Some(begun_at), now);
        if self.outage.is_past_hold(now) {
            self.slots.iter().for_each(|slot| slot.settled.notify_waiters());
        }
    }
}

#[cfg(test)]
mod tests;
