//! Why connections were refused. A pool drops the error of such a check and tries again until its time is over, so that
//! planted objects would look like a database that doesn't answer.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::StoreError;

/// How long a refusal answers all uses. A file that was repaired is used again after that.
const VALID: Duration = Duration::from_secs(5);

/// The last refusal of a connection for what the file contains.
#[derive(Debug, Default)]
pub(crate) struct Refused(Mutex<Option<(Reason, Instant)>>);

#[derive(Debug, Clone, Copy)]
enum Reason {
    Schema,
    NotWal,
}

impl Refused {
    /// Records the result of a check, and passes it on as a pool takes it.
    pub(super) fn record(&self, checked: Result<(), StoreError>) -> Result<(), sqlx::Error> {
        let reason = match &checked {
            Ok(()) => None,
            Err(StoreError::Corrupt(_)) => Some(Reason::Schema),
            Err(StoreError::NotWal) => Some(Reason::NotWal),
            // The database's own error says nothing about its content.
            Err(_) => return checked.map_err(|error| sqlx::Error::Configuration(error.into())),
        };
        *self.lock() = reason.map(|reason| (reason, Instant::now()));
        checked.map_err(|error| sqlx::Error::Configuration(error.into()))
    }

    /// The error of a connection that was refused a short time ago.
    pub(crate) fn error(&self) -> Option<sqlx::Error> {
        let (reason, at) = (*self.lock())?;
        let error = match reason {
            Reason::Schema => StoreError::Corrupt("schema"),
            Reason::NotWal => StoreError::NotWal,
        };
        (at.elapsed() < VALID).then(|| sqlx::Error::Configuration(error.into()))
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Reason, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
