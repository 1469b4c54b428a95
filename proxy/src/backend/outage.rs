//! How long requests wait for a backend that has no open lane, and when it is dialled again (F-35). Pure.
//!
//! A backend is away from the moment at which its lane fails under a request, or is dialled in vain, or a request finds no
//! route, until a lane opens and works. For the first part of that time, `proxy.hold`, requests wait. Those that come
//! later are answered at once, or when the dial ends for which they have come: a client that tries again after a while must
//! find an instance that is back, and one with a time limit of half a second must learn in time that it isn't.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

use crate::lane::connect::HANDSHAKE_TIMEOUT;

/// Time until a backend is dialled again after a failure. It doubles with every failure, up to a maximum: a small one while
/// requests are held.
const BACKOFF: Duration = Duration::from_millis(25);
const HOLD_BACKOFF_MAX: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// How long a request waits for a dial once the others have been held in vain: less than clients wait.
const PROBE_TIMEOUT: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(super) struct Outage {
    /// For how long requests are held; 0 for not at all.
    hold: Cell<Duration>,
    /// When the backend was lost. Kept while a new lane hasn't proved to work.
    since: Cell<Option<Instant>>,
    /// Lanes and dials that have failed since the last lane that worked.
    failures: Cell<u32>,
    retry_at: Cell<Instant>,
}

impl Outage {
    pub(super) fn new(hold: Duration, now: Instant) -> Self {
        Self {
            hold: Cell::new(hold),
            since: Cell::new(None),
            failures: Cell::new(0),
            retry_at: Cell::new(now),
        }
    }

    /// Whether requests are held at all.
    pub(super) fn holds(&self) -> bool {
        !self.hold.get().is_zero()
    }

    /// Sets for how long requests are held: while an instance wakes for longer than while it restarts.
    pub(super) fn set_hold(&self, hold: Duration) {
        self.hold.set(hold);
    }

    /// Whether the backend is known to be away, or a lane that has opened since hasn't proved to work.
    pub(super) fn is_on(&self) -> bool {
        self.since.get().is_some()
    }

    /// Whether requests have been held in vain.
    pub(super) fn is_past_hold(&self, now: Instant) -> bool {
        self.since.get().is_some_and(|since| now >= since + self.hold.get())
    }

    /// When the backend may be dialled.
    pub(super) fn retry_at(&self) -> Instant {
        self.retry_at.get()
    }

    /// A lane or a dial has failed, at `now`. The backend has been away for its clients since `since`, unless it was before: a
    /// lane that opens and never works ends no outage. `None` if no request has noticed: the next one begins it.
    pub(super) fn fail(&self, since: Option<Instant>, now: Instant) {
        self.since.set(self.since.get().or(since));
        let failures = self.failures.get();
        self.failures.set(failures.saturating_add(1));
        let max = if self.is_past_hold(now) { BACKOFF_MAX } else { HOLD_BACKOFF_MAX };
        self.retry_at.set(now + BACKOFF.saturating_mul(1 << failures.min(8)).min(max));
    }

    /// A request finds no route.
    pub(super) fn begin_without_route(&self, now: Instant) {
        self.since.set(self.since.get().or(Some(now)));
    }

    /// A lane has worked, or the route has changed.
    pub(super) fn end(&self) {
        self.since.set(None);
        self.failures.set(0);
    }

    /// A lane works that was opened at `opened_at`. One that was open before tells nothing: memcached may have no connection
    /// left for another.
    pub(super) fn end_before(&self, opened_at: Instant) {
        if self.since.get().is_some_and(|since| since <= opened_at) {
            self.end();
        }
    }

    /// The route has changed: the new one may be dialled at once.
    pub(super) fn reset(&self, now: Instant) {
        self.end();
        self.retry_at.set(now);
    }

