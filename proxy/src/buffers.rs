//! What connections keep in memory between turns: unfinished input, unread output, deferred replies. Counted for each cache
//! and for the proxy, and bounded.
//!
//! A cache may hold a quarter of the proxy's budget, and never more than the budget has left. Since that shrinks when others
//! begin to hold something, each cache that holds something is compared with it once a second too, so that `n` full caches
//! soon hold one part in `n + 1` each, and one part is free for the next. However little is left, a cache may hold
//! [`CACHE_MIN`].
//!
//! Under pressure, which is from half of that on, connections are read in small pieces, values are streamed instead of
//! gathered, and a client that sends or reads too slowly is ended like one that does nothing. Over the limit the oldest
//! unfinished requests of the token that holds most are ended (`tenant/sessions.rs`).
//!
//! A connection that keeps nothing costs a comparison of two cells per turn. The workers share only the proxy's sum, to
//! which each adds in large steps.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;

use prometheus_client::metrics::gauge::Gauge;

use crate::metrics::usage::StartedAt;
use crate::protocol::denial::Ending;

/// A cache may hold one in this many of the budget's bytes.
const CACHE_SHARE: usize = 4;
/// What a cache may hold however little is left, in bytes: a few requests in pieces.
const CACHE_MIN: usize = 256 * 1024;
/// The longest age that is told apart, in microseconds: 65 minutes, since the clock wraps after 71.
const AGE_MAX: u32 = 3_900_000_000;
/// A worker adds what it holds to the proxy's sum in steps of at least this many bytes.
const STEP: i64 = 256 * 1024;

/// The proxy's budget in bytes, and how many of them are held.
#[derive(Debug, Clone)]
pub(crate) struct BufferBudget {
    held: Gauge,
    max: usize,
}

/// One worker's part of the sum.
#[derive(Debug)]
pub(crate) struct WorkerBuffers {
    budget: BufferBudget,
    /// What has changed since it was last added to the sum.
    unreported: Cell<i64>,
}

/// What the connections of one tenant hold.
#[derive(Debug)]
pub(crate) struct TenantBuffers {
    worker: Rc<WorkerBuffers>,
    held: Cell<usize>,
    pressure: Cell<Pressure>,
    /// The numbers of the sessions that hold something.
    holders: RefCell<HashSet<usize>>,
}

/// How close a tenant is to its limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pressure {
    #[default]
    None,
    /// More than half.
    High,
    /// More than it may.
    Over,
}

/// Whether a session waits for the rest of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaits {
    No,
    Yes,
    /// Yes, and a sweep has seen it at this time.
    Since(StartedAt),
}

/// What one connection holds, in bytes.
#[derive(Debug)]
pub(crate) struct HeldBytes {
    tenant: Rc<TenantBuffers>,
    /// The number of its session.
    session: usize,
    input: Cell<usize>,
    output: Cell<usize>,
    deferred: Cell<usize>,
    awaits: Cell<Awaits>,
    /// When the connection began to hold what it holds now: the request at the front of the input, or output of which the
    /// client hasn't read `to_read` bytes yet.
    since: Cell<StartedAt>,
    to_read: Cell<usize>,
    /// When the client last read something of the output.
    read_at: Cell<StartedAt>,
    ending: Cell<Option<Ending>>,
}

impl BufferBudget {
    /// A budget of `max` bytes, of which `held` shows those that are held.
    pub(crate) fn new(held: Gauge, max: usize) -> Self {
        Self { held, max }
    }

    /// The bytes that one cache may hold.
    fn share(&self) -> usize {
        let held = usize::try_from(self.held.get()).unwrap_or(0);
        self.max.saturating_sub(held).min(self.max / CACHE_SHARE).max(CACHE_MIN)
    }
}

impl WorkerBuffers {
    pub(crate) fn new(budget: BufferBudget) -> Rc<Self> {
        Rc::new(Self { budget, unreported: Cell::new(0) })
    }

    /// Adds to the proxy's sum what hasn't been added yet.
    pub(crate) fn report(&self) {
        self.budget.held.inc_by(self.unreported.take());
    }

    fn change(&self, before: usize, after: usize) {
        let signed = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
        let unreported = self.unreported.get().saturating_add(signed(after)).saturating_sub(signed(before));
        self.unreported.set(unreported);
        if unreported.abs() >= STEP {
            self.report();
        }
    }
}

impl TenantBuffers {
    pub(crate) fn new(worker: Rc<WorkerBuffers>) -> Rc<Self> {
        Rc::new(Self { worker, held: Cell::new(0), pressure: Cell::default(), holders: RefCell::default() })
    }

    #[inline]
    pub(crate) fn pressure(&self) -> Pressure {
        self.pressure.get()
    }

    /// Whether more than half is held of what may be.
    #[inline]
    pub(crate) fn is_tight(&self) -> bool {
        self.pressure() != Pressure::None
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.held.get() == 0
    }

    /// The sessions that hold something, in no order.
    pub(crate) fn holders(&self) -> Vec<usize> {
        self.holders.borrow().iter().copied().collect()
    }

    /// Compares what is held with what may be held now, which others have changed.
    pub(crate) fn refresh(&self) {
        self.compare(self.held.get());
    }

    /// Whether so much is held that more requests must be ended. They are ended until an eighth is free again, so that this
    /// is rare.
    pub(crate) fn must_shed(&self) -> bool {
        let share = self.worker.budget.share();
        self.held.get() > share - share / 8
    }

    fn change(&self, before: usize, after: usize) {
        self.worker.change(before, after);
        let held = self.held.get().saturating_add(after).saturating_sub(before);
        self.held.set(held);
        self.compare(held);
    }

