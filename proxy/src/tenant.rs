//! An instance at tenant: the worker thread where all of its user's connections meet, and its lanes.
//!
//! Nothing here is shared between threads, and no lane is reachable but through its own instance: there
//! is no pool that two users could share.

mod permissions;
mod rate_limit;
mod sessions;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use store::{Grant, LaneKey, Millis, TokenId, now};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::lane::dedicated::Own;
use crate::lane::{Buffers, End, Lane, Target};
use crate::metrics::Metrics;
use crate::metrics::denials::ClientInfo;
use crate::metrics::usage::Usage;
use crate::notify::LocalNotify;
use crate::protocol::Protocol;
use crate::protocol::request::{Fault, FlagSet};
use crate::report::usage::UsageDelta;
use crate::responses::ResponseQueue;
use crate::transport::address::is_private;
pub(crate) use permissions::{Pass, PermissionVersion};
use rate_limit::Rate;

/// Lanes of one instance: about as many as its memcached has threads; more would dilute the batches.
const LANES: usize = 2;
/// Dedicated lanes that a cache's sessions may have at a time: its memcached takes 1,024 connections in all.
const DEDICATED_LANES_MAX: usize = 448;
/// Connections that don't change are said again so often.
const REPORT_AGAIN: Duration = Duration::from_secs(20);
/// memcached's port in every container.
const PORT: u16 = 11211;
/// After a failed lane the next is tried so much later, twice as much each time, up to the last.
const BACKOFF: Duration = Duration::from_millis(25);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

pub(crate) struct Tenant {
    lane_key: LaneKey,
    pub(crate) metrics: Arc<Metrics>,
    tasks: TaskTracker,
    /// What lanes read into.
    buffers: Rc<Buffers>,
    pub(crate) target: RefCell<Option<Target>>,
    /// The generation and revision of the grant that `target` is from.
    followed: Cell<(i64, i64)>,
    lanes: RefCell<[Option<Rc<Lane>>; LANES]>,
    /// Lanes of one client each that wait for the next.
    pub(crate) own_lanes: RefCell<Vec<Own>>,
    pub(crate) own_slots: Semaphore,
    /// Those that are in use: told when the route changes.
    pub(crate) cancels: RefCell<Vec<Weak<LocalNotify>>>,
    pub(crate) next_tag: Cell<u64>,
    /// What the memcached behind knows.
    flags: Cell<FlagSet>,
    pub(crate) usage: Rc<Usage>,
    rate: Rate,
    failures: Cell<u32>,
    retry_at: Cell<Instant>,
    sessions: RefCell<HashMap<usize, SessionEntry>>,
    next_seat: Cell<usize>,
    /// One for each token that has connections here.
    pub(crate) passes: RefCell<HashMap<TokenId, Weak<Pass>>>,
    left_at: Cell<Instant>,
    /// Connections as last reported, and when.
    reported: Cell<(usize, Instant)>,
}

/// A client's place: which lane it uses. Free again when dropped, however its client ended.
pub(crate) struct SessionHandle {
    tenant: Rc<Tenant>,
    number: usize,
    /// What its client is held to.
    pub(crate) pass: Rc<Pass>,
}

impl SessionHandle {
    /// Neighbours take turns at the lanes.
    fn lane(&self) -> usize {
        self.number % LANES
    }
}

impl Drop for SessionHandle {
    fn drop(&mut self) {
        self.tenant.sessions.borrow_mut().remove(&self.number);
        self.tenant.left_at.set(Instant::now());
    }
}

/// Who sits on a session.
struct SessionEntry {
    token: TokenId,
    source: IpAddr,
    protocol: Protocol,
    since: Millis,
    /// When what it was let in for is over, whatever becomes of its token.
    ends_at: Millis,
    responses: Weak<ResponseQueue>,
}

/// What a tenant shares with the others of its worker.
pub(crate) struct BackendDeps {
    pub(crate) lane_key: LaneKey,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) tasks: TaskTracker,
    pub(crate) buffers: Rc<Buffers>,
}

