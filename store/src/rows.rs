//! Rows of many users. Another process may have written one that can't be read: that affects its own user only (F-15).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::StoreError;

/// Rows of one list that a process reads at most, where it reads those of all users at once.
pub(crate) const LISTED_MAX: usize = 20_000;
/// The same, and one more, for a query: then there are too many.
pub(crate) const QUERIED_MAX: i64 = 20_001;

/// The rows that can be read. Logs how many can't when that number changes: lists are read again and again.
pub(crate) fn readable<T>(
    what: &'static str,
    rows: impl IntoIterator<Item = Result<T, StoreError>>,
) -> Vec<T> {
    let mut invalid = 0;
    let mut reason = None;
    let mut keep = |error| {
        invalid += 1;
        reason.get_or_insert(error);
    };
    let readable = rows.into_iter().filter_map(|row| row.map_err(&mut keep).ok()).collect();
    log_change(what, invalid, reason);
    readable
}

fn log_change(what: &'static str, invalid: usize, reason: Option<StoreError>) {
    static LOGGED: Mutex<BTreeMap<&str, usize>> = Mutex::new(BTreeMap::new());
    let mut logged = LOGGED.lock().unwrap_or_else(PoisonError::into_inner);
    let before = logged.insert(what, invalid).unwrap_or(0);
    if let Some(reason) = reason
        && invalid != before
    {
        tracing::error!(rows = invalid, %reason, "skipping invalid rows of {what}: restore a backup");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // F-15.
    #[test]
    fn invalid_rows_are_skipped() {
        let rows = || [Ok(1), Err(StoreError::Corrupt("row")), Ok(3), Err(StoreError::Corrupt("row"))];
        assert_eq!(readable("tests", rows()), [1, 3]);
        assert_eq!(readable("tests", rows()), [1, 3]);
    }
}
