//! How often: at most so many in any period, per key, in bounded memory.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Keys remembered in one generation; there are two.
const MOST_KEYS: usize = 20_000;

/// A sliding window per key. Keys are kept as keyed hashes, so no address is remembered.
#[derive(Debug)]
pub(crate) struct Limiter {
    most: usize,
    period: Duration,
    hasher: RandomState,
    seen: Mutex<Generations>,
}

/// What happened lately. When the newer generation is full or a period old, the older one is forgotten:
/// under a flood of keys the limit loosens, but memory doesn't grow.
#[derive(Debug)]
struct Generations {
    newer: HashMap<u64, VecDeque<Instant>>,
    older: HashMap<u64, VecDeque<Instant>>,
    began: Instant,
}

impl Limiter {
    pub(crate) fn new(most: usize, period: Duration) -> Self {
        let seen = Generations { newer: HashMap::new(), older: HashMap::new(), began: Instant::now() };
        Self { most, period, hasher: RandomState::new(), seen: Mutex::new(seen) }
    }

    /// Counts one more, or says how long to wait.
    pub(crate) fn take(&self, key: impl Hash) -> Result<(), Duration> {
        self.take_at(self.hasher.hash_one(key), Instant::now())
    }

    fn take_at(&self, key: u64, now: Instant) -> Result<(), Duration> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.turn(now, self.period);
        let times = seen.of(key);
        while times.front().is_some_and(|first| now.duration_since(*first) >= self.period) {
            times.pop_front();
        }
        if times.len() >= self.most {
            let oldest = times.front().map_or(Duration::ZERO, |first| now.duration_since(*first));
            return Err(self.period.saturating_sub(oldest));
        }
        times.push_back(now);
        Ok(())
    }
}

impl Generations {
    fn turn(&mut self, now: Instant, period: Duration) {
        if self.newer.len() >= MOST_KEYS || now.duration_since(self.began) >= period {
            self.older = std::mem::take(&mut self.newer);
            self.began = now;
        }
    }

    fn of(&mut self, key: u64) -> &mut VecDeque<Instant> {
        let older = self.older.remove(&key);
        self.newer.entry(key).or_insert_with(|| older.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_in_any_minute_and_no_more() {
        let limiter = Limiter::new(5, Duration::from_secs(60));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for second in [0, 10, 20, 30, 40] {
            assert_eq!(limiter.take_at(1, at(second)), Ok(()));
        }
        assert_eq!(limiter.take_at(1, at(50)), Err(Duration::from_secs(10)));
        assert_eq!(limiter.take_at(2, at(50)), Ok(()), "another key");
        assert_eq!(limiter.take_at(1, at(60)), Ok(()), "the first is a minute old");
        assert_eq!(limiter.take_at(1, at(61)), Err(Duration::from_secs(9)));
        assert_eq!(limiter.take_at(1, at(1000)), Ok(()));
    }

    #[test]
    fn memory_is_bounded() {
        let limiter = Limiter::new(1, Duration::from_secs(60));
        let now = Instant::now();
        for key in 0..200_000 {
            let _ = limiter.take_at(key, now);
        }
        let seen = limiter.seen.lock().unwrap();
        assert!(seen.newer.len() + seen.older.len() <= 2 * MOST_KEYS);
    }

    #[test]
    fn none_means_none() {
        assert!(Limiter::new(0, Duration::from_secs(60)).take("anybody").is_err());
    }
}
