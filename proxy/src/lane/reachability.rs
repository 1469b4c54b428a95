//! Whether the memcached of one backend answers, as its lanes have found out: what one of them has waited for in vain
//! counts for all that wait, so that many requests of one client don't wait one after another.

use std::cell::Cell;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

use super::connect::HANDSHAKE_TIMEOUT;

/// How long no lane is opened after memcached hasn't answered in time.
const SILENCE_BACKOFF: Duration = Duration::from_millis(500);
/// The same after a connection was refused. It doubles with every refusal, up to `SILENCE_BACKOFF`.
const REFUSAL_BACKOFF: Duration = Duration::from_millis(25);

#[derive(Debug, Default)]
pub(crate) struct Reachability {
    /// When a dedicated lane has last been opened, or has read something.
    last_answer: Cell<Option<Instant>>,
    /// Until then no dedicated lane is leased, and no lane opened.
    retry_at: Cell<Option<Instant>>,
    /// Connections refused since the last one that was opened.
    refusals: Cell<u32>,
    failed: Notify,
}

impl Reachability {
    /// Whether memcached has just failed to answer, so that requests are answered at once that it is unavailable.
    pub(crate) fn is_away(&self) -> bool {
        self.is_away_at(Instant::now())
    }

    /// Completes with the next failure after this call.
    pub(crate) fn next_failure(&self) -> Notified<'_> {
        self.failed.notified()
    }

    /// A lane was opened, or has read something.
    pub(crate) fn answered(&self) {
        self.answered_at(Instant::now());
    }

    /// memcached didn't answer in time.
    pub(crate) fn timed_out(&self) {
        self.fail(SILENCE_BACKOFF, Instant::now());
    }

    /// memcached, or its host, refused a connection.
    pub(crate) fn refused(&self) {
        self.refused_at(Instant::now());
    }

    /// Forgets what was found out along another route.
    pub(crate) fn reset(&self) {
        self.last_answer.set(None);
        self.retry_at.set(None);
        self.refusals.set(0);
    }

    fn is_away_at(&self, now: Instant) -> bool {
        self.retry_at.get().is_some_and(|retry_at| now < retry_at)
    }

    fn answered_at(&self, now: Instant) {
        self.last_answer.set(Some(now));
        self.retry_at.set(None);
        self.refusals.set(0);
    }

    fn refused_at(&self, now: Instant) {
        let refusals = self.refusals.get();
        self.refusals.set(refusals.saturating_add(1));
        self.fail(REFUSAL_BACKOFF.saturating_mul(1 << refusals.min(8)).min(SILENCE_BACKOFF), now);
    }

    /// While other lanes are answered, the failure concerns one lane only: memcached may have no free connection.
    fn fail(&self, backoff: Duration, now: Instant) {
        let is_answering = self.last_answer.get().is_some_and(|at| now - at < HANDSHAKE_TIMEOUT);
        if !is_answering {
            self.retry_at.set(Some(now + backoff));
            self.failed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // F-2.
    #[tokio::test]
    async fn failure_of_one_lane_counts_for_all_that_wait() {
        let (reachability, now) = (Reachability::default(), Instant::now());
        assert!(!reachability.is_away_at(now));
        let waits = reachability.next_failure();
        reachability.fail(SILENCE_BACKOFF, now);
        waits.await;
        assert!(reachability.is_away_at(now));
        let now = now + SILENCE_BACKOFF;
        assert!(!reachability.is_away_at(now));
        reachability.refused_at(now);
        assert!(reachability.is_away_at(now));
        let now = now + REFUSAL_BACKOFF;
        assert!(!reachability.is_away_at(now));
        reachability.refused_at(now);
        assert!(reachability.is_away_at(now + REFUSAL_BACKOFF));
        reachability.answered_at(now);
        assert!(!reachability.is_away_at(now));
    }

    // F-2.
    #[test]
    fn failure_beside_lanes_that_are_answered_counts_for_one_lane() {
        let (reachability, now) = (Reachability::default(), Instant::now());
        reachability.answered_at(now);
        reachability.fail(SILENCE_BACKOFF, now);
        assert!(!reachability.is_away_at(now));
        let now = now + HANDSHAKE_TIMEOUT;
        reachability.fail(SILENCE_BACKOFF, now);
        assert!(reachability.is_away_at(now));
    }
}
