//! Rate limits of a plan: token buckets for operations and bytes, shared by the sessions of a tenant.
//!
//! Every frame is charged, also one that the proxy answers itself or denies. After a frame over the rate its connection
//! isn't read for as long as that frame costs, and the next frame counts as paid. So connections over the rate take turns,
//! and the tenant keeps the rate of its plan.

use std::cell::Cell;
use std::time::{Duration, Instant};

use store::Grant;

use crate::metrics::usage::Usage;

const SECOND: u64 = 1_000_000_000;

/// The capacity of a bucket: what the plan allows in this time, in nanoseconds.
const BURST: u64 = SECOND;
/// Frames a second that the proxy answers itself for one tenant, whatever its plan allows, before its connections pause:
/// about a tenth of a core.
const LOCAL_FRAMES_PER_SECOND_MAX: u64 = 1_000_000;
/// They are charged in steps of this many.
const LOCAL_FRAMES_STEP: u64 = 256;
/// The longest pause of a connection, in nanoseconds.
const PAUSE_MAX: u64 = SECOND;
/// The most that one frame may cost, as the time in which the plan allows so many operations, in nanoseconds.
const COST_MAX: u64 = 10 * SECOND;

#[derive(Debug)]
pub(crate) struct RateLimit {
    /// Whether the plan has a limit. A plan without one costs only this check.
    limited: Cell<bool>,
    operations: Bucket,
    bytes: Bucket,
    /// Frames that the proxy answers itself, and those that haven't been charged to the bucket yet.
    local: Bucket,
    local_frames: Cell<u64>,
    /// The bytes that [`Usage`] had counted when their bucket was last charged.
    charged: Cell<u64>,
    /// How often the limits have changed.
    changes: Cell<u64>,
    epoch: Instant,
}

/// For how long a connection isn't read after a frame over the rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pause {
    pub(crate) time: Duration,
    /// Whether the pause pays for the connection's next frame.
    pub(crate) prepaid: bool,
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
    /// The time until there are `units`, in nanoseconds; 0 if there are.
    fn time_until(&self, units: u64, now: u64) -> u64 {
        let full_at = self.full_at.get().saturating_sub(now);
        full_at.saturating_add(self.nanos(units)).saturating_sub(BURST)
    }

    fn take(&self, amount: u64, now: u64) {
        self.full_at.set(self.full_at.get().max(now).saturating_add(self.nanos(amount)));
    }

    /// The time that an amount takes to accrue; 0 without a limit.
    fn nanos(&self, amount: u64) -> u64 {
        let Some(per_second) = self.per_second.get() else { return 0 };
        // In 64 bits, 2^30 bytes and more would overflow.
        let nanos = u128::from(amount) * u128::from(SECOND) / u128::from(per_second.max(1));
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }
}

impl RateLimit {
    pub(super) fn new() -> Self {
        Self {
            limited: Cell::new(false),
            operations: Bucket::default(),
            bytes: Bucket::default(),
            local: Bucket { per_second: Cell::new(Some(LOCAL_FRAMES_PER_SECOND_MAX)), full_at: Cell::new(0) },
            local_frames: Cell::new(0),
            charged: Cell::new(0),
            changes: Cell::new(0),
            epoch: Instant::now(),
        }
    }

    /// Takes the limits from the plan in `grant`. Returns whether they have changed.
    pub(super) fn set_plan(&self, grant: &Grant, usage: &Usage) -> bool {
        let limits = [grant.operations_per_second, grant.bytes_per_second];
        if limits == [self.operations.per_second.get(), self.bytes.per_second.get()] {
            return false;
        }
        // Debt from the previous limits is dropped.
        for (bucket, limit) in [&self.operations, &self.bytes].into_iter().zip(limits) {
            bucket.per_second.set(limit);
            bucket.full_at.set(0);
        }
        self.charged.set(usage.bytes());
        self.limited.set(limits.iter().any(Option::is_some));
        self.changes.update(|changes| changes.wrapping_add(1));
        true
    }

    /// How often the limits have changed.
    pub(super) fn changes(&self) -> u64 {
        self.changes.get()
    }

    /// Whether the plan has a limit.
    #[inline]
    pub(super) fn is_limited(&self) -> bool {
        self.limited.get()
    }

    /// Charges a frame of `cost` operations; `prepaid` is what the pause before it said.
    pub(super) fn charge(&self, usage: &Usage, cost: u64, prepaid: bool) -> Result<(), Pause> {
        self.charge_at(since(self.epoch), usage, cost, prepaid)
    }

    /// The pause until the bytes that were transferred are paid, if they aren't.
    pub(super) fn unpaid_bytes(&self, usage: &Usage) -> Option<Pause> {
        let now = since(self.epoch);
        self.charge_bytes(now, usage);
        let wait = self.bytes.time_until(0, now);
        (wait > 0).then(|| Pause::new(wait, false))
    }

