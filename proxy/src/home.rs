//! An instance at home: the worker thread where all of its user's connections meet, and its lanes.
//!
//! Nothing here is shared between threads, and no lane is reachable but through its own instance: there
//! is no pool that two users could share.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use store::{Grant, LaneKey};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::accept::is_private;
use crate::lane::{End, Lane, Target};
use crate::metrics::Metrics;
use crate::request::Fault;

/// Lanes of one instance: about as many as its memcached has threads; more would dilute the batches.
const LANES: usize = 2;
/// memcached's port in every container.
const PORT: u16 = 11211;
/// After a failed lane the next is tried so much later, twice as much each time, up to the last.
const BACKOFF: Duration = Duration::from_millis(25);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

pub(crate) struct Home {
    lane_key: LaneKey,
    metrics: std::sync::Arc<Metrics>,
    tasks: TaskTracker,
    /// Where lanes read into; used between two awaits only, so one for all is enough.
    scratch: Rc<RefCell<Vec<u8>>>,
    target: RefCell<Option<Target>>,
    lanes: RefCell<[Option<Rc<Lane>>; LANES]>,
    failures: Cell<u32>,
    retry_at: Cell<Instant>,
    clients: Cell<usize>,
    next_seat: Cell<usize>,
    left_at: Cell<Instant>,
}

/// What a home shares with the others of its worker.
pub(crate) struct Furniture {
    pub(crate) lane_key: LaneKey,
    pub(crate) metrics: std::sync::Arc<Metrics>,
    pub(crate) tasks: TaskTracker,
    pub(crate) scratch: Rc<RefCell<Vec<u8>>>,
}

impl Home {
    pub(crate) fn new(furniture: Furniture) -> Rc<Self> {
        let Furniture { lane_key, metrics, tasks, scratch } = furniture;
        Rc::new(Self {
            lane_key,
            metrics,
            tasks,
            scratch,
            target: RefCell::default(),
            lanes: RefCell::default(),
            failures: Cell::new(0),
            retry_at: Cell::new(Instant::now()),
            clients: Cell::new(0),
            next_seat: Cell::new(0),
            left_at: Cell::new(Instant::now()),
        })
    }

    /// Follows the route in `grant`. On a change the old lanes end and are never dialled again.
    pub(crate) fn follow(&self, grant: &Grant) {
        let wanted = self.target_of(grant);
        let mut target = self.target.borrow_mut();
        if *target == wanted {
            return;
        }
        *target = wanted;
        drop(target);
        self.failures.set(0);
        self.retry_at.set(Instant::now());
        for lane in self.lanes.borrow_mut().iter_mut().filter_map(Option::take) {
            lane.close(Fault::Unavailable);
        }
    }

    fn target_of(&self, grant: &Grant) -> Option<Target> {
        let address: IpAddr = grant.address.as_deref()?.parse().ok()?;
        // Whatever the store says, nothing outside is ever dialled.
        if !is_private(address) || address.is_loopback() {
            tracing::error!(instance = grant.instance_id, "the route leads outside: not dialled");
            return None;
        }
        Some(Target {
            address: SocketAddr::new(address, PORT),
            generation: grant.generation,
            secret: self.lane_key.secret(&grant.instance_id, grant.generation),
            value_max: usize::try_from(grant.item_size_max).ok()?,
        })
    }

    /// Takes a client in, if its plan allows one more. Returns its seat: which lane it uses.
    pub(crate) fn enter(&self, limit: usize) -> Option<usize> {
        if self.clients.get() >= limit {
            return None;
        }
        self.clients.set(self.clients.get() + 1);
        let seat = self.next_seat.get();
        self.next_seat.set((seat + 1) % LANES);
        Some(seat)
    }

    /// A client has gone.
    pub(crate) fn leave(&self) {
        self.clients.set(self.clients.get().saturating_sub(1));
        self.left_at.set(Instant::now());
    }

    /// Whether nobody has been here for so long.
    pub(crate) fn is_deserted(&self, since: Duration) -> bool {
        self.clients.get() == 0 && self.left_at.get().elapsed() >= since
    }

    /// The lane of a seat: the open one, or a new one. `None` while memcached is away.
    pub(crate) fn lane(self: &Rc<Self>, seat: usize) -> Option<Rc<Lane>> {
        let mut lanes = self.lanes.borrow_mut();
        let slot = lanes.get_mut(seat)?;
        if let Some(lane) = slot.as_ref().filter(|lane| lane.is_open()) {
            return Some(lane.clone());
        }
        if Instant::now() < self.retry_at.get() {
            return None;
        }
        let target = self.target.borrow().clone()?;
        let lane = Lane::new(target.value_max);
        *slot = Some(lane.clone());
        let (home, running) = (self.clone(), lane.clone());
        self.tasks.spawn_local(async move { home.serve(&running, &target).await });
        Some(lane)
    }

    async fn serve(&self, lane: &Rc<Lane>, target: &Target) {
        let begun = Instant::now();
        let end = lane.run(target, &self.scratch).await;
        for slot in self.lanes.borrow_mut().iter_mut() {
            if slot.as_ref().is_some_and(|other| Rc::ptr_eq(other, lane)) {
                *slot = None;
            }
        }
        if end == End::Idle || self.target.borrow().as_ref() != Some(target) {
            return;
        }
        self.metrics.lane_failures.inc();
        let failures = if begun.elapsed() > BACKOFF_MAX * 4 { 0 } else { self.failures.get() };
        self.failures.set(failures.saturating_add(1));
        let wait = BACKOFF.saturating_mul(1 << failures.min(8)).min(BACKOFF_MAX);
        self.retry_at.set(Instant::now() + wait);
    }

    /// Ends all lanes; what is in flight is answered.
    pub(crate) fn close(&self) {
        for lane in self.lanes.borrow_mut().iter_mut().filter_map(Option::take) {
            lane.close(Fault::Unavailable);
        }
    }
}