    /// How much longer a request may wait for a lane if it has waited for `waited`; `None` if it is answered now. `is_dialled`:
    /// whether a dial is in progress, or may begin now.
    pub(super) fn wait_limit(&self, waited: Duration, is_dialled: bool, now: Instant) -> Option<Duration> {
        let hold = self.hold.get();
        let limit = match self.since.get() {
            // As far as is known, the next dial succeeds.
            None => hold.max(HANDSHAKE_TIMEOUT).saturating_sub(waited),
            Some(since) if now < since + hold => (since + hold - now).min(hold.saturating_sub(waited)),
            Some(_) if is_dialled => PROBE_TIMEOUT.saturating_sub(waited),
            Some(_) => Duration::ZERO,
        };
        (!limit.is_zero()).then_some(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLD: Duration = Duration::from_secs(2);
    const NEVER: Duration = Duration::ZERO;

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    // F-35.
    #[test]
    fn requests_wait_for_the_rest_of_the_hold_and_never_longer_in_total() {
        let start = Instant::now();
        let outage = Outage::new(HOLD, start);
        assert_eq!(outage.wait_limit(NEVER, true, start), Some(HOLD));
        outage.fail(Some(start), start);
        let limit = |millis, waited| {
            let limit = outage.wait_limit(Duration::from_millis(waited), false, after(start, millis));
            limit.map(|limit| limit.as_millis())
        };
        assert_eq!((limit(0, 0), limit(500, 0), limit(1999, 0)), (Some(2000), Some(1500), Some(1)));
        assert_eq!((limit(500, 1900), limit(500, 2000)), (Some(100), None));
        assert_eq!((limit(2000, 0), limit(60_000, 0)), (None, None));
    }

    // F-35.
    #[test]
    fn once_the_hold_is_over_a_request_waits_shortly_for_its_dial_only() {
        let start = Instant::now();
        let outage = Outage::new(HOLD, start);
        outage.fail(Some(start), start);
        let later = after(start, 2000);
        assert!(outage.is_past_hold(later));
        assert_eq!(outage.wait_limit(NEVER, true, later), Some(PROBE_TIMEOUT));
        assert_eq!(outage.wait_limit(PROBE_TIMEOUT, true, later), None);
        assert_eq!(outage.wait_limit(NEVER, false, later), None);
        outage.reset(later);
        assert_eq!(outage.wait_limit(NEVER, true, later), Some(HOLD));
    }

    // F-35.
    #[test]
    fn lanes_that_open_and_never_work_do_not_begin_another_hold() {
        let start = Instant::now();
        let outage = Outage::new(HOLD, start);
        for millis in (0..2000).step_by(100) {
            outage.fail(Some(after(start, millis)), after(start, millis));
        }
        assert!(outage.is_past_hold(after(start, 2001)));
        outage.end();
        outage.fail(Some(after(start, 3000)), after(start, 3000));
        assert!(!outage.is_past_hold(after(start, 3001)));
    }

    // F-35.
    #[test]
    fn lane_that_was_open_before_does_not_end_an_outage() {
        let start = Instant::now();
        let outage = Outage::new(HOLD, start);
        outage.fail(Some(after(start, 100)), after(start, 100));
        outage.end_before(start);
        assert!(outage.is_on());
        outage.end_before(after(start, 200));
        assert!(!outage.is_on());
    }

    // F-2, F-35.
    #[test]
    fn silence_of_a_lane_counts_as_waiting() {
        let start = Instant::now();
        let outage = Outage::new(HOLD, start);
        outage.fail(Some(start), start + HOLD);
        assert_eq!(outage.wait_limit(NEVER, false, start + HOLD), None);
    }

    // F-35.
    #[test]
    fn without_hold_only_a_dial_is_waited_for() {
        let start = Instant::now();
        let outage = Outage::new(Duration::ZERO, start);
        assert_eq!(outage.wait_limit(NEVER, true, start), Some(HANDSHAKE_TIMEOUT));
        outage.fail(Some(start), start);
        assert_eq!(outage.wait_limit(NEVER, false, start), None);
        assert_eq!(outage.wait_limit(NEVER, true, start), Some(PROBE_TIMEOUT));
    }

    // F-37.
    #[test]
    fn requests_wait_longer_while_an_instance_wakes() {
        let start = Instant::now();
        let outage = Outage::new(HOLD, start);
        outage.set_hold(5 * HOLD);
        outage.begin_without_route(start);
        let waited = Duration::from_secs(4);
        assert_eq!(outage.wait_limit(waited, false, after(start, 4000)), Some(Duration::from_secs(6)));
        // It runs: what has waited long still waits for the dial.
        outage.reset(after(start, 4000));
        assert_eq!(outage.wait_limit(waited, true, after(start, 4000)), Some(Duration::from_secs(6)));
    }

    #[test]
    fn dials_are_frequent_while_requests_are_held_and_rare_then() {
        let start = Instant::now();
        let outage = Outage::new(HOLD, start);
        let mut pauses = Vec::new();
        for millis in [0, 100, 200, 300, 2000, 3000] {
            let now = after(start, millis);
            outage.fail(Some(now), now);
            pauses.push((outage.retry_at() - now).as_millis());
        }
        assert_eq!(pauses, [25, 50, 100, 100, 400, 500]);
    }
}
