//! Usage of instances, as counted by the proxies.

use std::time::Duration;

use crate::db::{read, write_unversioned};
use crate::{Store, StoreError, now};

/// A proxy that hasn't written for this long is gone, and its connections with it.
const PROXY_GONE_AFTER: Duration = Duration::from_secs(60);

/// Buckets of a histogram that are read. A proxy has a fraction of them.
const BUCKETS_MAX: i64 = 1000;

/// Numbers of operations, errors and bytes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, serde::Serialize, sqlx::FromRow)]
pub struct Usage {
    /// Reads that found their key.
    pub hits: i64,
    /// Reads that did not find their key.
    pub misses: i64,
    /// Stores of all modes, successful or not.
    pub stores: i64,
    /// Deletes.
    pub deletes: i64,
    /// Increments and decrements.
    pub arithmetic: i64,
    /// Touches that read nothing.
    pub touches: i64,
    /// Version, statistics, flushes.
    pub others: i64,
    /// How many of these were answered with an error because memcached was unreachable or too slow.
    pub errors: i64,
    /// Bytes read from clients.
    pub bytes_in: i64,
    /// Bytes written to clients.
    pub bytes_out: i64,
}

/// What a proxy has counted for an instance since its last report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageReport {
    /// The instance.
    pub instance_id: String,
    /// Numbers to add.
    pub usage: Usage,
    /// Latency histogram to add: pairs of an upper bound in microseconds and a number of requests.
    pub latency: Vec<(i64, i64)>,
    /// The proxy's open connections.
    pub connections: i64,
}

const ADD: &str = "INSERT INTO usage (instance_id, hits, misses, stores, deletes, arithmetic, touches, others, \
     errors, bytes_in, bytes_out, changed_at) \
     SELECT id, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12 FROM instances WHERE id = $1 \
     ON CONFLICT (instance_id) DO UPDATE SET hits = usage.hits + excluded.hits, \
     misses = usage.misses + excluded.misses, stores = usage.stores + excluded.stores, \
     deletes = usage.deletes + excluded.deletes, arithmetic = usage.arithmetic + excluded.arithmetic, \
     touches = usage.touches + excluded.touches, others = usage.others + excluded.others, \
     errors = usage.errors + excluded.errors, bytes_in = usage.bytes_in + excluded.bytes_in, \
     bytes_out = usage.bytes_out + excluded.bytes_out, changed_at = excluded.changed_at";
const ADD_LATENCY: &str = "INSERT INTO usage_latency (instance_id, le_us, requests) \
     SELECT id, $2, $3 FROM instances WHERE id = $1 \
     ON CONFLICT (instance_id, le_us) DO UPDATE SET requests = usage_latency.requests + excluded.requests";
const SET_CONNECTIONS: &str = "INSERT INTO usage_connections (instance_id, proxy, connections, changed_at) \
     SELECT id, $2, $3, $4 FROM instances WHERE id = $1 \
     ON CONFLICT (instance_id, proxy) DO UPDATE SET connections = excluded.connections, \
     changed_at = excluded.changed_at";

impl Store {
    /// Adds what `proxy` has counted. Ignores deleted instances.
    ///
    /// # Errors
    /// Fails if the database does, then nothing is added.
    pub async fn add_usage(&self, proxy: &str, reports: &[UsageReport]) -> Result<(), StoreError> {
        let mut ordered: Vec<&UsageReport> = reports.iter().collect();
        // In one order, so that two proxies don't deadlock.
        ordered.sort_by_key(|it| &it.instance_id);
        let now = now();
        write_unversioned!(self, tx => {
            for UsageReport { instance_id, usage, latency, connections } in ordered {
                sqlx::query(ADD).bind(instance_id).bind(usage.hits).bind(usage.misses).bind(usage.stores)
                    .bind(usage.deletes).bind(usage.arithmetic).bind(usage.touches).bind(usage.others)
                    .bind(usage.errors).bind(usage.bytes_in).bind(usage.bytes_out).bind(now)
                    .execute(&mut *tx).await?;
                for (le_us, requests) in latency {
                    sqlx::query(ADD_LATENCY).bind(instance_id).bind(le_us).bind(requests)
                        .execute(&mut *tx).await?;
                }
                sqlx::query(SET_CONNECTIONS).bind(instance_id).bind(proxy).bind(connections).bind(now)
                    .execute(&mut *tx).await?;
            }
        });
        Ok(())
    }

    /// The usage of an instance since it was created.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn usage(&self, instance_id: &str) -> Result<Usage, StoreError> {
        let sql = "SELECT hits, misses, stores, deletes, arithmetic, touches, others, errors, bytes_in, bytes_out \
                   FROM usage WHERE instance_id = $1";
        let found = read!(self, pool => sqlx::query_as(sql).bind(instance_id).fetch_optional(pool).await)?;
        Ok(found.unwrap_or_default())
    }

    /// An instance's latency histogram: pairs of an upper bound in microseconds and a number of requests, ascending.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn latency(&self, instance_id: &str) -> Result<Vec<(i64, i64)>, StoreError> {
        let sql = "SELECT le_us, requests FROM usage_latency WHERE instance_id = $1 ORDER BY le_us LIMIT $2";
        Ok(
            read!(self, pool => sqlx::query_as(sql).bind(instance_id).bind(BUCKETS_MAX).fetch_all(pool).await)?,
        )
    }

    /// Open connections of an instance, of all proxies together.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn connections(&self, instance_id: &str) -> Result<i64, StoreError> {
        let sql = "SELECT CAST(COALESCE(SUM(connections), 0) AS BIGINT) FROM usage_connections \
                   WHERE instance_id = $1 AND changed_at > $2";
        let since = now().saturating_sub(PROXY_GONE_AFTER);
        Ok(read!(self, pool => sqlx::query_scalar(sql).bind(instance_id).bind(since).fetch_one(pool).await)?)
    }
}
