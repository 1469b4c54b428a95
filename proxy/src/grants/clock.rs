//! The clock by which tokens expire. It never runs backwards: an expired token stays expired even if the machine's
//! clock is set back.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use store::Timestamp;

#[derive(Debug)]
pub(crate) struct Clock {
    since: Instant,
    /// The time at `since` in milliseconds since 1970, according to the latest reading of the machine's clock.
    began: AtomicI64,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { since: Instant::now(), began: AtomicI64::new(store::now().as_millis()) }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.at(store::now(), self.since.elapsed())
    }

    fn at(&self, reading: Timestamp, elapsed: Duration) -> Timestamp {
        let began = reading.saturating_sub(elapsed);
        let latest = self.began.fetch_max(began.as_millis(), Ordering::Relaxed);
        Timestamp::from_millis(latest).max(began).saturating_add(elapsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // F-11.
    #[test]
    fn clock_never_runs_backwards() {
        let clock = Clock { since: Instant::now(), began: AtomicI64::new(1_000_000) };
        for (reading, elapsed, expected) in [
            (1_000_000, 0, 1_000_000),
            (1_001_000, 1000, 1_001_000),
            // Set back by a day; a second passes.
            (1_002_000 - 86_400_000, 2000, 1_002_000),
            (1_003_000 - 86_400_000, 3000, 1_003_000),
            // Set ahead, then back: tokens that expired meanwhile stay expired.
            (5_000_000, 4000, 5_000_000),
            (1_005_000, 5000, 5_001_000),
            (i64::MIN, 6000, 5_002_000),
        ] {
            let reading = Timestamp::from_millis(reading);
            assert_eq!(clock.at(reading, Duration::from_millis(elapsed)).as_millis(), expected);
        }
        assert_eq!(clock.at(Timestamp::MAX, Duration::MAX), Timestamp::MAX);
    }
}
