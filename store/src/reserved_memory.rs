//! Meters memory: which instances have memory reserved, and for how long, hour by hour. A span is metered in the
//! transaction that records up to when it was, so none counts twice, and none is lost when the provisioner ends.

use std::time::Duration;

use crate::db::write_unversioned;
use crate::rows::{LISTED_MAX, SHORT_ROW_BYTES_MAX, read_rows, readable};
use crate::usage::add_column;
use crate::{Store, StoreError, Timestamp};

/// Memory of one instance in MiB, as `provisioner` allows at most.
const MEMORY_MB_MAX: i64 = 1 << 20;
/// A longer span of one instance is metered for this long only.
const SPAN_MAX: Duration = Duration::from_hours(14 * 24);
/// Spans that end later than this from now were recorded while the clock was wrong.
const CLOCK_ERROR_MAX: Duration = Duration::from_mins(10);
const HOUR: Duration = Duration::from_hours(1);

/// An instance whose memory is reserved, by its recorded state.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct ReservedMemory {
    /// The instance.
    pub instance_id: String,
    /// MiB that it is to have.
    pub memory_mb: i64,
    /// Since when it has been in its state.
    pub since: Timestamp,
}

/// An instance whose memory is being metered.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct MeteredMemory {
    /// The instance.
    pub instance_id: String,
    /// MiB.
    pub memory_mb: i64,
    /// Up to when it was metered.
    pub metered_until: Timestamp,
    /// When its state last changed.
    pub changed_at: Option<Timestamp>,
}

/// What has changed since memory was last metered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryChanges {
    /// Instances whose memory is reserved from `since` on, and instances that have another size from now on.
    pub begun: Vec<ReservedMemory>,
    /// Instances whose memory isn't reserved any more, with the time until which it was.
    pub ended: Vec<(String, Timestamp)>,
    /// Instances that had none between their last metering and this time.
    pub skipped: Vec<(String, Timestamp)>,
}

pub(crate) const RESERVED: &str = "SELECT i.id AS instance_id, i.memory_mb, r.changed_at AS since FROM instances i \
     JOIN routes r ON r.instance_id = i.id WHERE i.desired = 'running' AND r.state IN ('running', 'restarting') LIMIT $1";
const METERED: &str = "SELECT m.instance_id, m.memory_mb, m.metered_until, r.changed_at FROM reserved_memory m \
     LEFT JOIN routes r ON r.instance_id = m.instance_id LIMIT $1";

const BEGIN: &str = "INSERT INTO reserved_memory (instance_id, memory_mb, metered_from, metered_until) \
     SELECT id, $2, $3, $3 FROM instances WHERE id = $1 \
     ON CONFLICT (instance_id) DO UPDATE SET memory_mb = excluded.memory_mb";
const SKIP: &str = "UPDATE reserved_memory SET metered_from = $2, metered_until = $2 \
     WHERE instance_id = $1 AND metered_until < $2";
const CORRECT_CLOCK: &str =
    "UPDATE reserved_memory SET metered_from = $1, metered_until = $1 WHERE metered_until > $2";
/// The next span of each instance. One that was metered beyond `$1` has none: another provisioner was faster.
const NEXT_SPANS: &str = "UPDATE reserved_memory SET metered_from = metered_until, \
     metered_until = CASE WHEN metered_until < $1 THEN $1 ELSE metered_until END";
/// Lets the span of an instance end earlier.
const SHORTEN: &str = "UPDATE reserved_memory SET metered_until = CASE WHEN metered_from > $2 THEN metered_from \
     WHEN metered_until > $2 THEN $2 ELSE metered_until END WHERE instance_id = $1";
const FORGET: &str = "DELETE FROM reserved_memory WHERE instance_id = $1";
const FIRST: &str = "SELECT MIN(metered_from) FROM reserved_memory WHERE metered_from < metered_until";
/// Adds the parts of all spans that are in the hour from `$1` to `$2`.
const ADD_HOUR: &str = concat!(
    "INSERT INTO usage_hours (hour, instance_id, plan, memory_mb_seconds) SELECT $1, m.instance_id, c.plan, \
     m.memory_mb * ((CASE WHEN m.metered_until < $2 THEN m.metered_until ELSE $2 END) \
     - (CASE WHEN m.metered_from > $1 THEN m.metered_from ELSE $1 END)) / 1000 FROM reserved_memory m \
     JOIN instances i ON i.id = m.instance_id JOIN caches c ON c.id = i.cache_id \
     WHERE m.metered_from < m.metered_until AND m.metered_from < $2 AND m.metered_until > $1 ORDER BY m.instance_id \
     ON CONFLICT (hour, instance_id, plan) DO UPDATE SET ",
    add_column!("usage_hours", "memory_mb_seconds")
);

impl Store {
    /// The instances whose memory is reserved: that are to run, and run or restart. 20,000 at most.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn reserved_memory(&self) -> Result<Vec<ReservedMemory>, StoreError> {
        let limit = i64::try_from(LISTED_MAX).unwrap_or(i64::MAX);
        let rows = read_rows!(self, SHORT_ROW_BYTES_MAX, sqlx::query(RESERVED).bind(limit))?;
        Ok(readable("reserved memory", rows))
    }

    /// The instances whose memory is being metered.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn metered_memory(&self) -> Result<Vec<MeteredMemory>, StoreError> {
        let limit = i64::try_from(LISTED_MAX).unwrap_or(i64::MAX);
        let rows = read_rows!(self, SHORT_ROW_BYTES_MAX, sqlx::query(METERED).bind(limit))?;
        Ok(readable("metered memory", rows))
    }

    /// Meters the memory of all instances from when it was last metered until `now`, both in whole seconds, with the
    /// sizes that were recorded then; records what has changed. Several provisioners may do so at once.
    ///
    /// # Errors
    /// Fails if the database does; then nothing was metered, and the next call meters it.
    pub async fn meter_memory(&self, now: Timestamp, changes: &MemoryChanges) -> Result<(), StoreError> {
        let now = now.whole_seconds();
        let oldest = now.saturating_sub(SPAN_MAX).hour();
        write_unversioned!(self, tx => {
            sqlx::query(CORRECT_CLOCK).bind(now).bind(now.saturating_add(CLOCK_ERROR_MAX)).execute(&mut *tx).await?;
            for (instance, until) in &changes.skipped {
                sqlx::query(SKIP).bind(instance).bind(until.whole_seconds().min(now)).execute(&mut *tx).await?;
            }
            sqlx::query(NEXT_SPANS).bind(now).execute(&mut *tx).await?;
            for (instance, until) in &changes.ended {
                sqlx::query(SHORTEN).bind(instance).bind(until.whole_seconds()).execute(&mut *tx).await?;
            }
            let first: Option<Timestamp> = sqlx::query_scalar(FIRST).fetch_one(&mut *tx).await?;
            let mut hour = first.map_or(now, |first| first.max(oldest)).hour();
            while hour < now {
                let next = hour.saturating_add(HOUR);
                sqlx::query(ADD_HOUR).bind(hour).bind(next).execute(&mut *tx).await?;
                hour = next;
            }
            for (instance, _) in &changes.ended {
                sqlx::query(FORGET).bind(instance).execute(&mut *tx).await?;
            }
            for ReservedMemory { instance_id, memory_mb, since } in &changes.begun {
                sqlx::query(BEGIN).bind(instance_id).bind((*memory_mb).clamp(1, MEMORY_MB_MAX))
                    .bind(since.whole_seconds().clamp(oldest, now)).execute(&mut *tx).await?;
            }
        });
        Ok(())
    }
}
