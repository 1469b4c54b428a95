//! What connections keep in memory between turns: unfinished input, unread output, deferred replies. Counted for each cache
//! and for the proxy, and bounded.
//!
//! A cache may hold a quarter of the proxy's budget, and never more than the budget has left: however many caches hold as
//! much as they may, some is left for the next. Under pressure its connections are read in small pieces, and values are
//! streamed instead of gathered; over the limit its oldest unfinished requests are ended (`tenant/sessions.rs`).
//!
//! A connection that keeps nothing costs a comparison of two cells per turn. The workers share only the proxy's sum, to
//! which each adds in large steps.

use std::cell::Cell;
use std::rc::Rc;

use prometheus_client::metrics::gauge::Gauge;

use crate::metrics::usage::StartedAt;
use crate::protocol::denial::Ending;

/// A cache may hold one in this many of the budget's bytes.
const CACHE_SHARE: usize = 4;
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
}

/// How much of what it may hold a tenant holds.
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
    input: Cell<usize>,
    output: Cell<usize>,
    deferred: Cell<usize>,
    awaits: Cell<Awaits>,
    /// When the connection began to hold something.
    since: Cell<StartedAt>,
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
        self.max.saturating_sub(held).min(self.max / CACHE_SHARE)
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
        Rc::new(Self { worker, held: Cell::new(0), pressure: Cell::default() })
    }

    #[inline]
    pub(crate) fn pressure(&self) -> Pressure {
        self.pressure.get()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.held.get() == 0
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
    pub(crate) fn new(tenant: Rc<TenantBuffers>) -> Self {
        Self {
            tenant,
            input: Cell::new(0),
            output: Cell::new(0),
            deferred: Cell::new(0),
            awaits: Cell::new(Awaits::No),
            since: Cell::default(),
            read_at: Cell::default(),
            ending: Cell::new(None),
        }
    }

    /// Whether the tenant holds more than half of what it may.
    #[inline]
    pub(crate) fn is_tight(&self) -> bool {
        self.tenant.pressure() != Pressure::None
    }

    /// Sets the bytes of unfinished input, at `now`, and whether the session waits for the rest.
    #[inline]
    pub(crate) fn set_input(&self, bytes: usize, awaits_input: bool, now: StartedAt) {
        if bytes != self.input.get() {
            self.replace(&self.input, bytes, now);
        }
        self.awaits.set(if awaits_input { Awaits::Yes } else { Awaits::No });
    }

    /// Sets the bytes of unread output, at `now`, and whether the client has just read some.
    pub(crate) fn set_output(&self, bytes: usize, has_read: bool, now: StartedAt) {
        if has_read || self.output.get() == 0 {
            self.read_at.set(now);
        }
        self.replace(&self.output, bytes, now);
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

    /// For how long the connection has held something, in microseconds; `None` if it holds nothing.
    pub(crate) fn age(&self, now: StartedAt) -> Option<u32> {
        (self.total() > 0).then(|| now.since(self.since.get()))
    }

    /// For how long the client has done nothing about what the connection holds, in microseconds, as far as sweeps have
    /// seen it. `input_at` is when it last sent something: before that the session may have waited for memcached, so only
    /// what a sweep has seen counts.
    pub(crate) fn stalled_for(&self, input_at: StartedAt, now: StartedAt) -> u32 {
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

    fn total(&self) -> usize {
        self.input.get() + self.output.get() + self.deferred.get()
    }

    fn replace(&self, part: &Cell<usize>, bytes: usize, now: StartedAt) {
        if self.ending.get().is_some() {
            return;
        }
        if self.total() == 0 {
            self.since.set(now);
        }
        let before = part.replace(bytes);
        self.tenant.change(before, bytes);
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        let total = self.total();
        if total > 0 {
            self.tenant.change(total, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: usize = 1024 * 1024;
    const NOW: StartedAt = StartedAt::ZERO;

    fn tenants(budget: usize) -> (BufferBudget, impl Fn() -> HeldBytes) {
        let budget = BufferBudget::new(Gauge::default(), budget);
        let worker = WorkerBuffers::new(budget.clone());
        (budget, move || HeldBytes::new(TenantBuffers::new(worker.clone())))
    }

    //
    #[test]
    fn cache_holds_a_quarter_of_the_budget_and_never_more_than_is_left() {
        let (budget, new) = tenants(100 * MB);
        let mut held = Vec::new();
        for _ in 0..20 {
            let tenant = new();
            while tenant.tenant.pressure() != Pressure::Over {
                tenant.set_input(tenant.input.get() + MB, true, NOW);
            }
            assert!(tenant.is_tight());
            assert!(tenant.tenant.must_shed());
            tenant.set_input(tenant.input.get() - MB, true, NOW);
            held.push(tenant.input.get() / MB);
            tenant.tenant.worker.report();
            // It stays.
            std::mem::forget(tenant);
        }
        assert_eq!(held[..4], [25, 25, 25, 12]);
        assert!(held.iter().sum::<usize>() <= 100, "{held:?}");
        assert_eq!(usize::try_from(budget.held.get()).unwrap(), held.iter().sum::<usize>() * MB);
    }

    #[test]
    fn sum_is_exact_after_everything_was_released() {
        let (budget, new) = tenants(100 * MB);
        let (one, other) = (new(), new());
        one.set_input(30 * MB, true, NOW);
        one.set_output(1000, true, NOW);
        other.set_deferred(7, NOW);
        other.end(Ending::OverBudget);
        other.set_input(MB, true, NOW);
        assert_eq!(other.age(NOW), None);
        one.clear_output();
        drop(one);
        other.tenant.worker.report();
        assert_eq!(budget.held.get(), 0);
        assert!(other.tenant.is_empty());
    }

    #[test]
    fn only_who_owes_something_stalls() {
        let (_, new) = tenants(100 * MB);
        let connection = new();
        let sweep = |sent_at| {
            connection.stalled_for(sent_at, StartedAt::from_micros(10));
            connection.stalled_for(sent_at, StartedAt::from_micros(90))
        };
        assert_eq!(sweep(NOW), 0);
        // It waits for memcached, not for its client.
        connection.set_input(10, false, NOW);
        assert_eq!(sweep(NOW), 0);
        connection.set_input(10, true, NOW);
        assert_eq!(sweep(NOW), 80);
        assert_eq!(sweep(StartedAt::from_micros(50)), 40);
        // It has only just begun to wait for its client.
        connection.set_input(10, true, NOW);
        assert_eq!(connection.stalled_for(NOW, StartedAt::from_micros(90)), 0);
        connection.set_input(0, true, NOW);
        connection.set_output(10, false, StartedAt::from_micros(20));
        connection.set_output(20, false, StartedAt::from_micros(50));
        assert_eq!(sweep(NOW), 70);
        connection.set_output(5, true, StartedAt::from_micros(80));
        assert_eq!(connection.stalled_for(NOW, StartedAt::from_micros(90)), 10);
    }
}
