//! The time that tokens end by. It never runs back: a token that is over stays over, whatever becomes of
//! this machine's clock.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use store::Millis;

#[derive(Debug)]
pub(crate) struct Clock {
    since: Instant,
    /// What time it was at `since`, by the latest that the machine's clock has ever said.
    began: AtomicI64,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { since: Instant::now(), began: AtomicI64::new(store::now()) }
    }

    pub(crate) fn now(&self) -> Millis {
        self.at(store::now(), self.since.elapsed())
    }

    fn at(&self, said: Millis, elapsed: Duration) -> Millis {
        let elapsed = Millis::try_from(elapsed.as_millis()).unwrap_or(Millis::MAX);
        let began = said.saturating_sub(elapsed);
        self.began.fetch_max(began, Ordering::Relaxed).max(began).saturating_add(elapsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_when_the_machines_clock_jumps_back() {
        let clock = Clock { since: Instant::now(), began: AtomicI64::new(1_000_000) };
        for (said, elapsed, expected) in [
            (1_000_000, 0, 1_000_000),
            (1_001_000, 1000, 1_001_000),
            // A day back, and a second later.
            (1_002_000 - 86_400_000, 2000, 1_002_000),
            (1_003_000 - 86_400_000, 3000, 1_003_000),
            // Ahead, and back to where it was: what is over by then stays over.
            (5_000_000, 4000, 5_000_000),
            (1_005_000, 5000, 5_001_000),
            (i64::MIN, 6000, 5_002_000),
        ] {
            assert_eq!(clock.at(said, Duration::from_millis(elapsed)), expected);
        }
        assert_eq!(clock.at(i64::MAX, Duration::MAX), i64::MAX);
    }
}
