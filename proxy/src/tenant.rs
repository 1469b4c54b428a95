//! A tenant: all that one worker keeps for one cache. Every session of the cache is served by this worker.
//!
//! Nothing here is shared between threads.

mod permissions;
mod rate_limit;
mod registered;
mod sessions;
pub(crate) mod turns;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use store::{Grant, Timestamp, TokenId};
use tokio::time::Instant;

use crate::backend::{Backend, BackendDeps};
use crate::buffers::{Pressure, TenantBuffers, WorkerBuffers};
use crate::metrics::Metrics;
use crate::metrics::usage::Usage;
use crate::report::usage::UsageDelta;
use crate::session_budget::SessionBudget;
pub(crate) use permissions::{LivePermissions, PermissionVersion};
pub(crate) use rate_limit::Pause;
use rate_limit::RateLimit;
pub(crate) use registered::{Reauthentication, Served};
pub(crate) use sessions::SessionHandle;
use sessions::Sessions;
use turns::{Turns, WorkerTurns};

/// Interval at which a number of connections that hasn't changed is reported again.
const REPORT_INTERVAL_MAX: Duration = Duration::from_secs(20);

pub(crate) struct Tenant {
    pub(crate) backend: Rc<Backend>,
    pub(crate) usage: Rc<Usage>,
    /// What its connections hold in memory.
    pub(crate) buffers: Rc<TenantBuffers>,
    /// What its sessions may do before those of other tenants.
    pub(crate) turns: Rc<Turns>,
    pub(crate) metrics: Arc<Metrics>,
    rate_limit: RateLimit,
    sessions: Sessions,
    /// One entry per token with sessions here.
    permissions: RefCell<HashMap<TokenId, Weak<LivePermissions>>>,
    /// The generation and revision of the newest grant that was applied.
    applied: Cell<(i64, i64)>,
    /// No token or certificate of a session expires before this time.
    next_expiry: Cell<Timestamp>,
    /// The number of connections in the last report, and when that was.
    reported: Cell<(usize, Instant)>,
}

impl Tenant {
    pub(crate) fn new(
        deps: BackendDeps,
        buffers: &Rc<WorkerBuffers>,
        turns: &Rc<WorkerTurns>,
        sessions: SessionBudget,
    ) -> Rc<Self> {
        let usage = Rc::new(Usage::new());
        let metrics = deps.metrics.clone();
        Rc::new(Self {
            backend: Rc::new(Backend::new(deps, usage.clone())),
            usage,
            buffers: TenantBuffers::new(buffers.clone()),
            turns: Turns::new(turns.clone()),
            metrics,
            rate_limit: RateLimit::new(),
            sessions: Sessions::new(sessions),
            permissions: RefCell::default(),
            applied: Cell::new((i64::MIN, i64::MIN)),
            next_expiry: Cell::new(Timestamp::MAX),
            reported: Cell::new((0, Instant::now())),
        })
    }

    /// Applies the plan and the route in `grant`, unless a newer grant has been applied.
    ///
    /// Each token of the cache has a grant, and they are refreshed one after the other: an older one may still
    /// have the route to a container that has been removed.
    pub(crate) fn apply_plan_and_route(&self, grant: &Grant) {
        let version = (grant.generation, grant.read_at);
        if version < self.applied.get() {
            return;
        }
        self.applied.set(version);
        if self.rate_limit.set_plan(grant, &self.usage) {
            // Those that wait out a pause of the previous rates.
            self.sessions.wake_all();
        }
        self.backend.set_route(grant);
    }

    /// Applies changed permissions to all sessions of a token, and closes those that are no longer allowed.
    pub(crate) fn apply_grant(&self, grant: &Arc<Grant>) {
        if !grant.is_active() {
            return self.sessions.close_where(|session| session.token == grant.token);
        }
        self.sessions.close_where(|session| {
            session.token == grant.token && !grant.permissions.allows_from(session.source)
        });
        if let Some(permissions) = self.permissions.borrow().get(&grant.token).and_then(Weak::upgrade) {
            permissions.update(grant);
        }
    }

    /// Returns the live permissions that the sessions of a token share, updated from `grant`.
    fn live_permissions(&self, grant: &Arc<Grant>) -> Rc<LivePermissions> {
        let mut all = self.permissions.borrow_mut();
        if let Some(permissions) = all.get(&grant.token).and_then(Weak::upgrade) {
            permissions.update(grant);
            return permissions;
        }
        let permissions = Rc::new(LivePermissions::new(grant.clone(), self.backend.leases_of_token()));
        all.insert(grant.token, Rc::downgrade(&permissions));
        permissions
    }

    /// Makes sure that sessions of a token or certificate that expires at `end` are closed then.
    pub(crate) fn note_expiry(&self, end: Timestamp) {
        self.next_expiry.set(self.next_expiry.get().min(end));
    }

