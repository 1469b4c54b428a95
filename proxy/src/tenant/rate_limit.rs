//! RateLimit limits of a plan: token buckets for operations and bytes, shared by the sessions of a tenant.

use std::cell::Cell;
use std::time::Instant;

use store::Grant;

use crate::metrics::usage::Usage;

const SECOND: u64 = 1_000_000_000;

/// The capacity of a bucket: what the plan allows in this time, in nanoseconds.
const BURST: u64 = SECOND;

#[derive(Debug)]
pub(crate) struct RateLimit {
    /// Whether the plan has a limit. A plan without one costs only this check.
    limited: Cell<bool>,
    operations: Bucket,
    bytes: Bucket,
    /// The bytes that [`Usage`] had counted when their bucket was last charged.
    charged: Cell<u64>,
    epoch: Instant,
}

/// A token bucket. It may be overdrawn: a large request passes, and the next ones are denied for longer.
#[derive(Debug, Default)]
struct Bucket {
    /// `None` without a limit.
    per_second: Cell<Option<u64>>,
    /// When the bucket will be full, in nanoseconds since the epoch.
    full_at: Cell<u64>,
}

impl Bucket {
    /// Whether less than one unit is left.
    fn is_empty(&self, now: u64) -> bool {
        let Some(per_second) = self.per_second.get() else { return false };
        let one = SECOND.checked_div(per_second).unwrap_or(SECOND);
        self.full_at.get().saturating_sub(now).saturating_add(one) > BURST
    }

    fn take(&self, amount: u64, now: u64) {
        let Some(per_second) = self.per_second.get() else { return };
        // In 64 bits, 2^30 bytes and more would overflow.
        let nanos = u128::from(amount) * u128::from(SECOND) / u128::from(per_second.max(1));
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        self.full_at.set(self.full_at.get().max(now).saturating_add(nanos));
    }
}

impl RateLimit {
    pub(super) fn new() -> Self {
        Self {
            limited: Cell::new(false),
            operations: Bucket::default(),
            bytes: Bucket::default(),
            charged: Cell::new(0),
            epoch: Instant::now(),
        }
    }

    /// Takes the limits from the plan in `grant`.
    pub(super) fn set_plan(&self, grant: &Grant, usage: &Usage) {
        let limits = [grant.operations_per_second, grant.bytes_per_second];
        if limits == [self.operations.per_second.get(), self.bytes.per_second.get()] {
            return;
        }
        // Debt from the previous limits is dropped.
        for (bucket, limit) in [&self.operations, &self.bytes].into_iter().zip(limits) {
            bucket.per_second.set(limit);
            bucket.full_at.set(0);
        }
        self.charged.set(usage.bytes());
        self.limited.set(limits.iter().any(Option::is_some));
    }

    /// Whether `cost` operations may be forwarded now. A denied request is not charged.
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

    fn rate(operations: Option<u64>, bytes: Option<u64>) -> RateLimit {
        let rate = RateLimit::new();
        rate.operations.per_second.set(operations);
        rate.bytes.per_second.set(bytes);
        rate
    }

    /// How many of 10,000 requests per second are allowed in ten seconds.
    fn count_allowed(rate: &RateLimit, cost: u64, bytes: usize) -> u64 {
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
    fn burst_is_one_second_of_the_plan() {
        let allowed = count_allowed(&rate(Some(100), None), 1, 50);
        assert!((1099..=1101).contains(&allowed), "{allowed}");
    }

    #[test]
    fn every_key_of_a_line_is_charged() {
        let allowed = count_allowed(&rate(Some(100), None), 10, 50);
        assert!((109..=111).contains(&allowed), "{allowed}");
    }

    #[test]
    fn bytes_are_charged_after_they_were_transferred() {
        let allowed = count_allowed(&rate(None, Some(1000)), 1, 100);
        assert!((109..=112).contains(&allowed), "{allowed}");
    }

    #[test]
    fn reported_bytes_are_still_charged() {
        let (rate, usage) = (rate(None, Some(1000)), Usage::new());
        usage.read(400);
        usage.take();
        usage.written(700);
        assert!(!rate.allows_at(0, &usage, 1));
        assert!(rate.allows_at(SECOND / 5, &usage, 1));
    }

    #[test]
    fn line_with_more_keys_than_the_burst_is_allowed_and_delays_the_next() {
        let (rate, usage) = (rate(Some(10), None), Usage::new());
        assert!(rate.allows_at(0, &usage, 1000));
        assert!(!rate.allows_at(98 * SECOND, &usage, 1));
        assert!(rate.allows_at(101 * SECOND, &usage, 1));
    }

    #[test]
    fn extreme_amounts_do_not_overflow() {
        let (rate, usage) = (rate(Some(1), Some(1)), Usage::new());
        usage.read(usize::MAX);
        assert!(!rate.allows_at(0, &usage, u64::MAX));
        assert!(!rate.allows_at(u64::MAX / 2, &usage, u64::MAX));
    }
}
