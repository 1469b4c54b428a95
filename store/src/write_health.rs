//! How writes go: readiness reports when the store takes none.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::StoreError;
use crate::write_counts::{Counts, WriteCounts};

/// A write that its caller gave up counts as failed after this time: then the database didn't answer.
const GIVEN_UP_MIN: Duration = Duration::from_millis(500);

/// How the writes of a process go. All ages count back from now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteHealth {
    /// Age of the last write that the database took; `None` before the first.
    pub last_success: Option<Duration>,
    /// Why the last write failed; `None` once another one succeeds.
    pub failure: Option<WriteFailure>,
}

/// Writes that failed since the last one that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteFailure {
    /// Age of the first of them.
    pub since: Duration,
    /// Age of the last of them.
    pub last: Duration,
    /// Why the last one failed. Contains no data of users.
    pub message: String,
}

/// What [`WriteHealth`] is read from.
#[derive(Debug, Default)]
pub(crate) struct WriteLog(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    counts: Counts,
    success: Option<Instant>,
    failure: Option<Failure>,
}

#[derive(Debug)]
struct Failure {
    first: Instant,
    last: Instant,
    message: String,
}

impl WriteLog {
    /// A write begins.
    pub(crate) fn attempt(&self) -> Attempt<'_> {
        Attempt { log: self, started: Instant::now(), is_finished: false }
    }

    pub(crate) fn health(&self) -> WriteHealth {
        let entries = self.entries();
        WriteHealth {
            last_success: entries.success.map(|at| at.elapsed()),
            failure: entries.failure.as_ref().map(|failure| WriteFailure {
                since: failure.first.elapsed(),
                last: failure.last.elapsed(),
                message: failure.message.clone(),
            }),
        }
    }

    pub(crate) fn counts(&self) -> WriteCounts {
        self.entries().counts.snapshot()
    }

    fn succeeded(&self, took: Duration) {
        let mut entries = self.entries();
        entries.counts.add(took);
        entries.success = Some(Instant::now());
        if let Some(failure) = entries.failure.take() {
            tracing::info!(seconds = failure.first.elapsed().as_secs(), "the store takes writes again");
        }
    }

    fn failed(&self, error: &StoreError) {
        let (now, message) = (Instant::now(), format!("{error:?}"));
        let mut entries = self.entries();
        entries.counts.add_failure();
        let first = entries.failure.as_ref().map_or(now, |failure| failure.first);
        if entries.failure.is_none() {
            tracing::warn!(message, "the store takes no writes");
        }
        entries.failure = Some(Failure { first, last: now, message });
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A write that hasn't ended. Dropped, it was given up.
#[derive(Debug)]
pub(crate) struct Attempt<'a> {
    log: &'a WriteLog,
    started: Instant,
    is_finished: bool,
}

impl Attempt<'_> {
    /// The database took the write.
    pub(crate) fn committed(&self) {
        self.log.succeeded(self.started.elapsed());
    }

    /// Records a failure. A write that was rolled back, because it changes nothing or the database refused its content, says
    /// nothing about the database.
    pub(crate) fn finish<T>(mut self, result: &Result<T, StoreError>) {
        self.is_finished = true;
        if let Err(error) = result
            && error.is_failure()
        {
            self.log.failed(error);
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.is_finished && self.started.elapsed() >= GIVEN_UP_MIN {
            self.log.failed(&StoreError::Timeout);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // F-18.
    #[test]
    fn failures_count_until_a_write_succeeds() {
        let log = WriteLog::default();
        assert_eq!(log.health(), WriteHealth::default());
        log.attempt().finish(&Err::<(), _>(StoreError::NotFound("token")));
        assert_eq!(log.health(), WriteHealth::default(), "the request was wrong, not the database");
        log.attempt().finish(&Err::<(), _>(StoreError::Timeout));
        let first = log.health().failure.unwrap();
        log.attempt().finish(&Err::<(), _>(StoreError::Unavailable(sqlx::Error::PoolClosed)));
        let second = log.health().failure.unwrap();
        assert!(second.since >= first.since && second.last <= second.since);
        assert!(second.message.contains("closed pool"), "{}", second.message);
        log.attempt().finish(&Ok(()));
        assert!(log.health().failure.is_some() && log.health().last_success.is_none(), "rolled back");
        let attempt = log.attempt();
        attempt.committed();
        attempt.finish(&Ok(()));
        let health = log.health();
        assert!(health.failure.is_none() && health.last_success.is_some());
    }

    #[test]
    fn write_that_was_given_up_late_counts_as_failed() {
        let log = WriteLog::default();
        drop(log.attempt());
        assert_eq!(log.health(), WriteHealth::default());
        let mut attempt = log.attempt();
        attempt.started = Instant::now().checked_sub(GIVEN_UP_MIN).unwrap();
        drop(attempt);
        assert!(log.health().failure.is_some());
    }
}
