//! Rate limiter: at most N events per key in any period, in bounded memory.

use std::collections::VecDeque;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::generations::Generations;

/// How many times the events of one source a whole network (IPv4 /24, IPv6 /48) may have.
const SOURCES_PER_NETWORK: usize = 10;

/// Sliding window per key. A flood of keys loosens the limit.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    max: usize,
    period: Duration,
    recent: Mutex<Recent>,
}

#[derive(Debug)]
struct Recent {
    /// When the events of a key happened, the oldest first. A generation ends after one period, too.
    events: Generations<VecDeque<Instant>>,
    rotated_at: Instant,
}

impl RateLimiter {
    /// At most `max` events per key in any `period`.
    pub(crate) fn new(max: usize, period: Duration) -> Self {
        let recent = Recent { events: Generations::new(), rotated_at: Instant::now() };
        Self { max, period, recent: Mutex::new(recent) }
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
        self.acquire_at(key, Instant::now())
    }

    /// Events of a key in the last period.
    pub(crate) fn count(&self, key: impl Hash) -> usize {
        let mut recent = self.recent();
        let Some(events) = recent.events.get_mut(key) else { return 0 };
        let _ = self.check_events(events, Instant::now());
        events.len()
    }

    /// How many events a key may have, in which time.
    pub(crate) fn quota(&self) -> (usize, Duration) {
        (self.max, self.period)
    }

    /// How many events a key may still have, and when it may have another one than these.
    pub(crate) fn left(&self, key: impl Hash) -> (usize, Duration) {
        let mut recent = self.recent();
        let Some(events) = recent.events.get_mut(key) else { return (self.max, Duration::ZERO) };
        let now = Instant::now();
        let _ = self.check_events(events, now);
        let oldest = events.front().map(|first| now.saturating_duration_since(*first));
        let more_in = oldest.map_or(Duration::ZERO, |age| self.period.saturating_sub(age));
        (self.max.saturating_sub(events.len()), more_in)
    }

    /// Takes back the last event that was counted for a key.
    pub(crate) fn release(&self, key: impl Hash) {
        if let Some(events) = self.recent().events.get_mut(key) {
            events.pop_back();
        }
    }

    fn acquire_at(&self, key: impl Hash, now: Instant) -> Result<(), Duration> {
        let mut recent = self.recent();
        if now.saturating_duration_since(recent.rotated_at) >= self.period {
            recent.events.rotate();
            recent.rotated_at = now;
        }
        let events = recent.events.get_or_default(key);
        self.check_events(events, now)?;
        events.push_back(now);
        Ok(())
    }

    /// Forgets events of earlier periods, and checks how many are left.
    fn check_events(&self, events: &mut VecDeque<Instant>, now: Instant) -> Result<(), Duration> {
        while events.front().is_some_and(|first| now.saturating_duration_since(*first) >= self.period) {
            events.pop_front();
        }
        if events.len() < self.max {
            return Ok(());
        }
        let oldest = events.front().map_or(Duration::ZERO, |first| now.saturating_duration_since(*first));
        Err(self.period.saturating_sub(oldest))
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn released_events_do_not_count() {
        let limiter = RateLimiter::new(1, Duration::from_secs(60));
        assert_eq!(limiter.count("key"), 0);
        assert_eq!(limiter.acquire("key"), Ok(()));
        assert!(limiter.count("key") == 1 && limiter.acquire("key").is_err());
        limiter.release("key");
        assert_eq!(limiter.count("key"), 0);
        assert_eq!(limiter.acquire("key"), Ok(()));
        limiter.release("unknown");
    }

    #[test]
    fn what_is_left_is_known() {
        let limiter = RateLimiter::new(2, Duration::from_secs(60));
        assert_eq!(
            (limiter.quota(), limiter.left("key")),
            ((2, Duration::from_secs(60)), (2, Duration::ZERO))
        );
        assert_eq!(limiter.acquire("key"), Ok(()));
        let (left, more_in) = limiter.left("key");
        assert!(left == 1 && more_in > Duration::from_secs(50));
        let _ = (limiter.acquire("key"), limiter.acquire("key"));
        assert_eq!(limiter.left("key").0, 0);
    }

    #[test]
    fn zero_rejects_everything() {
        assert!(RateLimiter::new(0, Duration::from_secs(60)).acquire("key").is_err());
    }
}
