//! The side of a tenant towards its memcached: the route, the lanes along it, and the back-off after a
//! failure.
//!
//! Nothing here is shared between threads, and a lane can only be reached through the backend of its own
//! tenant: no pool is shared by two users.

pub(crate) mod dedicated_pool;
pub(crate) mod instance_networks;

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use store::{Grant, LaneKey};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::lane::faults::LaneFaults;
use crate::lane::{CloseReason, Lane, ReadBufferPool, Route};
use crate::metrics::usage::Usage;
use crate::metrics::{Metrics, PanicGuard};
use crate::protocol::request::{Fault, FlagSet};
use crate::transport::address::is_private;
use dedicated_pool::{DedicatedLanes, DedicatedPool};
use instance_networks::InstanceNetworks;

/// Shared lanes of one backend: about as many as memcached has threads. More would make the batches smaller.
const LANES: usize = 2;
/// The port of memcached in every container.
const PORT: u16 = 11211;
/// Time until a new lane is opened after one has failed. It doubles with every failure, up to `BACKOFF_MAX`.
const BACKOFF: Duration = Duration::from_millis(25);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// What all backends of one worker share.
pub(crate) struct BackendDeps {
    pub(crate) lane_key: LaneKey,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) tasks: TaskTracker,
    pub(crate) buffers: Rc<ReadBufferPool>,
    pub(crate) dedicated: DedicatedLanes,
    /// Where instances can be; without it, at any private address.
    pub(crate) networks: Option<InstanceNetworks>,
}

pub(crate) struct Backend {
    deps: BackendDeps,
    usage: Rc<Usage>,
    route: RefCell<Option<Route>>,
    lanes: RefCell<[Option<Rc<Lane>>; LANES]>,
    dedicated: DedicatedPool,
    faults: Rc<LaneFaults>,
    next_tag: Cell<u64>,
    /// The meta flags that memcached knows, once a lane has asked for its version.
    flags: Cell<FlagSet>,
    /// Lanes that have failed since the last one that worked.
    failures: Cell<u32>,
    retry_at: Cell<Instant>,
}

impl Backend {
    pub(crate) fn new(deps: BackendDeps, usage: Rc<Usage>) -> Self {
        let faults = Rc::new(LaneFaults::new(deps.metrics.clone()));
        let dedicated = DedicatedPool::new(&deps.dedicated);
        Self {
            deps,
            usage,
            route: RefCell::default(),
            lanes: RefCell::default(),
            dedicated,
            faults,
            next_tag: Cell::new(0),
            flags: Cell::default(),
            failures: Cell::new(0),
            retry_at: Cell::new(Instant::now()),
        }
    }

    /// Takes the route from `grant`. If it has changed, closes all lanes; none is opened along the old route
    /// again.
    pub(crate) fn set_route(&self, grant: &Grant) {
        let new = self.route_of(grant);
        let mut route = self.route.borrow_mut();
        if *route == new {
            return;
        }
        *route = new;
        drop(route);
        self.failures.set(0);
        self.retry_at.set(Instant::now());
        self.faults.reachability.reset();
        self.flags.set(FlagSet::Unknown);
        self.close();
    }

    fn route_of(&self, grant: &Grant) -> Option<Route> {
        let address = grant.address.as_deref()?.parse::<IpAddr>().ok()?.to_canonical();
        // Holds even if the store has been tampered with.
        let is_ours = self.deps.networks.is_none_or(|networks| networks.contains(address));
        if !is_ours || !is_private(address) || address.is_loopback() {
            tracing::error!(
                instance = grant.instance_id,
                "route address is none of an instance: refusing to connect; is provisioner.subnets the same here?"
            );
            return None;
        }
        Some(Route {
            address: SocketAddr::new(address, PORT),
            generation: grant.generation,
            credential: self.deps.lane_key.credential(&grant.instance_id, grant.generation),
            value_max: usize::try_from(grant.item_size_max).ok()?,
        })
    }

    /// Returns the lane of a session, whose number is `session`: the open lane, or a new one. `None` while
    /// memcached can't be reached.
    pub(crate) fn lane(self: &Rc<Self>, session: usize) -> Option<Rc<Lane>> {
        let open = self.open_lane(session);
        if open.is_some() {
            return open;
        }
        if Instant::now() < self.retry_at.get() || self.faults.reachability.is_away() {
            return None;
        }
        let route = self.route.borrow().clone()?;
        let lane = Lane::new(route.value_max, self.usage.clone());
        *self.lanes.borrow_mut().get_mut(session % LANES)? = Some(lane.clone());
        let (backend, running) = (self.clone(), lane.clone());
        self.deps.tasks.spawn_local(async move {
            let _panic_guard = PanicGuard::new(&backend.deps.metrics);
            backend.run_lane(&running, &route).await;
        });
        Some(lane)
    }

    /// Returns the lane of a session if it is already open.
    pub(crate) fn open_lane(&self, session: usize) -> Option<Rc<Lane>> {
        let lanes = self.lanes.borrow();
        lanes.get(session % LANES)?.as_ref().filter(|lane| lane.is_open()).cloned()
    }

    async fn run_lane(&self, lane: &Rc<Lane>, route: &Route) {
        let started = Instant::now();
        let reason = lane.run(route, &self.flags, &self.faults, &self.deps.buffers).await;
        for slot in self.lanes.borrow_mut().iter_mut() {
            if slot.as_ref().is_some_and(|other| Rc::ptr_eq(other, lane)) {
                *slot = None;
            }
        }
        if reason == CloseReason::Idle || self.route.borrow().as_ref() != Some(route) {
            return;
        }
        self.deps.metrics.lane_failures.inc();
        let failures = if started.elapsed() > BACKOFF_MAX * 4 { 0 } else { self.failures.get() };
        self.failures.set(failures.saturating_add(1));
        let wait = BACKOFF.saturating_mul(1 << failures.min(8)).min(BACKOFF_MAX);
        self.retry_at.set(Instant::now() + wait);
    }

    /// Closes all lanes. Requests in flight are answered that the backend is unavailable.
    pub(crate) fn close(&self) {
        for lane in self.lanes.borrow_mut().iter_mut().filter_map(Option::take) {
            lane.close(Fault::Unavailable);
        }
        self.dedicated.close();
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
