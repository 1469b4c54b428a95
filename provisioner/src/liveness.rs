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
/// How long a memcached may be silent that takes contents back, and how much longer for each MB of its memory: it listens only
/// when it has looked at each item. It took 1.0 s of CPU for 300 MB of items of 92 bytes, and 2.5 s by the clock on a machine
/// with five times as much work as it can do. As it begins, it removes what another one would need to take them back.
const TAKE_BACK_TIMEOUT: Duration = Duration::from_secs(30);
const TAKE_BACK_TIMEOUT_PER_MB: Duration = Duration::from_millis(20);
/// The least CPUs that an instance may have, as `provisioner.cpus`.
const CPUS_MIN: f64 = 0.01;

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

    /// Whether memcached hangs, so that only another container helps. `take_back`: how long it may take contents back, if
    /// that is what it does.
    pub(crate) fn proves_hung(&self, now: Instant, take_back: Option<Duration>) -> bool {
        let limit = take_back.unwrap_or(SILENCE_MIN);
        let long = self.since.is_some_and(|since| now.duration_since(since) >= limit);
        self.checks >= SILENT_CHECKS_MIN && long
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.checks == 0
    }
}

/// How long a memcached with so much memory and so many CPUs, 0 for all, may take its contents back.
pub(crate) fn take_back_timeout(memory_mb: i64, cpus: f64) -> Duration {
    let for_contents = TAKE_BACK_TIMEOUT_PER_MB.saturating_mul(u32::try_from(memory_mb).unwrap_or(0));
    let share = if cpus > 0.0 { cpus.clamp(CPUS_MIN, 1.0) } else { 1.0 };
    TAKE_BACK_TIMEOUT.saturating_add(for_contents.div_f64(share))
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
        silence.proves_hung(now, None)
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
        assert!(!silence.proves_hung(start + SILENCE_MIN - Duration::from_millis(1), None));
        assert!(silence.proves_hung(start + SILENCE_MIN, None));
    }

    // R-29, F-36.
    #[test]
    fn a_memcached_that_takes_contents_back_may_be_silent_for_longer() {
        for (memory_mb, cpus, seconds) in [
            (64, 1.0, 31),
            (4_000, 1.0, 110),
            (4_000, 0.0, 110),
            (4_000, 8.0, 110),
            (4_000, 0.5, 190),
            (300, 0.05, 150),
        ] {
            let limit = take_back_timeout(memory_mb, cpus);
            assert_eq!(limit.as_secs(), seconds, "{memory_mb} MB, {cpus} CPUs");
            let (mut silence, start) = (Silence::default(), Instant::now());
            for _ in 0..SILENT_CHECKS_MIN {
                silence.record(&Health::Silent, start);
            }
            assert!(!silence.proves_hung(start + limit - Duration::from_millis(1), Some(limit)));
            assert!(silence.proves_hung(start + limit, Some(limit)));
        }
    }
}
