//! What each instance used in each hour: what a bill is made from.

use std::time::Duration;

use crate::db::write_unversioned;
use crate::rows::{LISTED_MAX, QUERIED_MAX, SHORT_ROW_BYTES_MAX, read_rows};
use crate::{Store, StoreError, Timestamp, Usage};

/// Rows that one call returns.
const PAGE_MAX: i64 = 1_000;
/// Rows that are deleted in one transaction, so that other writers wait for little.
const DELETED_MAX: i64 = 2_000;

/// What one instance used in one hour while its cache had one plan.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow, serde::Serialize)]
pub struct UsageHour {
    /// When the hour began.
    pub hour: Timestamp,
    /// The user's id.
    pub user_id: String,
    /// The user's e-mail address now; `deleted` and the id once the account is deleted.
    pub email: String,
    /// The cache's id.
    pub cache_id: String,
    /// The cache's name; `deleted` and the id once it is deleted.
    pub cache: String,
    /// The instance's id.
    pub instance_id: String,
    /// The name that the cache's plan had then.
    pub plan: String,
    /// MiB of memory times the seconds for which they were reserved.
    pub memory_mb_seconds: i64,
    /// Operations, errors and bytes.
    #[sqlx(flatten)]
    #[serde(flatten)]
    pub usage: Usage,
    /// Connections that were open at the same time.
    pub peak_connections: i64,
}

/// Which hours to read: from `from` on, before `to`.
#[derive(Debug, Clone, Copy)]
pub struct UsageSpan {
    /// The first.
    pub from: Timestamp,
    /// The first that isn't read any more.
    pub to: Timestamp,
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT h.hour, u.id AS user_id, u.email, c.id AS cache_id, c.name AS cache, h.instance_id, h.plan, ",
            "h.memory_mb_seconds, h.hits, h.misses, h.stores, h.deletes, h.arithmetic, h.touches, h.others, h.errors, ",
            "h.bytes_in, h.bytes_out, h.peak_connections FROM usage_hours h JOIN instances i ON i.id = h.instance_id ",
            "JOIN caches c ON c.id = i.cache_id JOIN users u ON u.id = c.user_id ",
            $rest
        )
    };
}

/// Of all instances behind the row `$1`, `$2`, `$3`, before the hour `$4`.
pub(crate) const OF_ALL: &str = select!(
    "WHERE (h.hour, h.instance_id, h.plan) > ($1, $2, $3) AND h.hour < $4 \
     ORDER BY h.hour, h.instance_id, h.plan LIMIT $5"
);
/// Of the instance `$1` behind the row `$2`, `$3`, before the hour `$4`.
pub(crate) const OF_INSTANCE: &str = select!(
    "WHERE h.instance_id = $1 AND (h.hour, h.plan) > ($2, $3) AND h.hour < $4 ORDER BY h.hour, h.plan LIMIT $5"
);
/// Instances of all caches that a user has had.
pub(crate) const INSTANCES_OF_USER: &str = "SELECT i.id FROM caches c JOIN instances i ON i.cache_id = c.id \
     WHERE c.user_id = $1 ORDER BY c.created_at, c.id LIMIT $2";
/// The hour with rows that has `$2` - 1 newer ones up to `$1`. Steps from hour to hour in the index.
pub(crate) const OLDEST_KEPT: &str = "WITH RECURSIVE kept (hour, number) AS \
     (SELECT MAX(hour), CAST(1 AS BIGINT) FROM usage_hours WHERE hour <= $1 \
     UNION ALL SELECT (SELECT MAX(u.hour) FROM usage_hours u WHERE u.hour < kept.hour), kept.number + 1 FROM kept \
     WHERE kept.hour IS NOT NULL AND kept.number < $2) SELECT hour FROM kept WHERE number = $2 AND hour IS NOT NULL";
const DELETE_BEFORE: &str = "DELETE FROM usage_hours WHERE (hour, instance_id, plan) IN \
     (SELECT hour, instance_id, plan FROM usage_hours WHERE hour < $1 LIMIT $2)";
const HOUR_SECONDS: u64 = 3_600;