    /// Counts `frames` that were answered without memcached. Returns for how long the connection must pause, if they are
    /// charged now, and too many.
    #[inline]
    pub(super) fn count_local(&self, frames: u64) -> Option<Duration> {
        let frames = self.local_frames.get().saturating_add(frames);
        let is_due = frames >= LOCAL_FRAMES_STEP;
        self.local_frames.set(if is_due { 0 } else { frames });
        if is_due { self.charge_local_at(since(self.epoch), frames) } else { None }
    }

    #[cfg(test)]
    pub(super) fn exceed_local_rate(&self) {
        self.local.take(1000 * LOCAL_FRAMES_PER_SECOND_MAX, since(self.epoch));
    }

    /// Whether everything has been paid for: forgetting these limits forgets no debt.
    pub(super) fn is_settled(&self, usage: &Usage) -> bool {
        self.is_settled_at(since(self.epoch), usage)
    }

    fn is_settled_at(&self, now: u64, usage: &Usage) -> bool {
        self.charge_bytes(now, usage);
        [&self.operations, &self.bytes, &self.local].iter().all(|bucket| bucket.full_at.get() <= now)
    }

    fn charge_local_at(&self, now: u64, frames: u64) -> Option<Duration> {
        self.local.take(frames, now);
        let wait = self.local.time_until(0, now);
        (wait > 0).then(|| Duration::from_nanos(wait.min(PAUSE_MAX)))
    }

    fn charge_at(&self, now: u64, usage: &Usage, cost: u64, prepaid: bool) -> Result<(), Pause> {
        self.charge_bytes(now, usage);
        let wait_for_bytes = self.bytes.time_until(1, now);
        let has_operations = prepaid || self.operations.time_until(1, now) == 0;
        if has_operations && wait_for_bytes == 0 && self.operations.nanos(cost) <= COST_MAX {
            self.operations.take(cost.saturating_sub(prepaid.into()), now);
            return Ok(());
        }
        if has_operations {
            self.operations.take(u64::from(!prepaid), now);
            return Err(Pause::new(wait_for_bytes, false));
        }
        let wait = self.operations.time_until(1, now).max(wait_for_bytes);
        // Otherwise it only waits: a crowd of connections must not put the tenant in debt for longer.
        let reserves = wait <= PAUSE_MAX;
        if reserves {
            self.operations.take(1, now);
        }
        Err(Pause::new(wait, reserves))
    }

    fn charge_bytes(&self, now: u64, usage: &Usage) {
        let bytes = usage.bytes();
        self.bytes.take(bytes.saturating_sub(self.charged.replace(bytes)), now);
    }
}

