//! How many of the proxy's connections the sessions of one cache may take, whatever its plan allows.
//!
//! A cache may have a quarter of them, and never more than are left, so that each further cache finds some; but
//! [`CACHE_MIN`] however few are left. When less than one in [`FREE_SHARE`] is free, caches that have more than one part in
//! `n + 1` give up idle sessions until so many are free again (`tenant/sessions.rs`).
//!
//! All sessions of a cache are on one worker, so each counts its own; the workers share only the sum.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus_client::metrics::gauge::Gauge;

/// A cache may have one in this many of the proxy's connections.
const CACHE_SHARE: usize = 4;
/// What a cache may have however few are left.
const CACHE_MIN: usize = 16;
/// One in this many of the proxy's connections is kept free.
const FREE_SHARE: usize = 8;

/// The proxy's connections, and how many of them are sessions.
#[derive(Debug, Clone)]
pub(crate) struct SessionBudget {
    sessions: Gauge,
    /// Caches with a session.
    caches: Arc<AtomicUsize>,
    max: usize,
}

impl SessionBudget {
    /// A budget of `max` connections, of which `sessions` shows those that are logged in.
    pub(crate) fn new(sessions: Gauge, max: usize) -> Self {
        Self { sessions, caches: Arc::default(), max }
    }

    /// Whether a cache that has `sessions` may have one more.
    pub(crate) fn has_room(&self, sessions: usize) -> bool {
        sessions < self.free().min(per_cache(self.max)).max(CACHE_MIN)
    }

    /// Counts one more session of a cache that has had `before`.
    pub(crate) fn add(&self, before: usize) {
        self.sessions.inc();
        if before == 0 {
            self.caches.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a session less of a cache that has `left`.
    pub(crate) fn remove(&self, left: usize) {
        self.sessions.dec();
        if left == 0 {
            self.caches.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// How many idle sessions a cache that has `sessions` must give up now: its part of what is missing.
    pub(crate) fn excess(&self, sessions: usize) -> usize {
        let free = self.free();
        let missing = (self.max / FREE_SHARE).saturating_sub(free);
        if missing == 0 {
            return 0;
        }
        let part = self.max / self.caches.load(Ordering::Relaxed).saturating_add(1);
        let above = sessions.saturating_sub(part.max(CACHE_MIN));
        let taken = self.max.saturating_sub(free).max(1);
        above.min(missing.saturating_mul(sessions).div_ceil(taken))
    }

    fn free(&self) -> usize {
        self.max.saturating_sub(usize::try_from(self.sessions.get()).unwrap_or(0))
    }
}

/// What a cache may have of `max` connections, if so many are free.
pub(crate) fn per_cache(max: usize) -> usize {
    (max / CACHE_SHARE).max(CACHE_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 1000;

    /// Opens as many sessions as each of `caches` may have, one cache after the other.
    fn fill(budget: &SessionBudget, caches: usize) -> Vec<usize> {
        let mut sessions = vec![0; caches];
        for of_cache in &mut sessions {
            while budget.has_room(*of_cache) {
                budget.add(*of_cache);
                *of_cache += 1;
            }
        }
        sessions
    }

    //
    #[test]
    fn cache_has_a_quarter_and_never_more_than_is_left() {
        let budget = SessionBudget::new(Gauge::default(), MAX);
        assert_eq!(fill(&budget, 7), [250, 250, 250, 125, 63, 31, CACHE_MIN]);
        assert!(budget.has_room(CACHE_MIN - 1), "a few however little is left");
    }

    //
    #[test]
    fn full_caches_give_up_sessions_until_some_are_free() {
        let budget = SessionBudget::new(Gauge::default(), MAX);
        let mut sessions = fill(&budget, 6);
        for _ in 0..20 {
            for of_cache in &mut sessions {
                let excess = budget.excess(*of_cache);
                for _ in 0..excess {
                    *of_cache -= 1;
                    budget.remove(*of_cache);
                }
            }
        }
        assert!((MAX / FREE_SHARE..MAX / 4).contains(&budget.free()), "{sessions:?}");
        assert_eq!(sessions[4..], [63, 31], "those with less than their part keep it");
        assert!(sessions[..3].iter().all(|it| *it >= MAX / 7 && *it < 250), "{sessions:?}");
        // One cache alone has more than enough.
        let budget = SessionBudget::new(Gauge::default(), MAX);
        let alone = fill(&budget, 1);
        assert_eq!((alone[0], budget.excess(alone[0])), (250, 0));
    }

    #[test]
    fn caches_without_sessions_do_not_count() {
        let budget = SessionBudget::new(Gauge::default(), MAX);
        budget.add(0);
        budget.add(1);
        budget.remove(1);
        assert_eq!(budget.caches.load(Ordering::Relaxed), 1);
        budget.remove(0);
        assert_eq!((budget.caches.load(Ordering::Relaxed), budget.free()), (0, MAX));
    }
}