impl Store {
    /// The next hours of all instances, or of one: those behind `last`, 1,000 at most; none at the end. Ordered by hour,
    /// instance and plan.
    ///
    /// # Errors
    /// `Corrupt` if a row is invalid: no bill leaves one out silently.
    pub async fn usage_hours(
        &self,
        span: UsageSpan,
        instance_id: Option<&str>,
        last: Option<&UsageHour>,
    ) -> Result<Vec<UsageHour>, StoreError> {
        // Behind every row of the hour before.
        let (hour, instance, plan) = match last {
            Some(last) => (last.hour, last.instance_id.as_str(), last.plan.as_str()),
            None => (Timestamp::from_millis(span.from.as_millis().saturating_sub(1)), "", ""),
        };
        let rows: Vec<Result<UsageHour, StoreError>> = match instance_id {
            None => read_rows!(
                self,
                SHORT_ROW_BYTES_MAX,
                sqlx::query(OF_ALL).bind(hour).bind(instance).bind(plan).bind(span.to).bind(PAGE_MAX)
            )?,
            Some(id) => read_rows!(
                self,
                SHORT_ROW_BYTES_MAX,
                sqlx::query(OF_INSTANCE).bind(id).bind(hour).bind(plan).bind(span.to).bind(PAGE_MAX)
            )?,
        };
        rows.into_iter().collect()
    }

    /// Hours of an instance, oldest first: up to `limit` of those behind the hour and plan `last`.
    ///
    /// # Errors
    /// `Corrupt` if a row is invalid.
    pub async fn usage_hours_behind(
        &self,
        span: UsageSpan,
        instance_id: &str,
        last: Option<(Timestamp, &str)>,
        limit: i64,
    ) -> Result<Vec<UsageHour>, StoreError> {
        let (hour, plan) =
            last.unwrap_or((Timestamp::from_millis(span.from.as_millis().saturating_sub(1)), ""));
        let rows: Vec<Result<UsageHour, StoreError>> = read_rows!(
            self,
            SHORT_ROW_BYTES_MAX,
            sqlx::query(OF_INSTANCE)
                .bind(instance_id)
                .bind(hour)
                .bind(plan)
                .bind(span.to)
                .bind(limit.min(PAGE_MAX))
        )?;
        rows.into_iter().collect()
    }

    /// The instances of all caches that a user has had, deleted ones too, oldest first.
    ///
    /// # Errors
    /// `TooMany("instances")`: no bill leaves one out silently.
    pub async fn instance_ids_of_user(&self, user_id: &str) -> Result<Vec<String>, StoreError> {
        let rows: Vec<Result<(String,), StoreError>> = read_rows!(
            self,
            SHORT_ROW_BYTES_MAX,
            sqlx::query(INSTANCES_OF_USER).bind(user_id).bind(QUERIED_MAX)
        )?;
        if rows.len() > LISTED_MAX {
            return Err(StoreError::TooMany("instances"));
        }
        rows.into_iter().map(|row| Ok(row?.0)).collect()
    }

    /// Deletes some of the hours that are over `kept` older than `now`, as long as that many later ones with rows are left:
    /// a clock that is wrong deletes no bill, whether it is ahead or behind. Returns whether there may be more.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn forget_usage_hours(&self, now: Timestamp, kept: Duration) -> Result<bool, StoreError> {
        let number = i64::try_from(kept.as_secs() / HOUR_SECONDS).unwrap_or(i64::MAX).max(1);
        let deleted = write_unversioned!(self, tx => {
            let oldest: Option<Timestamp> = sqlx::query_scalar(OLDEST_KEPT).bind(now).bind(number)
                .fetch_optional(&mut *tx).await?;
            match oldest {
                Some(oldest) => sqlx::query(DELETE_BEFORE).bind(oldest.min(now.saturating_sub(kept))).bind(DELETED_MAX)
                    .execute(&mut *tx).await?.rows_affected(),
                None => 0,
            }
        });
        Ok(i64::try_from(deleted).unwrap_or(i64::MAX) >= DELETED_MAX)
    }
}
