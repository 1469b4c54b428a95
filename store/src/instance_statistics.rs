//! What each memcached last said of itself: one row per instance.

use std::time::Duration;

use crate::db::{read, write_unversioned};
use crate::{Store, StoreError, Timestamp, now};

/// Rows of instances that haven't answered for this long are deleted.
const FORGOTTEN_AFTER: Duration = Duration::from_hours(24);
/// Rows that are written in one transaction, so that other writers wait for little.
const BATCH_MAX: usize = 200;

/// Figures of one memcached.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow, serde::Serialize)]
pub struct InstanceStatistics {
    /// The instance.
    #[serde(skip)]
    pub instance_id: String,
    /// Bytes that items use.
    pub bytes: i64,
    /// Bytes that items may use.
    pub limit_bytes: i64,
    /// Items, expired ones too until memcached finds them.
    pub items: i64,
    /// Reads that found their key, since memcached started.
    pub hits: i64,
    /// Reads that didn't.
    pub misses: i64,
    /// Items that were removed to make room.
    pub evictions: i64,
    /// Seconds since memcached started.
    pub uptime_seconds: i64,
    /// When it said so.
    pub sampled_at: Timestamp,
}

const SET: &str = "INSERT INTO instance_statistics (instance_id, bytes, limit_bytes, items, hits, misses, evictions, \
     uptime_seconds, sampled_at) SELECT id, $2, $3, $4, $5, $6, $7, $8, $9 FROM instances WHERE id = $1 \
     ON CONFLICT (instance_id) DO UPDATE SET bytes = excluded.bytes, limit_bytes = excluded.limit_bytes, \
     items = excluded.items, hits = excluded.hits, misses = excluded.misses, evictions = excluded.evictions, \
     uptime_seconds = excluded.uptime_seconds, sampled_at = excluded.sampled_at";

impl Store {
    /// Records the newest statistics of instances. Ignores unknown ones.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn set_instance_statistics(&self, all: &[InstanceStatistics]) -> Result<(), StoreError> {
        for batch in all.chunks(BATCH_MAX) {
            write_unversioned!(self, tx => {
                for it in batch {
                    sqlx::query(SET).bind(&it.instance_id).bind(it.bytes).bind(it.limit_bytes).bind(it.items)
                        .bind(it.hits).bind(it.misses).bind(it.evictions).bind(it.uptime_seconds)
                        .bind(it.sampled_at).execute(&mut *tx).await?;
                }
            });
        }
        let forgotten = now().saturating_sub(FORGOTTEN_AFTER);
        let sql = "DELETE FROM instance_statistics WHERE sampled_at < $1";
        write_unversioned!(self, tx => {
            sqlx::query(sql).bind(forgotten).execute(&mut *tx).await?;
        });
        Ok(())
    }

    /// The newest statistics of an instance, if its memcached has answered lately.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn instance_statistics(
        &self,
        instance_id: &str,
    ) -> Result<Option<InstanceStatistics>, StoreError> {
        let sql = "SELECT instance_id, bytes, limit_bytes, items, hits, misses, evictions, uptime_seconds, sampled_at \
                   FROM instance_statistics WHERE instance_id = $1";
        Ok(read!(self, pool => sqlx::query_as(sql).bind(instance_id).fetch_optional(pool).await)?)
    }
}
