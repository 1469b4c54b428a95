//! How often API keys may be tried that aren't valid, per source. A key that was valid lately is looked up whatever its source
//! sends otherwise: what a neighbour does locks no one out.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use daemon::source::Source;
use store::ApiKey;

use crate::generations::Generations;
use crate::source_limit::SourceLimiter;

/// Limits of attempts with keys that aren't known to be valid.
#[derive(Debug)]
pub(crate) struct ApiKeyAttempts {
    per_source: SourceLimiter,
    /// Keys that were valid lately. Only keyed hashes of them are kept.
    proven: Mutex<Generations<bool>>,
}

impl ApiKeyAttempts {
    /// At most `max` attempts of a source in a minute.
    pub(crate) fn new(max: usize) -> Self {
        let per_source = SourceLimiter::new(max, Duration::from_secs(60));
        Self { per_source, proven: Mutex::new(Generations::new()) }
    }

    /// Counts an attempt.
    ///
    /// # Errors
    ///
    /// The time to wait if there were too many.
    pub(crate) fn acquire(&self, source: Source) -> Result<(), Duration> {
        self.per_source.acquire(source).map_err(|(_, wait)| wait)
    }

    /// Whether a key was valid lately.
    pub(crate) fn is_proven(&self, key: &ApiKey) -> bool {
        self.proven().get_mut(key.reveal()).is_some_and(|proven| *proven)
    }

    /// The key is valid. Takes back what [`ApiKeyAttempts::acquire`] has counted for it, if it wasn't known before.
    pub(crate) fn record_success(&self, key: &ApiKey, source: Source) {
        let was_proven = std::mem::replace(self.proven().get_or_default(key.reveal()), true);
        if !was_proven {
            self.per_source.release(source);
        }
    }

    /// The key isn't valid any more.
    pub(crate) fn forget(&self, key: &ApiKey) {
        if let Some(proven) = self.proven().get_mut(key.reveal()) {
            *proven = false;
        }
    }

    fn proven(&self) -> MutexGuard<'_, Generations<bool>> {
        self.proven.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // R-32, W-24.
    #[test]
    fn wrong_keys_are_limited_and_lock_out_no_proven_one() {
        let attempts = ApiKeyAttempts::new(3);
        let source = Source::of([203, 0, 113, 9].into());
        let right = ApiKey::generate();
        assert!(!attempts.is_proven(&right));
        assert_eq!(attempts.acquire(source), Ok(()));
        attempts.record_success(&right, source);
        let refused = (0..10).filter(|_| attempts.acquire(source).is_err()).count();
        assert_eq!(refused, 7);
        assert!(attempts.is_proven(&right) && !attempts.is_proven(&ApiKey::generate()));
        attempts.forget(&right);
        assert!(!attempts.is_proven(&right));
    }
}