impl Pause {
    fn new(nanos: u64, prepaid: bool) -> Self {
        Self { time: Duration::from_nanos(nanos.min(PAUSE_MAX)), prepaid }
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

    /// How many frames of 10,000 a second, each on a connection of its own, are allowed in ten seconds.
    fn count_allowed(rate: &RateLimit, cost: u64, bytes: usize) -> u64 {
        let usage = Usage::new();
        let mut count = 0;
        for now in (0..10 * SECOND).step_by(100_000) {
            if rate.charge_at(now, &usage, cost, false).is_ok() {
                count += 1;
                usage.read(bytes);
            }
        }
        count
    }

    /// Frames that `connections` connections get allowed and refused in ten seconds, if each sends its next one as soon
    /// as it is read.
    fn count_paced(rate: &RateLimit, connections: usize) -> (u64, u64) {
        let usage = Usage::new();
        let mut readable = vec![(0, false); connections];
        let (mut allowed, mut refused) = (0, 0);
        loop {
            let next = readable.iter_mut().min_by_key(|(at, _)| *at).unwrap();
            let now = next.0;
            if now >= 10 * SECOND {
                return (allowed, refused);
            }
            match rate.charge_at(now, &usage, 1, next.1) {
                // A round trip takes 0.1 ms.
                Ok(()) => {
                    allowed += 1;
                    *next = (now + 100_000, false);
                }
                Err(pause) => {
                    refused += 1;
                    *next = (now + u64::try_from(pause.time.as_nanos()).unwrap().max(100_000), pause.prepaid);
                }
            }
        }
    }

    //
    #[test]
    fn refusals_are_as_rare_as_the_rate_and_take_nothing_from_it() {
        for connections in [1, 2, 40] {
            let (allowed, refused) = count_paced(&rate(Some(100), None), connections);
            assert!((1000..=1100).contains(&allowed), "{connections} connections: {allowed} allowed");
            assert!(refused <= 1100, "{connections} connections: {refused} refused");
        }
        // More connections than the rate allows frames in the longest pause: each is refused once a second.
        let (allowed, refused) = count_paced(&rate(Some(10), None), 1000);
        assert!((80..=120).contains(&allowed) && refused <= 11_000, "{allowed} allowed, {refused} refused");
    }

    //
    #[test]
    fn local_frames_are_limited_without_a_plan_too() {
        let rate = rate(None, None);
        let mut frames = 0;
        let mut now = 0;
        while now < 10 * SECOND {
            frames += 256;
            let pause = rate.charge_local_at(now, 256).unwrap_or_default();
            // A turn takes 10 us.
            now += 10_000 + u64::try_from(pause.as_nanos()).unwrap();
        }
        let expected = 11 * LOCAL_FRAMES_PER_SECOND_MAX;
        assert!((expected - 1000..=expected + 1000).contains(&frames), "{frames}");
    }

    //
    #[test]
    fn local_frames_are_charged_in_whatever_steps_they_come() {
        for frames in [1, 2, 255, 256, 1000] {
            let rate = rate(None, None);
            let counted = (0..10_000).filter_map(|_| rate.count_local(frames)).count();
            let charged = u128::from(rate.local.full_at.get()) * u128::from(LOCAL_FRAMES_PER_SECOND_MAX);
            let charged = charged / u128::from(SECOND) + u128::from(rate.local_frames.get());
            assert!(charged >= u128::from(10_000 * frames), "{frames}: {charged} charged");
            assert_eq!(counted > 0, 10_000 * frames > 2 * LOCAL_FRAMES_PER_SECOND_MAX, "{frames}");
        }
    }

    #[test]
    fn burst_is_one_second_of_the_plan() {
        let rate = rate(Some(100), None);
        let usage = Usage::new();
        assert_eq!((0..1000).filter(|_| rate.charge_at(0, &usage, 1, false).is_ok()).count(), 100);
    }

    #[test]
    fn every_key_of_a_line_is_charged() {
        let rate = rate(Some(100), None);
        let usage = Usage::new();
        assert_eq!((0..1000).filter(|_| rate.charge_at(0, &usage, 10, false).is_ok()).count(), 10);
        let pause = Pause { time: Duration::from_millis(10), prepaid: true };
        rate.operations.full_at.set(BURST);
        assert_eq!(rate.charge_at(0, &usage, 10, false), Err(pause));
        // The first key is paid.
        assert_eq!(rate.charge_at(SECOND / 100, &usage, 10, true), Ok(()));
        assert_eq!(rate.operations.time_until(0, SECOND / 100), 9 * SECOND / 100);
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
        let refused = rate.charge_at(0, &usage, 1, false).unwrap_err();
        assert_eq!(refused, Pause { time: Duration::from_millis(101), prepaid: false });
        assert!(rate.charge_at(SECOND / 5, &usage, 1, false).is_ok());
    }

    #[test]
    fn line_with_more_keys_than_the_burst_is_allowed_and_delays_the_next() {
        let (rate, usage) = (rate(Some(10), None), Usage::new());
        assert!(rate.charge_at(0, &usage, 100, false).is_ok());
        let refused = rate.charge_at(8 * SECOND, &usage, 1, false).unwrap_err();
        assert_eq!(refused, Pause { time: Duration::from_secs(1), prepaid: false });
        assert!(rate.charge_at(11 * SECOND, &usage, 1, false).is_ok());
    }

    // R-36, P-5.
    #[test]
    fn line_that_costs_more_than_ten_seconds_is_denied_and_puts_nobody_in_debt() {
        let (rate, usage) = (rate(Some(10), None), Usage::new());
        for (cost, prepaid) in [(101, false), (500_000, false), (101, true)] {
            let refused = rate.charge_at(0, &usage, cost, prepaid).unwrap_err();
            assert_eq!(refused, Pause { time: Duration::ZERO, prepaid: false });
        }
        assert!(rate.charge_at(0, &usage, 1, false).is_ok());
    }

    //
    #[test]
    fn limits_are_settled_when_all_is_paid() {
        let (rate, usage) = (rate(Some(10), Some(1000)), Usage::new());
        assert!(rate.is_settled_at(0, &usage));
        assert!(rate.charge_at(0, &usage, 50, false).is_ok());
        assert!(!rate.is_settled_at(4 * SECOND, &usage) && rate.is_settled_at(5 * SECOND, &usage));
        usage.read(3000);
        assert!(!rate.is_settled_at(5 * SECOND, &usage) && !rate.is_settled_at(7 * SECOND, &usage));
        assert!(rate.is_settled_at(8 * SECOND, &usage));
    }

    #[test]
    fn extreme_amounts_do_not_overflow() {
        let (rate, usage) = (rate(Some(1), Some(1)), Usage::new());
        usage.read(usize::MAX);
        assert!(rate.charge_at(0, &usage, u64::MAX, false).is_err());
        assert!(rate.charge_at(u64::MAX / 2, &usage, u64::MAX, true).is_err());
    }
}
