//! Usage of instances, as counted by the proxies: totals, and per hour for bills.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use sqlx::{Database, Encode, QueryBuilder, Type};

use crate::db::{read, write_unversioned};
use crate::rows::{QUERIED_MAX, SHORT_ROW_BYTES_MAX, read_rows, readable};
use crate::{Store, StoreError, Timestamp, now};

/// A proxy that hasn't written for this long is gone, and its connections with it.
const PROXY_GONE_AFTER: Duration = Duration::from_secs(60);

/// What a number of a report counts at most: no proxy counts so much in an hour, and no sum of so many overflows in one.
const COUNT_MAX: i64 = 1 << 50;
/// A proxy whose heartbeat is older has no connections that count in a peak. Heartbeats come every second.
const HEARTBEAT_AGE_MAX: Duration = Duration::from_secs(5);
/// The last report of a process is remembered for this long. None is sent again later.
const REPORTS_KEPT: Duration = Duration::from_hours(7 * 24);
/// Processes whose last reports are remembered: those that reported last.
const REPORTERS_MAX: i64 = 1_000;

/// Buckets of histograms in one statement, whose parameters are limited.
const ROWS_MAX: usize = 300;
/// Buckets of a histogram that are read. A proxy has a fraction of them.
const BUCKETS_MAX: i64 = 1000;
/// The same of all instances together: a proxy has about 30 of each.
const ALL_BUCKETS_MAX: i64 = 1_000_000;

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

/// Names one process of a proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageReporterId(String);

impl UsageReporterId {
    /// An id that no other process has.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "each is another one")]
    pub fn new() -> Self {
        Self(crate::id::random())
    }
}

/// What a proxy has counted since its last batch. Added once, however often it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageBatch {
    /// The process that counted.
    pub reporter: UsageReporterId,
    /// Greater than those of its earlier batches.
    pub number: i64,
    /// The proxy's name: host and port.
    pub proxy: String,
    /// At most one for each instance and hour.
    pub reports: Vec<UsageReport>,
}

/// What a proxy has counted for an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageReport {
    /// The instance.
    pub instance_id: String,
    /// The hour in which it counted: this one or the previous one, or it counts in the nearer one of these.
    pub hour: Timestamp,
    /// Numbers to add.
    pub usage: Usage,
    /// Latency histogram to add: pairs of an upper bound in microseconds and a number of requests.
    pub latency: Vec<(i64, i64)>,
    /// The proxy's open connections.
    pub connections: i64,
    /// The most that it has had at a time since its last report.
    pub peak_connections: i64,
}

/// Everything that is known of the usage of an instance.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct InstanceUsage {
    /// Since it was created.
    pub usage: Usage,
    /// Pairs of an upper bound in microseconds and a number of requests, ascending.
    pub latency: Vec<(i64, i64)>,
    /// Open connections, of all proxies together.
    pub connections: i64,
}

#[derive(sqlx::FromRow)]
struct UsageRow {
    instance_id: String,
    #[sqlx(flatten)]
    usage: Usage,
}

pub(crate) const ALL: &str = "SELECT instance_id, hits, misses, stores, deletes, arithmetic, touches, others, errors, \
     bytes_in, bytes_out FROM usage LIMIT $1";
/// In the order of the table's key.
pub(crate) const ALL_LATENCY: &str =
    "SELECT instance_id, le_us, requests FROM usage_latency ORDER BY instance_id, le_us LIMIT $1";
pub(crate) const ALL_CONNECTIONS: &str = "SELECT instance_id, CAST(SUM(connections) AS BIGINT) FROM usage_connections \
     WHERE changed_at > $1 GROUP BY instance_id LIMIT $2";
impl Usage {
    /// Operations of all kinds.
    #[must_use]
    pub fn operations(&self) -> i64 {
        let Self { hits, misses, stores, deletes, arithmetic, touches, others, .. } = *self;
        [hits, misses, stores, deletes, arithmetic, touches, others].into_iter().fold(0, i64::saturating_add)
    }

    /// What was used in two times.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            hits: self.hits.saturating_add(other.hits),
            misses: self.misses.saturating_add(other.misses),
            stores: self.stores.saturating_add(other.stores),
            deletes: self.deletes.saturating_add(other.deletes),
            arithmetic: self.arithmetic.saturating_add(other.arithmetic),
            touches: self.touches.saturating_add(other.touches),
            others: self.others.saturating_add(other.others),
            errors: self.errors.saturating_add(other.errors),
            bytes_in: self.bytes_in.saturating_add(other.bytes_in),
            bytes_out: self.bytes_out.saturating_add(other.bytes_out),
        }
    }

    /// The same with numbers that can be added.
    fn bounded(self) -> Self {
        Self {
            hits: bounded(self.hits),
            misses: bounded(self.misses),
            stores: bounded(self.stores),
            deletes: bounded(self.deletes),
            arithmetic: bounded(self.arithmetic),
            touches: bounded(self.touches),
            others: bounded(self.others),
            errors: bounded(self.errors),
            bytes_in: bounded(self.bytes_in),
            bytes_out: bounded(self.bytes_out),
        }
    }
}

