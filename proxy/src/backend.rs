//! The side of a tenant towards its memcached: the route, the lanes along it, and how long requests wait for one.
//!
//! Nothing here is shared between threads, and a lane can only be reached through the backend of its own
//! tenant: no pool is shared by two users.

pub(crate) mod dedicated_pool;
mod dial;
mod outage;
pub(crate) mod wake;

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use store::{Grant, InstanceNetworks, LaneKey};
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;

use crate::lane::faults::LaneFaults;
use crate::lane::{Lane, ReadBufferPool, Route};
use crate::metrics::Metrics;
use crate::metrics::usage::Usage;
use crate::notify::LocalNotify;
use crate::protocol::request::{Fault, FlagSet};
use crate::transport::address::is_private;
use dedicated_pool::{DedicatedLanes, DedicatedPool};
use dial::Slot;
use outage::Outage;
use wake::{SleepState, WakeRequester};

/// Shared lanes of one backend: about as many as memcached has threads. More would make the batches smaller.
const LANES: usize = 2;
/// How long requests in flight may take when there is no route any more: an instance that is stopped on purpose runs on for
/// that time, and one that is gone must not hold up its clients.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(100);
/// The port of memcached in every container.
const PORT: u16 = 11211;

/// What all backends of one worker share.
pub(crate) struct BackendDeps {
    pub(crate) lane_key: LaneKey,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) tasks: TaskTracker,
    pub(crate) buffers: Rc<ReadBufferPool>,
    pub(crate) dedicated: DedicatedLanes,
    /// Where instances can be; without it, at any private address.
    pub(crate) networks: Option<InstanceNetworks>,
    /// How long requests wait while an instance can't be reached.
    pub(crate) hold: Duration,
    /// Wakes those that sleep.
    pub(crate) wake_requester: WakeRequester,
}

pub(crate) struct Backend {
    deps: BackendDeps,
    usage: Rc<Usage>,
    route: RefCell<Option<Route>>,
    slots: [Slot; LANES],
    dedicated: DedicatedPool,
    faults: Rc<LaneFaults>,
    next_tag: Cell<u64>,
    /// The meta flags that memcached knows, once a lane has asked for its version.
    flags: Cell<FlagSet>,
    outage: Outage,
    sleep: SleepState,
    /// Whether a task opens lanes for the sessions that wait, and whether it is dialling just now.
    is_opening: Cell<bool>,
    is_dialling: Cell<bool>,
    /// Notifies that task when the route has changed.
    route_changed: LocalNotify,
}

impl Backend {
    pub(crate) fn new(deps: BackendDeps, usage: Rc<Usage>) -> Self {
        let faults = Rc::new(LaneFaults::new(deps.metrics.clone()));
        let dedicated = DedicatedPool::new(&deps.dedicated);
        let outage = Outage::new(deps.hold, Instant::now());
        let sleep = SleepState::new(deps.wake_requester.clone());
        Self {
            deps,
            usage,
            route: RefCell::default(),
            slots: Default::default(),
            dedicated,
            faults,
            next_tag: Cell::new(0),
            flags: Cell::default(),
            outage,
            sleep,
            is_opening: Cell::new(false),
            is_dialling: Cell::new(false),
            route_changed: LocalNotify::default(),
        }
    }

    /// Takes the route from `grant`. If it has changed, closes all lanes; none is opened along the old route
    /// again. If there is none any more, the instance may be about to be stopped: requests in flight get a moment for their
    /// replies.
    pub(crate) fn set_route(self: &Rc<Self>, grant: &Grant) {
        if let Some(hold) = self.sleep.update(grant) {
            self.outage.set_hold(hold);
        }
        let new = self.route_of(grant);
        let mut route = self.route.borrow_mut();
        if *route == new {
            return;
        }
        let is_away = new.is_none();
        *route = new;
        drop(route);
        self.outage.reset(Instant::now());
        self.faults.reachability.reset();
        if is_away {
            self.drain();
        } else {
            self.flags.set(FlagSet::Unknown);
            self.close();
        }
        self.route_changed.notify();
        self.open_lanes();
    }

    fn route_of(&self, grant: &Grant) -> Option<Route> {
        let address = grant.address.as_deref()?.parse::<IpAddr>().ok()?.to_canonical();
        // Holds even if the store has been tampered with.
        let is_ours = self.deps.networks.is_none_or(|networks| networks.contains(address));
        if !is_ours || !is_private(address) || address.is_loopback() {
            self.faults.misrouted(&grant.instance_id);
            return None;
        }
        Some(Route {
            address: SocketAddr::new(address, PORT),
            generation: grant.generation,
            credential: self.deps.lane_key.credential(&grant.instance_id, grant.generation),
            value_max: usize::try_from(grant.item_size_max).ok()?,
        })
    }

    /// Returns the lane of a session, whose number is `session`, if it is open.
    pub(crate) fn open_lane(&self, session: usize) -> Option<Rc<Lane>> {
        self.slot(session).open_lane()
    }

    fn slot(&self, session: usize) -> &Slot {
        let [even, odd] = &self.slots;
        if session.is_multiple_of(LANES) { even } else { odd }
    }

    /// Whether no lane can be opened, as far as is known, or none that has opened since has proved to work.
    pub(crate) fn is_away(&self) -> bool {
        self.outage.is_on()
    }

    /// Closes all lanes. Writes in flight are answered that the backend is unavailable.
    pub(crate) fn close(&self) {
        self.slots.iter().for_each(|slot| slot.close(Fault::Unavailable));
        self.dedicated.close();
    }

    /// Closes all lanes once their requests in flight are answered, and in any case soon.
    fn drain(&self) {
        let lanes: Vec<Rc<Lane>> = self.slots.iter().filter_map(Slot::drain).collect();
        self.dedicated.close_all_idle();
        let cancels = self.dedicated.take_leases();
        if lanes.is_empty() && cancels.is_empty() {
            return;
        }
        self.deps.tasks.spawn_local(async move {
            sleep(DRAIN_TIMEOUT).await;
            lanes.iter().for_each(|lane| lane.close(Fault::Unavailable));
            cancels.iter().filter_map(Weak::upgrade).for_each(|cancel| cancel.notify());
        });
    }

    /// The meta flags that memcached knows; unknown until a lane has been opened.
    pub(crate) fn flags(&self) -> FlagSet {
        self.flags.get()
    }

    /// Returns a tag for a request on a dedicated lane: a different one each time.
    pub(crate) fn next_tag(&self) -> u64 {
        let tag = self.next_tag.get();
        self.next_tag.set(tag.wrapping_add(1));
        tag
    }

    /// Closes dedicated lanes that have been idle for a minute.
    pub(crate) fn sweep(&self) {
        self.dedicated.close_idle();
    }

    /// The address of the route, for tests.
    #[cfg(test)]
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.route.borrow().as_ref().map(|route| route.address)
    }
}
