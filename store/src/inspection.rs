//! What operators' checks ask of the database itself: its clock, and how many rows its tables have.

use std::time::{Duration, Instant};

use sqlx::AssertSqlSafe;

use crate::db::{Db, read};
use crate::{Store, StoreError, Timestamp, now};

/// Tables that are counted.
const TABLES_SQLITE: &str = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' \
     AND name NOT LIKE '_sqlx_%' ORDER BY name LIMIT 1000";
const TABLES_POSTGRES: &str = "SELECT CAST(table_name AS TEXT) FROM information_schema.tables \
     WHERE table_schema = current_schema() AND table_name NOT LIKE '_sqlx_%' ORDER BY table_name LIMIT 1000";
/// Milliseconds since 1970, when the statement runs.
const CLOCK: &str = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)";

/// How the database's clock differs from this machine's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockDeviation {
    /// At least so much: what the answer's way may have taken doesn't count.
    pub at_least: Duration,
    /// Whether the database's clock is ahead.
    pub is_ahead: bool,
}

impl Store {
    /// Compares the database's clock with this machine's; `None` for SQLite, which has none of its own.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn clock_deviation(&self) -> Result<Option<ClockDeviation>, StoreError> {
        let Db::Postgres(pool) = &self.db else { return Ok(None) };
        let pool = pool.get();
        // Connecting takes longer than the question.
        let mut connection = pool.acquire().await?;
        let (asked, before) = (Instant::now(), now());
        let theirs: i64 = sqlx::query_scalar(CLOCK).fetch_one(&mut *connection).await?;
        Ok(Some(deviation(Timestamp::from_millis(theirs), before, asked.elapsed())))
    }

    /// The names of all tables, and how many rows each has.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn row_counts(&self) -> Result<Vec<(String, i64)>, StoreError> {
        let tables = if matches!(self.db, Db::Postgres(_)) { TABLES_POSTGRES } else { TABLES_SQLITE };
        let names: Vec<String> = read!(self, pool => sqlx::query_scalar(tables).fetch_all(pool).await)?;
        let mut counts = Vec::new();
        for name in names {
            let count = AssertSqlSafe(format!("SELECT COUNT(*) FROM \"{}\"", name.replace('"', "\"\"")));
            let rows: i64 = read!(self, pool => sqlx::query_scalar(count).fetch_one(pool).await)?;
            counts.push((name, rows));
        }
        Ok(counts)
    }
}

/// The difference that is left if the answer, which was asked for at `before` and took `took`, was given at the best moment.
fn deviation(theirs: Timestamp, before: Timestamp, took: Duration) -> ClockDeviation {
    let after = before.saturating_add(took);
    let is_ahead = theirs > after;
    let at_least = if is_ahead { theirs.since(after) } else { before.since(theirs) };
    ClockDeviation { at_least, is_ahead }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_the_answer_takes_is_no_deviation() {
        let at = Timestamp::from_millis;
        for (theirs, took, at_least, is_ahead) in
            [(1_000, 0, 0, false), (1_500, 600, 0, false), (1_700, 600, 100, true), (400, 600, 600, false)]
        {
            let found = deviation(at(theirs), at(1_000), Duration::from_millis(took));
            let expected = ClockDeviation { at_least: Duration::from_millis(at_least), is_ahead };
            assert_eq!(found, expected, "{theirs}");
        }
    }
}