fn bounded(count: i64) -> i64 {
    count.clamp(0, COUNT_MAX)
}

/// Adds a new value to a column, unless the sum would be no number any more: SQLite would store another type, and
/// PostgreSQL would refuse the whole batch.
macro_rules! add_column {
    ($table:literal, $column:literal) => {
        concat!(
            $column,
            " = CASE WHEN ",
            $table,
            ".",
            $column,
            " < 4611686018427387904 THEN ",
            $table,
            ".",
            $column,
            " + excluded.",
            $column,
            " ELSE ",
            $table,
            ".",
            $column,
            " END"
        )
    };
}
pub(crate) use add_column;

macro_rules! add_columns {
    ($table:literal) => {
        concat!(
            add_column!($table, "hits"),
            ", ",
            add_column!($table, "misses"),
            ", ",
            add_column!($table, "stores"),
            ", ",
            add_column!($table, "deletes"),
            ", ",
            add_column!($table, "arithmetic"),
            ", ",
            add_column!($table, "touches"),
            ", ",
            add_column!($table, "others"),
            ", ",
            add_column!($table, "errors"),
            ", ",
            add_column!($table, "bytes_in"),
            ", ",
            add_column!($table, "bytes_out")
        )
    };
}

const CLAIM: &str = "INSERT INTO usage_reports (reporter, number, reported_at) VALUES ($1, $2, $3) \
     ON CONFLICT (reporter) DO UPDATE SET number = excluded.number, reported_at = excluded.reported_at \
     WHERE usage_reports.number < excluded.number";
const FORGET_REPORTS: &str = "DELETE FROM usage_reports WHERE reported_at < $1 OR reporter IN \
     (SELECT reporter FROM usage_reports ORDER BY reported_at DESC LIMIT 1000000 OFFSET $2)";

const ADD: &str = concat!(
    "INSERT INTO usage (instance_id, hits, misses, stores, deletes, arithmetic, touches, others, errors, bytes_in, \
     bytes_out, changed_at) SELECT id, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12 FROM instances WHERE id = $1 \
     ON CONFLICT (instance_id) DO UPDATE SET ",
    add_columns!("usage"),
    ", changed_at = excluded.changed_at"
);
/// The peak is of this proxy alone, and what the others that live had when they last reported.
const ADD_HOUR: &str = concat!(
    "INSERT INTO usage_hours (instance_id, hits, misses, stores, deletes, arithmetic, touches, others, errors, bytes_in, \
     bytes_out, hour, plan, peak_connections) \
     SELECT i.id, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, c.plan, $13 + \
     (SELECT CAST(COALESCE(SUM(o.connections), 0) AS BIGINT) FROM usage_connections o \
     WHERE o.instance_id = $1 AND o.proxy <> $14 AND o.connections BETWEEN 0 AND 1000000000 AND EXISTS \
     (SELECT 1 FROM proxies p WHERE p.seen_at > $15 AND p.name = o.proxy)) \
     FROM instances i JOIN caches c ON c.id = i.cache_id WHERE i.id = $1 \
     ON CONFLICT (hour, instance_id, plan) DO UPDATE SET ",
    add_columns!("usage_hours"),
    ", peak_connections = CASE WHEN excluded.peak_connections > usage_hours.peak_connections \
     THEN excluded.peak_connections ELSE usage_hours.peak_connections END"
);
const ADD_LATENCY: &str = "INSERT INTO usage_latency (instance_id, le_us, requests) SELECT v.column1, v.column2, v.column3 \
     FROM (";
const ADD_LATENCY_END: &str = concat!(
    ") AS v JOIN instances i ON i.id = v.column1 WHERE 1 = 1 ORDER BY v.column1, v.column2 \
     ON CONFLICT (instance_id, le_us) DO UPDATE SET ",
    add_column!("usage_latency", "requests")
);
const SET_CONNECTIONS: &str = "INSERT INTO usage_connections (instance_id, proxy, connections, changed_at) \
     SELECT id, $2, $3, $4 FROM instances WHERE id = $1 \
     ON CONFLICT (instance_id, proxy) DO UPDATE SET connections = excluded.connections, \
     changed_at = excluded.changed_at";

/// Binds the instance and the numbers of a report: `$1` to `$11`.
macro_rules! bind_usage {
    ($sql:expr, $id:expr, $usage:expr) => {
        sqlx::query($sql)
            .bind($id)
            .bind($usage.hits)
            .bind($usage.misses)
            .bind($usage.stores)
            .bind($usage.deletes)
            .bind($usage.arithmetic)
            .bind($usage.touches)
            .bind($usage.others)
            .bind($usage.errors)
            .bind($usage.bytes_in)
            .bind($usage.bytes_out)
    };
}

