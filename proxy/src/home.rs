//! An instance at home: the worker thread where all of its user's connections meet, and its lanes.
//!
//! Nothing here is shared between threads, and no lane is reachable but through its own instance: there
//! is no pool that two users could share.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};
use std::time::Duration;

use store::{Grant, LaneKey, TokenId};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::accept::is_private;
use crate::lane::{End, Lane, Target};
use crate::metrics::Metrics;
use crate::outbox::Outbox;
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
    pub(crate) metrics: std::sync::Arc<Metrics>,
    tasks: TaskTracker,
    /// Where lanes read into; used between two awaits only, so one for all is enough.
    scratch: Rc<RefCell<Vec<u8>>>,
    target: RefCell<Option<Target>>,
    /// The generation and revision of the grant that `target` is from.
    followed: Cell<(i64, i64)>,
    lanes: RefCell<[Option<Rc<Lane>>; LANES]>,
    failures: Cell<u32>,
    retry_at: Cell<Instant>,
    seated: RefCell<HashMap<usize, Seated>>,
    next_seat: Cell<usize>,
    left_at: Cell<Instant>,
}

/// A client's place: which lane it uses. Free again when dropped, however its client ended.
pub(crate) struct Seat {
    home: Rc<Home>,
    number: usize,
}

impl Seat {
    /// Neighbours take turns at the lanes.
    fn lane(&self) -> usize {
        self.number % LANES
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.home.seated.borrow_mut().remove(&self.number);
        self.home.left_at.set(Instant::now());
    }
}

/// Who sits on a seat.
struct Seated {
    token: TokenId,
    outbox: Weak<Outbox>,
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
            followed: Cell::new((i64::MIN, i64::MIN)),
            lanes: RefCell::default(),
            failures: Cell::new(0),
            retry_at: Cell::new(Instant::now()),
            seated: RefCell::default(),
            next_seat: Cell::new(0),
            left_at: Cell::new(Instant::now()),
        })
    }

    /// Follows the route in `grant`. On a change the old lanes end and are never dialled again.
    ///
    /// A user's grants, one for each token, are renewed one after the other: one that is older than what
    /// has been followed already would lead back to a container that is gone.
    pub(crate) fn follow(&self, grant: &Grant) {
        let age = (grant.generation, grant.read_at);
        if age < self.followed.get() {
            return;
        }
        self.followed.set(age);
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

    /// Takes a client in, if its plan allows one more. Returns its seat.
    pub(crate) fn enter(self: &Rc<Self>, limit: usize, token: TokenId, outbox: &Rc<Outbox>) -> Option<Seat> {
        let mut seated = self.seated.borrow_mut();
        if seated.len() >= limit {
            return None;
        }
        let number = self.next_seat.get();
        self.next_seat.set(number.wrapping_add(1));
        seated.insert(number, Seated { token, outbox: Rc::downgrade(outbox) });
        Some(Seat { home: self.clone(), number })
    }

    /// Ends all connections of a token that is no longer good, at once.
    pub(crate) fn turn_out(&self, token: TokenId) {
        for seated in self.seated.borrow().values().filter(|seated| seated.token == token) {
            if let Some(outbox) = seated.outbox.upgrade() {
                outbox.cut();
            }
        }
    }

    /// Makes all clients look again: the proxy stops.
    pub(crate) fn rouse(&self) {
        for seated in self.seated.borrow().values() {
            if let Some(outbox) = seated.outbox.upgrade() {
                outbox.rouse();
            }
        }
    }

    /// Whether nobody has been here for so long.
    pub(crate) fn is_deserted(&self, since: Duration) -> bool {
        self.seated.borrow().is_empty() && self.left_at.get().elapsed() >= since
    }

    /// The lane of a seat: the open one, or a new one. `None` while memcached is away.
    pub(crate) fn lane(self: &Rc<Self>, seat: &Seat) -> Option<Rc<Lane>> {
        let open = self.open_lane(seat);
        if open.is_some() {
            return open;
        }
        if Instant::now() < self.retry_at.get() {
            return None;
        }
        let target = self.target.borrow().clone()?;
        let lane = Lane::new(target.value_max);
        *self.lanes.borrow_mut().get_mut(seat.lane())? = Some(lane.clone());
        let (home, running) = (self.clone(), lane.clone());
        self.tasks.spawn_local(async move { home.serve(&running, &target).await });
        Some(lane)
    }

    /// The lane of a seat, if it is open already.
    pub(crate) fn open_lane(&self, seat: &Seat) -> Option<Rc<Lane>> {
        let lanes = self.lanes.borrow();
        lanes.get(seat.lane())?.as_ref().filter(|lane| lane.is_open()).cloned()
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

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;
    use store::{Database, InstanceState, NewToken, NewUser, Observed, Store, TokenKey};

    use super::*;

    fn running(generation: i64, address: Option<&str>) -> Observed {
        Observed {
            state: InstanceState::Running,
            generation,
            address: address.map(Into::into),
            container: None,
            version: None,
            message: None,
        }
    }

    #[tokio::test]
    async fn a_grant_read_before_the_last_one_leads_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&Database::Sqlite(folder.path().join("memgate.db"))).await.unwrap();
        let token =
            NewToken::generate(&TokenKey::load_or_create(&folder.path().join("key")).unwrap(), "test");
        let user =
            NewUser { email: "ann@example.com", password_hash: None, plan: "default", is_admin: false };
        store.sign_up(&user, &token).await.unwrap();
        let grant = async || store.grant(&token.token.id()).await.unwrap().unwrap();
        let instance = grant().await.instance_id;
        let mut grants = Vec::new();
        for seen in [running(1, Some("10.1.1.1")), running(2, Some("10.1.1.2")), running(2, None)] {
            store.record_route(&instance, &seen).await.unwrap();
            grants.push(grant().await);
        }
        let home = Home::new(Furniture {
            lane_key: LaneKey::load_or_create(&folder.path().join("lane")).unwrap(),
            metrics: Metrics::register(&mut Registry::default()).into(),
            tasks: TaskTracker::new(),
            scratch: Rc::default(),
        });
        let leads_to = || home.target.borrow().as_ref().map(|target| target.address.ip().to_string());
        for (followed, expected) in [
            (0, Some("10.1.1.1")),
            (1, Some("10.1.1.2")),
            (0, Some("10.1.1.2")),
            (2, None),
            (1, None),
            (0, None),
        ] {
            home.follow(&grants[followed]);
            assert_eq!(leads_to().as_deref(), expected);
        }
    }
}