    /// Closes the sessions whose token or certificate has expired. Returns when the next one expires. Looks at them only
    /// when one does: another tenant's expiries cost a comparison.
    pub(crate) fn close_expired(&self, now: Timestamp) -> Timestamp {
        if now < self.next_expiry.get() {
            return self.next_expiry.get();
        }
        let all: Vec<Rc<LivePermissions>> =
            self.permissions.borrow().values().filter_map(Weak::upgrade).collect();
        let (valid, expired): (Vec<_>, Vec<_>) =
            all.iter().partition(|permissions| permissions.is_valid_at(now));
        let expired: HashSet<TokenId> = expired.iter().map(|permissions| permissions.token()).collect();
        self.sessions.close_where(|session| session.ends_at() <= now || expired.contains(&session.token));
        let next = self.sessions.next_end_after(now);
        let next = valid.iter().filter_map(|permissions| permissions.expires_at()).chain(next).min();
        self.next_expiry.set(next.unwrap_or(Timestamp::MAX));
        self.next_expiry.get()
    }

    /// Whether the plan limits operations or bytes per second. Without a limit, a frame costs only this check.
    #[inline]
    pub(crate) fn has_rate_limit(&self) -> bool {
        self.rate_limit.is_limited()
    }

    /// Charges a frame of `cost` operations to the plan's rates. `prepaid` is what the connection's last pause said.
    ///
    /// # Errors
    /// The pause for the connection, if the frame exceeds a rate.
    pub(crate) fn charge(&self, cost: u64, prepaid: bool) -> Result<(), Pause> {
        self.rate_limit.charge(&self.usage, cost, prepaid)
    }

    /// Counts `frames` that were answered without memcached. Returns for how long the connection must pause, if so.
    #[inline]
    pub(crate) fn count_local(&self, frames: u64) -> Option<Duration> {
        self.rate_limit.count_local(frames)
    }

    /// Lets the tenant look as if its sessions had sent far too many frames that the proxy answers itself.
    #[cfg(test)]
    pub(crate) fn exceed_local_rate(&self) {
        self.rate_limit.exceed_local_rate();
    }

    /// How often the plan's rates have changed: a pause of previous ones is void.
    pub(crate) fn rate_changes(&self) -> u64 {
        self.rate_limit.changes()
    }

    /// The pause until the bytes of the tenant's connections are paid, if they aren't.
    pub(crate) fn unpaid_bytes(&self) -> Option<Pause> {
        self.rate_limit.unpaid_bytes(&self.usage)
    }

    /// Ends the oldest unfinished requests if the sessions hold more memory than they may.
    #[inline]
    pub(crate) fn shed_if_over(&self) {
        if self.buffers.pressure() == Pressure::Over {
            self.shed();
        }
    }

    /// What the tenant may hold may have changed since it was last compared.
    #[cold]
    fn shed(&self) {
        self.buffers.refresh();
        if self.buffers.pressure() == Pressure::Over {
            self.sessions.end_oldest(&self.buffers, self.usage.now());
        }
    }

    /// Gives up what other tenants need: memory beyond a share that has become smaller, idle sessions beyond a part of the
    /// proxy's connections if few are free, and idle lanes if there are few.
    pub(crate) fn make_room(&self) {
        self.sessions.end_excess();
        if !self.buffers.is_empty() {
            self.shed();
        }
        self.backend.close_idle_if_scarce();
    }

    /// Ends the sessions whose clients have sent no byte of an unfinished request, or read none of their replies, for
    /// `limit`; while memory is scarce, also those whose clients do so, but too slowly.
    pub(crate) fn end_stalled(&self, limit: Duration) {
        if !self.buffers.is_empty() {
            self.sessions.end_stalled(&self.buffers, limit, self.usage.now());
        }
    }

    /// Wakes the tasks of all sessions: the proxy is stopping.
    pub(crate) fn wake_all(&self) {
        self.sessions.wake_all();
    }

    /// Whether there has been no session for `time`.
    pub(crate) fn is_idle(&self, time: Duration) -> bool {
        self.sessions.have_been_empty_for(time)
    }

    /// Whether all that its sessions did has been paid for: otherwise dropping the tenant would forget the debt.
    pub(crate) fn is_settled(&self) -> bool {
        self.rate_limit.is_settled(&self.usage)
    }

    /// Whether all that was counted is in a report: otherwise dropping the tenant would lose it.
    pub(crate) fn is_reported(&self) -> bool {
        self.usage.is_reported()
    }

    /// Closes idle dedicated lanes, and drops the permissions of tokens without sessions.
    pub(crate) fn sweep(&self) {
        self.backend.sweep();
        self.permissions.borrow_mut().retain(|_, permissions| permissions.strong_count() > 0);
    }

    /// Returns what was counted since the last report; `None` if nothing has changed.
    pub(crate) fn report(&self, instance_id: &str) -> Option<UsageDelta> {
        let (connections, peak_connections) = (self.sessions.count(), self.sessions.peak());
        let (reported, reported_at) = self.reported.get();
        let is_due = connections > 0 && reported_at.elapsed() > REPORT_INTERVAL_MAX;
        let used_tokens = self.sessions.take_used_tokens();
        let is_same = connections == reported && peak_connections == connections;
        if self.usage.is_reported() && is_same && used_tokens.is_empty() && !is_due {
            return None;
        }
        let (counts, requests) = self.usage.take();
        self.sessions.reset_peak();
        self.reported.set((connections, Instant::now()));
        let instance_id = instance_id.to_owned();
        Some(UsageDelta { instance_id, counts, requests, connections, peak_connections, used_tokens })
    }
}

#[cfg(test)]
mod tests;