/// The requests of each instance and bucket: one statement can't add to a row twice.
fn latency_of(reports: &[UsageReport]) -> BTreeMap<(&str, i64), i64> {
    let mut sums = BTreeMap::new();
    for report in reports {
        for (le_us, requests) in &report.latency {
            let sum: &mut i64 = sums.entry((report.instance_id.as_str(), *le_us)).or_default();
            *sum = bounded(sum.saturating_add(bounded(*requests)));
        }
    }
    sums
}

/// The statement that adds to histograms.
fn add_latency<DB: Database>(rows: &[((&str, i64), i64)]) -> QueryBuilder<DB>
where
    DB::Arguments: Default,
    for<'t> i64: Encode<'t, DB> + Type<DB>,
    for<'t> String: Encode<'t, DB> + Type<DB>,
{
    let mut query = QueryBuilder::new(ADD_LATENCY);
    query.push_values(rows, |mut row, ((instance_id, le_us), requests)| {
        row.push_bind((*instance_id).to_owned()).push_bind(*le_us).push_bind(*requests);
    });
    query.push(ADD_LATENCY_END);
    query
}

impl Store {
    /// Adds what a proxy has counted until `now`, unless it was added before: a batch may be sent again whenever it isn't
    /// known to have been added. Ignores unknown instances.
    ///
    /// # Errors
    /// Fails if the database does. Then nothing is added, or all of it is, if the connection was lost during the commit.
    pub async fn add_usage(&self, batch: &UsageBatch, now: Timestamp) -> Result<(), StoreError> {
        // Table by table, each in one order, so that neither two proxies nor the metering of memory deadlock. The latest
        // number of connections comes last.
        let mut ordered: Vec<&UsageReport> = batch.reports.iter().collect();
        ordered.sort_by_key(|it| (&it.instance_id, it.hour));
        let mut by_hour = ordered.clone();
        by_hour.sort_by_key(|it| (it.hour, &it.instance_id));
        let latency: Vec<_> = latency_of(&batch.reports).into_iter().collect();
        let UsageReporterId(reporter) = &batch.reporter;
        let (forgotten, alive) = (now.saturating_sub(REPORTS_KEPT), now.saturating_sub(HEARTBEAT_AGE_MAX));
        write_unversioned!(self, tx => {
            let claimed = sqlx::query(CLAIM).bind(reporter).bind(batch.number).bind(now)
                .execute(&mut *tx).await?.rows_affected();
            if claimed > 0 {
                for it in &ordered {
                    bind_usage!(ADD, &it.instance_id, it.usage.bounded()).bind(now).execute(&mut *tx).await?;
                }
                for it in by_hour {
                    let hour = it.hour.hour().clamp(now.previous_hour(), now.hour());
                    bind_usage!(ADD_HOUR, &it.instance_id, it.usage.bounded()).bind(hour)
                        .bind(bounded(it.peak_connections)).bind(&batch.proxy).bind(alive).execute(&mut *tx).await?;
                }
                for rows in latency.chunks(ROWS_MAX) {
                    add_latency(rows).build().execute(&mut *tx).await?;
                }
                for it in ordered {
                    sqlx::query(SET_CONNECTIONS).bind(&it.instance_id).bind(&batch.proxy)
                        .bind(bounded(it.connections)).bind(now).execute(&mut *tx).await?;
                }
                if batch.number <= 1 {
                    sqlx::query(FORGET_REPORTS).bind(forgotten).bind(REPORTERS_MAX).execute(&mut *tx).await?;
                }
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

    /// The usage of all instances that have some, by their ids: a fixed number of queries, however many there are. Invalid
    /// rows are logged and skipped.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn usage_of_all(&self) -> Result<HashMap<String, InstanceUsage>, StoreError> {
        let mut all: HashMap<String, InstanceUsage> = HashMap::new();
        let rows: Vec<Result<UsageRow, StoreError>> =
            read_rows!(self, SHORT_ROW_BYTES_MAX, sqlx::query(ALL).bind(QUERIED_MAX))?;
        for UsageRow { instance_id, usage } in readable("usage", rows) {
            all.entry(instance_id).or_default().usage = usage;
        }
        let rows: Vec<Result<(String, i64, i64), StoreError>> =
            read_rows!(self, SHORT_ROW_BYTES_MAX, sqlx::query(ALL_LATENCY).bind(ALL_BUCKETS_MAX))?;
        for (instance, le_us, requests) in readable("latencies", rows) {
            all.entry(instance).or_default().latency.push((le_us, requests));
        }
        let since = now().saturating_sub(PROXY_GONE_AFTER);
        let rows: Vec<Result<(String, i64), StoreError>> = read_rows!(
            self,
            SHORT_ROW_BYTES_MAX,
            sqlx::query(ALL_CONNECTIONS).bind(since).bind(QUERIED_MAX)
        )?;
        for (instance, connections) in readable("connections", rows) {
            all.entry(instance).or_default().connections = connections;
        }
        Ok(all)
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
