//! What a plan allows of an instance each second: token buckets that all its connections here draw on.

use std::cell::Cell;
use std::time::Instant;

use store::Grant;

use crate::metrics::usage::Usage;

const SECOND: u64 = 1_000_000_000;

/// So much of what a second allows may be taken at once.
const BURST: u64 = SECOND;

#[derive(Debug)]
pub(crate) struct Rate {
    /// All that an instance without limits costs.
    limited: Cell<bool>,
    operations: Bucket,
    bytes: Bucket,
    /// What [`Usage`] had counted when bytes were last taken from their bucket.
    charged: Cell<u64>,
    epoch: Instant,
}

/// Full when nothing was taken for a while. It may be overdrawn: who takes more than there is waits longer.
#[derive(Debug, Default)]
struct Bucket {
    /// `None` if it never ends.
    per_second: Cell<Option<u64>>,
    /// When it will be full: nanoseconds since the epoch.
    full_at: Cell<u64>,
}

impl Bucket {
    /// Whether there isn't one whole left.
    fn is_empty(&self, now: u64) -> bool {
        let Some(per_second) = self.per_second.get() else { return false };
        let one = SECOND.checked_div(per_second).unwrap_or(SECOND);
        self.full_at.get().saturating_sub(now).saturating_add(one) > BURST
    }

    fn take(&self, amount: u64, now: u64) {
        let Some(per_second) = self.per_second.get() else { return };
        // At 2^30 bytes and more a single piece would overflow otherwise.
        let nanos = u128::from(amount) * u128::from(SECOND) / u128::from(per_second.max(1));
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        self.full_at.set(self.full_at.get().max(now).saturating_add(nanos));
    }
}

impl Rate {
    pub(super) fn new() -> Self {
        Self {
            limited: Cell::new(false),
            operations: Bucket::default(),
            bytes: Bucket::default(),
            charged: Cell::new(0),
            epoch: Instant::now(),
        }
    }

    /// Holds the instance to what its plan says now.
    pub(super) fn follow(&self, grant: &Grant, usage: &Usage) {
        let limits = [grant.operations_per_second, grant.bytes_per_second];
        if limits == [self.operations.per_second.get(), self.bytes.per_second.get()] {
            return;
        }
        // What was drawn at another rate is forgiven.
        for (bucket, limit) in [&self.operations, &self.bytes].into_iter().zip(limits) {
            bucket.per_second.set(limit);
            bucket.full_at.set(0);
        }
        self.charged.set(usage.bytes());
        self.limited.set(limits.iter().any(Option::is_some));
    }

    /// Whether so many operations may be forwarded now, as `cost` says if it is asked. What isn't takes nothing.
    pub(super) fn allows(&self, usage: &Usage, cost: impl FnOnce() -> u64) -> bool {
        if !self.limited.get() {
            return true;
        }
        match cost() {
            0 => true,
            cost => self.allows_at(since(self.epoch), usage, cost),
        }
    }

    fn allows_at(&self, now: u64, usage: &Usage, cost: u64) -> bool {
        let bytes = usage.bytes();
        self.bytes.take(bytes.saturating_sub(self.charged.replace(bytes)), now);
        if self.operations.is_empty(now) || self.bytes.is_empty(now) {
            return false;
        }
        self.operations.take(cost, now);
        true
    }
}

fn since(epoch: Instant) -> u64 {
    u64::try_from(Instant::now().saturating_duration_since(epoch).as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(operations: Option<u64>, bytes: Option<u64>) -> Rate {
        let rate = Rate::new();
        rate.operations.per_second.set(operations);
        rate.bytes.per_second.set(bytes);
        rate
    }

    /// How many of 10,000 requests a second are let through in ten seconds.
    fn let_through(rate: &Rate, cost: u64, bytes: usize) -> u64 {
        let usage = Usage::new();
        let mut count = 0;
        for now in (0..10 * SECOND).step_by(100_000) {
            if rate.allows_at(now, &usage, cost) {
                count += 1;
                usage.read(bytes);
            }
        }
        count
    }

    #[test]
    fn a_second_at_once_and_then_as_many_as_the_plan_says() {
        let through = let_through(&rate(Some(100), None), 1, 50);
        assert!((1099..=1101).contains(&through), "{through}");
    }

    #[test]
    fn every_key_of_a_line_counts() {
        let through = let_through(&rate(Some(100), None), 10, 50);
        assert!((109..=111).contains(&through), "{through}");
    }

    #[test]
    fn bytes_are_charged_when_they_have_come() {
        let through = let_through(&rate(None, Some(1000)), 1, 100);
        assert!((109..=112).contains(&through), "{through}");
    }

    #[test]
    fn what_the_worker_gathers_is_charged_all_the_same() {
        let (rate, usage) = (rate(None, Some(1000)), Usage::new());
        usage.read(400);
        usage.take();
        usage.written(700);
        assert!(!rate.allows_at(0, &usage, 1));
        assert!(rate.allows_at(SECOND / 5, &usage, 1));
    }

    #[test]
    fn a_line_of_more_keys_than_a_second_allows_passes_and_is_waited_for() {
        let (rate, usage) = (rate(Some(10), None), Usage::new());
        assert!(rate.allows_at(0, &usage, 1000));
        assert!(!rate.allows_at(98 * SECOND, &usage, 1));
        assert!(rate.allows_at(101 * SECOND, &usage, 1));
    }

    #[test]
    fn absurd_amounts_are_no_trouble() {
        let (rate, usage) = (rate(Some(1), Some(1)), Usage::new());
        usage.read(usize::MAX);
        assert!(!rate.allows_at(0, &usage, u64::MAX));
        assert!(!rate.allows_at(u64::MAX / 2, &usage, u64::MAX));
    }
}
