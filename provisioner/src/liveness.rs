//! What a failed health check proves about a running container. Pure: the caller passes the time.
//!
//! A cache's contents are gone once its container is replaced. So only proof leads there: that another
//! memcached answers, or that memcached says nothing for a while although the container's network works. One
//! that has no connection left, or that can't be reached at all, is kept.

use std::time::Duration;

use tokio::time::Instant;

/// Health checks without any answer, and the time that they span, until memcached counts as hung. One or two
/// may fail because the host is busy.
const SILENT_CHECKS_MIN: u32 = 3;
const SILENCE_MIN: Duration = Duration::from_secs(10);

/// The result of a health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Health {
    /// It accepts the lane's login; the version that it says.
    Healthy(String),
    /// Proof that it is another memcached: it rejects the login, or needs none.
    Wrong,
    /// It closes new connections: all that it may have are open.
    Full,
    /// The container's network answers, and memcached doesn't.
    Silent,
    /// Nothing answers: the way to the container is broken, or the host is.
    Unreachable,
}

/// The health checks of one container that got no answer, in a row.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Silence {
    checks: u32,
    since: Option<Instant>,
}

impl Silence {
    /// Records a health check.
    pub(crate) fn record(&mut self, health: &Health, now: Instant) {
        match health {
            Health::Healthy(_) | Health::Full | Health::Wrong => *self = Self::default(),
            // Says nothing about memcached.
            Health::Unreachable => {}
            Health::Silent => {
                self.checks = self.checks.saturating_add(1);
                self.since.get_or_insert(now);
            }
        }
    }

    /// Whether memcached hangs, so that only another container helps.
    pub(crate) fn proves_hung(&self, now: Instant) -> bool {
        let long = self.since.is_some_and(|since| now.duration_since(since) >= SILENCE_MIN);
        self.checks >= SILENT_CHECKS_MIN && long
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.checks == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the health checks, 5 s apart, prove that memcached hangs.
    fn hung(checks: &str) -> bool {
        let mut silence = Silence::default();
        let mut now = Instant::now();
        for check in checks.split_whitespace() {
            now += Duration::from_secs(5);
            let health = match check {
                "healthy" => Health::Healthy("1.6.18".into()),
                "full" => Health::Full,
                "wrong" => Health::Wrong,
                "unreachable" => Health::Unreachable,
                _ => Health::Silent,
            };
            silence.record(&health, now);
        }
        silence.proves_hung(now)
    }

    //
    #[test]
    fn only_lasting_silence_is_proof() {
        for (checks, expected) in [
            ("", false),
            ("silent silent", false),
            ("silent silent silent", true),
            ("full full full full full full", false),
            ("unreachable unreachable unreachable unreachable", false),
            ("silent silent full silent", false),
            ("silent silent healthy silent silent", false),
            ("silent unreachable silent unreachable", false),
            ("silent unreachable silent unreachable silent", true),
        ] {
            assert_eq!(hung(checks), expected, "{checks}");
        }
    }

    //
    #[test]
    fn many_checks_in_a_moment_are_no_proof() {
        let (mut silence, start) = (Silence::default(), Instant::now());
        for _ in 0..100 {
            silence.record(&Health::Silent, start);
        }
        assert!(!silence.proves_hung(start + SILENCE_MIN - Duration::from_millis(1)));
        assert!(silence.proves_hung(start + SILENCE_MIN));
    }
}
