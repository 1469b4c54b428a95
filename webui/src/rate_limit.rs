//! Rate limiter: at most N events per key in any period, in bounded memory.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many times the events of one source a whole network (IPv4 /24, IPv6 /48) may have.
const SOURCES_PER_NETWORK: usize = 10;
/// Keys in one generation; there are two.
const KEYS_MAX: usize = 20_000;

/// Sliding window per key. Keys are stored as keyed hashes, so that no address is kept.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    max: usize,
    period: Duration,
    hasher: RandomState,
    generations: Mutex<Generations>,
}

/// Recent events by key. When the newer generation is full or one period old, the older one is dropped: a
/// flood of keys loosens the limit, but never grows the memory.
#[derive(Debug)]
struct Generations {
    newer: HashMap<u64, VecDeque<Instant>>,
    older: HashMap<u64, VecDeque<Instant>>,
    started_at: Instant,
}

impl RateLimiter {
    /// At most `max` events per key in any `period`.
    pub(crate) fn new(max: usize, period: Duration) -> Self {
        let generations =
            Generations { newer: HashMap::new(), older: HashMap::new(), started_at: Instant::now() };
        Self { max, period, hasher: RandomState::new(), generations: Mutex::new(generations) }
    }

    /// For networks, where a source may have `max` events in any `period`.
    pub(crate) fn for_network(max: usize, period: Duration) -> Self {
        Self::new(max.saturating_mul(SOURCES_PER_NETWORK), period)
    }

    /// Counts one event.
    ///
    /// # Errors
    ///
    /// The time to wait if the limit is reached.
    pub(crate) fn acquire(&self, key: impl Hash) -> Result<(), Duration> {
        self.acquire_at(self.hasher.hash_one(key), Instant::now())
    }

    fn acquire_at(&self, key: u64, now: Instant) -> Result<(), Duration> {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        generations.rotate(now, self.period);
        let events = generations.events(key);
        while events.front().is_some_and(|first| now.duration_since(*first) >= self.period) {
            events.pop_front();
        }
        if events.len() >= self.max {
            let oldest = events.front().map_or(Duration::ZERO, |first| now.duration_since(*first));
            return Err(self.period.saturating_sub(oldest));
        }
        events.push_back(now);
        Ok(())
    }
}

impl Generations {
    fn rotate(&mut self, now: Instant, period: Duration) {
        if self.newer.len() >= KEYS_MAX || now.duration_since(self.started_at) >= period {
            self.older = std::mem::take(&mut self.newer);
            self.started_at = now;
        }
    }

    fn events(&mut self, key: u64) -> &mut VecDeque<Instant> {
        let older = self.older.remove(&key);
        self.newer.entry(key).or_insert_with(|| older.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_holds_in_any_period() {
        let limiter = RateLimiter::new(5, Duration::from_secs(60));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for second in [0, 10, 20, 30, 40] {
            assert_eq!(limiter.acquire_at(1, at(second)), Ok(()));
        }
        assert_eq!(limiter.acquire_at(1, at(50)), Err(Duration::from_secs(10)));
        assert_eq!(limiter.acquire_at(2, at(50)), Ok(()), "another key");
        assert_eq!(limiter.acquire_at(1, at(60)), Ok(()), "the first is a minute old");
        assert_eq!(limiter.acquire_at(1, at(61)), Err(Duration::from_secs(9)));
        assert_eq!(limiter.acquire_at(1, at(1000)), Ok(()));
    }

    #[test]
    fn memory_is_bounded() {
        let limiter = RateLimiter::new(1, Duration::from_secs(60));
        let now = Instant::now();
        for key in 0..200_000 {
            let _ = limiter.acquire_at(key, now);
        }
        let generations = limiter.generations.lock().unwrap();
        assert!(generations.newer.len() + generations.older.len() <= 2 * KEYS_MAX);
    }

    #[test]
    fn zero_rejects_everything() {
        assert!(RateLimiter::new(0, Duration::from_secs(60)).acquire("key").is_err());
    }
}