impl Tenant {
    pub(crate) fn new(deps: BackendDeps) -> Rc<Self> {
        let BackendDeps { lane_key, metrics, tasks, buffers } = deps;
        Rc::new(Self {
            lane_key,
            metrics,
            tasks,
            buffers,
            target: RefCell::default(),
            followed: Cell::new((i64::MIN, i64::MIN)),
            lanes: RefCell::default(),
            own_lanes: RefCell::default(),
            own_slots: Semaphore::new(DEDICATED_LANES_MAX),
            cancels: RefCell::default(),
            next_tag: Cell::new(0),
            flags: Cell::default(),
            usage: Rc::new(Usage::new()),
            rate: Rate::new(),
            failures: Cell::new(0),
            retry_at: Cell::new(Instant::now()),
            sessions: RefCell::default(),
            next_seat: Cell::new(0),
            passes: RefCell::default(),
            left_at: Cell::new(Instant::now()),
            reported: Cell::new((0, Instant::now())),
        })
    }

    /// Follows the plan and the route in `grant`. On a change the old lanes end and are never dialled again.
    ///
    /// A user's grants, one for each token, are renewed one after the other: one that is older than what
    /// has been followed already would lead back to a container that is gone.
    pub(crate) fn follow(&self, grant: &Grant) {
        let age = (grant.generation, grant.read_at);
        if age < self.followed.get() {
            return;
        }
        self.followed.set(age);
        self.rate.follow(grant, &self.usage);
        let wanted = self.target_of(grant);
        let mut target = self.target.borrow_mut();
        if *target == wanted {
            return;
        }
        *target = wanted;
        drop(target);
        self.failures.set(0);
        self.retry_at.set(Instant::now());
        self.flags.set(FlagSet::Unknown);
        self.close();
    }

