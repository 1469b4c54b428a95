//! Rows of many users. Another process may have written one that can't be read: that affects its own user only (F-15).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{Decode, FromRow, Row, Sqlite, TypeInfo as _, ValueRef as _};

use crate::StoreError;

/// Rows of one list that a process reads at most, where it reads those of all users at once.
pub(crate) const LISTED_MAX: usize = 20_000;
/// The same, and one more, for a query: then there are too many.
pub(crate) const QUERIED_MAX: i64 = 20_001;
/// Bytes of a row of a list that may have 20,000: what memgate writes has half of them.
pub(crate) const SHORT_ROW_BYTES_MAX: usize = 1024;
/// Bytes of a row of a shorter list. An event has 4 KB, a token or an entry of the audit log 3 KB.
pub(crate) const ROW_BYTES_MAX: usize = 5 * 1024;

/// Reads rows. One that has more than `$bytes_max` bytes is invalid, and nothing copies it.
macro_rules! read_rows {
    ($store:expr, $bytes_max:expr, $query:expr) => {
        $crate::db::read!($store, pool => $query
            .map(|row| $crate::rows::decode(&row, $bytes_max)).fetch_all(pool).await)
    };
}

/// Reads one row, as [`read_rows`] does.
macro_rules! read_row {
    ($store:expr, $bytes_max:expr, $query:expr) => {
        $crate::db::read!($store, pool => $query
            .map(|row| $crate::rows::decode(&row, $bytes_max)).fetch_optional(pool).await)
    };
}
pub(crate) use {read_row, read_rows};

/// A row whose size is known before anything of it is copied.
pub(crate) trait RowSize: Row {
    /// Bytes of its texts.
    fn text_bytes(&self) -> usize;
}

impl RowSize for SqliteRow {
    fn text_bytes(&self) -> usize {
        let bytes = |column| {
            let value = self.try_get_raw(column).ok()?;
            // The bytes of a number would be its digits, and no number afterwards.
            let is_text = matches!(value.type_info().name(), "TEXT" | "BLOB");
            is_text.then(|| <&[u8] as Decode<Sqlite>>::decode(value).map_or(0, <[u8]>::len))
        };
        (0..self.len()).filter_map(bytes).sum()
    }
}

impl RowSize for PgRow {
    fn text_bytes(&self) -> usize {
        let bytes = |column| self.try_get_raw(column).ok()?.as_bytes().ok().map(<[u8]>::len);
        (0..self.len()).filter_map(bytes).sum()
    }
}

/// Decodes a row of at most `bytes_max` bytes.
///
/// # Errors
/// `Corrupt` if it is longer, or has a value of another type.
pub(crate) fn decode<'r, R, T>(row: &'r R, bytes_max: usize) -> Result<T, StoreError>
where
    R: RowSize,
    T: FromRow<'r, R>,
{
    if row.text_bytes() > bytes_max {
        return Err(StoreError::Corrupt("row (one that is too long)"));
    }
    Ok(T::from_row(row)?)
}

/// All rows of a list that has to be complete.
///
/// # Errors
/// `TooMany(what)` if there are more than 20,000, or the first invalid row's error.
pub(crate) fn complete<T>(
    what: &'static str,
    rows: Vec<Result<T, StoreError>>,
) -> Result<Vec<T>, StoreError> {
    if rows.len() > LISTED_MAX { Err(StoreError::TooMany(what)) } else { rows.into_iter().collect() }
}

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