    fn compare(&self, held: usize) {
        let share = self.worker.budget.share();
        self.pressure.set(match held {
            0 => Pressure::None,
            held if held > share => Pressure::Over,
            held if held > share / 2 => Pressure::High,
            _ => Pressure::None,
        });
    }
}

impl HeldBytes {
    /// What session number `session` of a tenant holds.
    pub(crate) fn new(tenant: Rc<TenantBuffers>, session: usize) -> Self {
        Self {
            tenant,
            session,
            input: Cell::new(0),
            output: Cell::new(0),
            deferred: Cell::new(0),
            awaits: Cell::new(Awaits::No),
            since: Cell::default(),
            to_read: Cell::new(0),
            read_at: Cell::default(),
            ending: Cell::new(None),
        }
    }

    /// Whether the tenant holds more than half of what it may.
    #[inline]
    pub(crate) fn is_tight(&self) -> bool {
        self.tenant.is_tight()
    }

    /// Sets the bytes of unfinished input, at `now`, and whether the session waits for the rest.
    #[inline]
    pub(crate) fn set_input(&self, bytes: usize, awaits_input: bool, now: StartedAt) {
        if bytes != self.input.get() {
            self.replace(&self.input, bytes, now);
        }
        self.awaits.set(if awaits_input { Awaits::Yes } else { Awaits::No });
    }

    /// The unfinished input begins with another request than before, or some of a value was passed on, at `now`.
    #[inline]
    pub(crate) fn advance_input(&self, now: StartedAt) {
        if self.output.get() + self.deferred.get() == 0 {
            self.since.set(now);
        }
    }

    /// Sets the bytes of unread output, at `now`, and how many the client has just read.
    pub(crate) fn set_output(&self, bytes: usize, read: usize, now: StartedAt) {
        let is_first = self.output.get() == 0;
        if read > 0 || is_first {
            self.read_at.set(now);
        }
        self.replace(&self.output, bytes, now);
        let to_read = self.to_read.get().saturating_sub(read);
        if to_read == 0 || is_first {
            self.since.set(now);
        }
        self.to_read.set(if to_read == 0 || is_first { bytes } else { to_read });
    }

    /// Nothing of the output is unread.
    #[inline]
    pub(crate) fn clear_output(&self) {
        if self.output.get() > 0 {
            self.replace(&self.output, 0, self.since.get());
        }
    }

    /// Sets the bytes of deferred replies, at `now`.
    pub(crate) fn set_deferred(&self, bytes: usize, now: StartedAt) {
        self.replace(&self.deferred, bytes, now);
    }

    /// Why the connection must end, if so.
    #[inline]
    pub(crate) fn ending(&self) -> Option<Ending> {
        self.ending.get()
    }

    /// Marks the connection as ending. From now on it counts as holding nothing: its task frees everything soon.
    pub(crate) fn end(&self, ending: Ending) {
        for part in [&self.input, &self.output, &self.deferred] {
            self.replace(part, 0, self.since.get());
        }
        self.ending.set(Some(ending));
    }

    /// For how long the connection has held what it holds, in microseconds, up to [`AGE_MAX`]; `None` if it holds nothing.
    pub(crate) fn age(&self, now: StartedAt) -> Option<u32> {
        (self.total() > 0).then(|| now.since(self.since.get()).min(AGE_MAX))
    }

    /// Why a sweep at `now` must end the connection, if so: its client has done nothing for `limit` microseconds, or, while
    /// memory is scarce, hasn't sent the whole request or read as much as it left unread in twice the time. `input_at` is
    /// when it last sent something.
    pub(crate) fn overdue(&self, limit: u32, input_at: StartedAt, now: StartedAt) -> Option<Ending> {
        if self.stalled_for(input_at, now) > limit {
            return Some(Ending::Stalled);
        }
        let age = self.age(now)?;
        if age == AGE_MAX {
            // Sweeps are much more frequent than the clock wraps.
            self.since.set(now.before(AGE_MAX));
        }
        let awaits_client = self.output.get() > 0 || self.input.get() > 0 && self.awaits.get() != Awaits::No;
        let slow_limit = limit.saturating_mul(2).min(AGE_MAX - 1);
        (awaits_client && age > slow_limit && self.is_tight()).then_some(Ending::OverBudget)
    }

    /// For how long the client has done nothing about what the connection holds, in microseconds, as far as sweeps have
    /// seen it. `input_at` is when it last sent something: before that the session may have waited for memcached, so only
    /// what a sweep has seen counts.
    fn stalled_for(&self, input_at: StartedAt, now: StartedAt) -> u32 {
        let input = match self.awaits.get() {
            Awaits::Since(since) if self.input.get() > 0 => now.since(since).min(now.since(input_at)),
            Awaits::Yes => {
                self.awaits.set(Awaits::Since(now));
                0
            }
            Awaits::Since(_) | Awaits::No => 0,
        };
        let output = if self.output.get() > 0 { now.since(self.read_at.get()) } else { 0 };
        input.max(output)
    }

    /// What the connection holds, in bytes.
    pub(crate) fn total(&self) -> usize {
        self.input.get() + self.output.get() + self.deferred.get()
    }

    fn replace(&self, part: &Cell<usize>, bytes: usize, now: StartedAt) {
        if self.ending.get().is_some() {
            return;
        }
        let held = self.total();
        let before = part.replace(bytes);
        if held == 0 {
            self.since.set(now);
            if bytes > 0 {
                self.tenant.holders.borrow_mut().insert(self.session);
            }
        } else if held == before && bytes == 0 {
            self.tenant.holders.borrow_mut().remove(&self.session);
        }
        self.tenant.change(before, bytes);
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        let total = self.total();
        if total > 0 {
            self.tenant.holders.borrow_mut().remove(&self.session);
            self.tenant.change(total, 0);
        }
    }
}

#[cfg(test)]
mod tests;