    fn target_of(&self, grant: &Grant) -> Option<Target> {
        let address = grant.address.as_deref()?.parse::<IpAddr>().ok()?.to_canonical();
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

    /// Takes a client in, until then at most, if its plan allows one more. Returns its session.
    pub(crate) fn enter(
        self: &Rc<Self>,
        limit: usize,
        (grant, ends_at): (&Arc<Grant>, Millis),
        client: ClientInfo,
        responses: &Rc<ResponseQueue>,
    ) -> Option<SessionHandle> {
        let mut sessions = self.sessions.borrow_mut();
        if sessions.len() >= limit {
            return None;
        }
        let number = self.next_seat.get();
        self.next_seat.set(number.wrapping_add(1));
        responses.count_in(self.usage.clone());
        let ClientInfo { source, protocol, .. } = client;
        let responses = Rc::downgrade(responses);
        let sits = SessionEntry { token: grant.token, source, protocol, since: now(), ends_at, responses };
        sessions.insert(number, sits);
        Some(SessionHandle { tenant: self.clone(), number, pass: self.pass(grant) })
    }

    /// The pass of a token, held to its newest permissions: that of its other clients, or a new one.
    fn pass(&self, grant: &Arc<Grant>) -> Rc<Pass> {
        let mut passes = self.passes.borrow_mut();
        if let Some(pass) = passes.get(&grant.token).and_then(Weak::upgrade) {
            pass.renew(grant);
            return pass;
        }
        let pass = Rc::new(Pass::new(grant.clone()));
        passes.insert(grant.token, Rc::downgrade(&pass));
        pass
    }

    /// Holds all connections of a token to the permissions that it has now, and ends at once those that may not
    /// be any more.
    pub(crate) fn apply_grant(&self, grant: &Arc<Grant>) {
        if !grant.is_active() {
            return self.close_where(|sessions| sessions.token == grant.token);
        }
        self.close_where(|it| it.token == grant.token && !grant.permissions.allows_from(it.source));
        if let Some(pass) = self.passes.borrow().get(&grant.token).and_then(Weak::upgrade) {
            pass.renew(grant);
        }
    }

    /// Ends the connections of tokens, and certificates, whose time is over. When the next one's is.
    pub(crate) fn close_expired(&self, now: Millis) -> Option<Millis> {
        let passes: Vec<Rc<Pass>> = self.passes.borrow().values().filter_map(Weak::upgrade).collect();
        let (current, over): (Vec<_>, Vec<_>) = passes.iter().partition(|pass| pass.is_current(now));
        for pass in over {
            self.close_where(|sessions| sessions.token == pass.token());
        }
        self.close_where(|sessions| sessions.ends_at <= now);
        let sessions = self.sessions.borrow();
        let ends = sessions.values().map(|sessions| sessions.ends_at).filter(|end| *end > now);
        current.iter().filter_map(|pass| pass.ends_at()).chain(ends).min()
    }

    fn close_where(&self, whom: impl Fn(&SessionEntry) -> bool) {
        for sessions in self.sessions.borrow().values().filter(|sessions| whom(sessions)) {
            if let Some(responses) = sessions.responses.upgrade() {
                responses.cut();
            }
        }
    }

    /// Makes all clients look again: the proxy stops.
    pub(crate) fn wake_all(&self) {
        for sessions in self.sessions.borrow().values() {
            if let Some(responses) = sessions.responses.upgrade() {
                responses.wake_all();
            }
        }
    }

    /// Whether the plan allows so many operations now, as `cost` says if it is asked.
    pub(crate) fn allows(&self, cost: impl FnOnce() -> u64) -> bool {
        self.rate.allows(&self.usage, cost)
    }

    /// Whether nobody has been here for so long.
    pub(crate) fn is_idle(&self, since: Duration) -> bool {
        self.sessions.borrow().is_empty() && self.left_at.get().elapsed() >= since
    }

    /// The lane of a session: the open one, or a new one. `None` while memcached is away.
    pub(crate) fn lane(self: &Rc<Self>, session: &SessionHandle) -> Option<Rc<Lane>> {
        let open = self.open_lane(session);
        if open.is_some() {
            return open;
        }
        if Instant::now() < self.retry_at.get() {
            return None;
        }
        let target = self.target.borrow().clone()?;
        let lane = Lane::new(target.value_max, self.usage.clone());
        *self.lanes.borrow_mut().get_mut(session.lane())? = Some(lane.clone());
        let (tenant, running) = (self.clone(), lane.clone());
        self.tasks.spawn_local(async move { tenant.serve(&running, &target).await });
        Some(lane)
    }

    /// The lane of a session, if it is open already.
    pub(crate) fn open_lane(&self, session: &SessionHandle) -> Option<Rc<Lane>> {
        let lanes = self.lanes.borrow();
        lanes.get(session.lane())?.as_ref().filter(|lane| lane.is_open()).cloned()
    }

    async fn serve(&self, lane: &Rc<Lane>, target: &Target) {
        let begun = Instant::now();
        let end = lane.run(target, &self.flags, &self.buffers).await;
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
        self.own_lanes.borrow_mut().clear();
        for cancel in self.cancels.take().iter().filter_map(Weak::upgrade) {
            cancel.give();
        }
    }

    /// What the memcached behind knows, as far as that is known.
    pub(crate) fn flags(&self) -> FlagSet {
        self.flags.get()
    }

    /// What has been counted here since the last time, if there is anything to say.
    pub(crate) fn report(&self, instance_id: &str) -> Option<UsageDelta> {
        let connections = self.sessions.borrow().len();
        let (said, when) = self.reported.get();
        let (counts, latency) = self.usage.take();
        let stale = connections > 0 && when.elapsed() > REPORT_AGAIN;
        if counts.is_zero() && connections == said && !stale {
            return None;
        }
        self.reported.set((connections, Instant::now()));
        Some(UsageDelta { instance_id: instance_id.to_owned(), counts, latency, connections })
    }
}

#[cfg(test)]
mod tests;
