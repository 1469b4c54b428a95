//! What each memcached last said of itself, one row per instance, and the history of that: rings of intervals.

mod history;
mod rate;
mod slab_class;

use std::time::Duration;

use sqlx::{Database, Encode, QueryBuilder, Type};

use crate::db::write_unversioned;
use crate::rows::{LISTED_MAX, ROW_BYTES_MAX, SHORT_ROW_BYTES_MAX, read_row, read_rows, readable};
use crate::{Store, StoreError, Timestamp, now};

#[cfg(test)]
pub(crate) use history::OF_INSTANCE as HISTORY;
pub use history::{StatisticsInterval, StatisticsResolution};
pub use rate::{hits_per_thousand, merge_intervals, tenths_per_second};
pub use slab_class::SlabClass;

/// Rows of instances that haven't answered for this long are deleted.
const FORGOTTEN_AFTER: Duration = Duration::from_hours(24);
/// Instances that are written in one transaction, so that other writers wait for little.
const BATCH_MAX: usize = 200;
/// Instances in one statement, whose parameters are limited.
const ROWS_MAX: usize = 50;
/// Rows of the history that are deleted in one transaction.
const DELETED_MAX: i64 = 2_000;
/// What a number counts at most. memcached may say anything; no sum of so many overflows within an interval.
const COUNT_MAX: i64 = 1 << 48;
/// By so much memcached's uptime and the time between two samples may differ.
const UPTIME_SLACK: i64 = 5;

/// How things are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, sqlx::FromRow, serde::Serialize)]
pub struct StatisticsGauges {
    /// Bytes that items use.
    pub bytes: i64,
    /// Bytes that items may use.
    pub limit_bytes: i64,
    /// Items, expired ones too until memcached finds them.
    pub items: i64,
    /// Connections to memcached: lanes, not clients.
    pub connections: i64,
    /// Bytes that the container uses; 0 if that can't be read.
    pub container_bytes: i64,
}

/// What has happened, since memcached started or in an interval.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, sqlx::FromRow, serde::Serialize)]
pub struct StatisticsCounters {
    /// Reads that found their key.
    pub hits: i64,
    /// Reads that didn't.
    pub misses: i64,
    /// Stores.
    pub sets: i64,
    /// Items that were removed to make room.
    pub evictions: i64,
    /// Those of them that nobody had read.
    pub evicted_unfetched: i64,
    /// Expired items whose memory was used again.
    pub reclaimed: i64,
    /// Stores that failed because there was no room and nothing to remove.
    pub out_of_memory: i64,
    /// Bytes that memcached has received.
    pub bytes_read: i64,
    /// Bytes that memcached has sent.
    pub bytes_written: i64,
    /// CPU time of the container in microseconds.
    pub cpu_us: i64,
}

/// Figures of one memcached.
#[derive(Debug, Clone, Default, PartialEq, Eq, sqlx::FromRow, serde::Serialize)]
pub struct InstanceStatistics {
    /// The instance.
    #[serde(skip)]
    pub instance_id: String,
    /// How things are.
    #[sqlx(flatten)]
    #[serde(flatten)]
    pub gauges: StatisticsGauges,
    /// What has happened since memcached started.
    #[sqlx(flatten)]
    #[serde(flatten)]
    pub counters: StatisticsCounters,
    /// Seconds since memcached started.
    pub uptime_seconds: i64,
    /// When it said so.
    pub sampled_at: Timestamp,
    /// Its sizes of items as they are stored, see [`InstanceStatistics::slab_classes`].
    #[serde(skip)]
    pub slab_text: String,
}

/// A sample to record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatisticsSample {
    /// What memcached said.
    pub newest: InstanceStatistics,
    /// The time that `increments` cover; zero without an earlier sample.
    pub measured: Duration,
    /// What has happened since the sample before.
    pub increments: StatisticsCounters,
}

macro_rules! each_counter {
    ($function:expr, $($value:expr),+) => {
        StatisticsCounters {
            hits: $function($($value.hits),+),
            misses: $function($($value.misses),+),
            sets: $function($($value.sets),+),
            evictions: $function($($value.evictions),+),
            evicted_unfetched: $function($($value.evicted_unfetched),+),
            reclaimed: $function($($value.reclaimed),+),
            out_of_memory: $function($($value.out_of_memory),+),
            bytes_read: $function($($value.bytes_read),+),
            bytes_written: $function($($value.bytes_written),+),
            cpu_us: $function($($value.cpu_us),+),
        }
    };
}
impl StatisticsCounters {
    /// What has happened in two times.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        each_counter!(i64::saturating_add, self, other)
    }
}

impl InstanceStatistics {
    /// Its sizes of items.
    #[must_use]
    pub fn slab_classes(&self) -> Vec<SlabClass> {
        slab_class::parse(&self.slab_text)
    }

    /// Sets its sizes of items.
    pub fn set_slab_classes(&mut self, classes: &[SlabClass]) {
        self.slab_text = slab_class::to_text(classes);
    }

    /// The same with numbers that can be added up.
    fn bounded(mut self) -> Self {
        let bounded = |value: i64| value.clamp(0, COUNT_MAX);
        let StatisticsGauges { bytes, limit_bytes, items, connections, container_bytes } = self.gauges;
        self.gauges = StatisticsGauges {
            bytes: bounded(bytes),
            limit_bytes: bounded(limit_bytes),
            items: bounded(items),
            connections: bounded(connections),
            container_bytes: bounded(container_bytes),
        };
        self.counters = each_counter!(bounded, self.counters);
        self.uptime_seconds = bounded(self.uptime_seconds);
        self
    }
}

impl StatisticsSample {
    /// What has happened since the sample before. A memcached that was restarted counts from zero again, and so does a
    /// counter that was reset: what it counts is then what has happened. Never negative.
    #[must_use]
    pub fn new(newest: InstanceStatistics, before: Option<&InstanceStatistics>) -> Self {
        let newest = newest.bounded();
        let measured = before.map_or(Duration::ZERO, |before| newest.sampled_at.since(before.sampled_at));
        let before = before.filter(|_| !measured.is_zero());
        let is_restarted = before.is_some_and(|before| {
            let (uptime, passed) =
                (newest.uptime_seconds, i64::try_from(measured.as_secs()).unwrap_or(COUNT_MAX));
            // After a long time it may be up for longer than before, and yet have started since. What is up for longer than
            // that time hasn't: then the clock was set.
            let is_younger = uptime < before.uptime_seconds.saturating_add(passed) - UPTIME_SLACK;
            uptime < before.uptime_seconds || (is_younger && uptime <= passed.saturating_add(UPTIME_SLACK))
        });
        let increment = |now: i64, before: i64| if is_restarted || now < before { now } else { now - before };
        let increments = match before {
            Some(before) => each_counter!(increment, newest.counters, before.counters),
            None => StatisticsCounters::default(),
        };
        Self { newest, measured, increments }
    }
}

macro_rules! columns {
    () => {
        "instance_id, bytes, limit_bytes, items, connections, container_bytes, hits, misses, sets, evictions, \
         evicted_unfetched, reclaimed, out_of_memory, bytes_read, bytes_written, cpu_us, uptime_seconds, sampled_at"
    };
}

const SET: &str =
    concat!("INSERT INTO instance_statistics (", columns!(), ", slab_classes) SELECT v.* FROM (");
const SET_END: &str = ") AS v JOIN instances i ON i.id = v.column1 WHERE 1 = 1 ON CONFLICT (instance_id) DO UPDATE SET \
     bytes = excluded.bytes, limit_bytes = excluded.limit_bytes, items = excluded.items, \
     connections = excluded.connections, container_bytes = excluded.container_bytes, hits = excluded.hits, \
     misses = excluded.misses, sets = excluded.sets, evictions = excluded.evictions, \
     evicted_unfetched = excluded.evicted_unfetched, reclaimed = excluded.reclaimed, \
     out_of_memory = excluded.out_of_memory, bytes_read = excluded.bytes_read, bytes_written = excluded.bytes_written, \
     cpu_us = excluded.cpu_us, uptime_seconds = excluded.uptime_seconds, sampled_at = excluded.sampled_at, \
     slab_classes = excluded.slab_classes";
const ALL: &str =
    concat!("SELECT ", columns!(), ", slab_classes AS slab_text FROM instance_statistics LIMIT $1");
const OF_INSTANCE: &str = concat!(
    "SELECT ",
    columns!(),
    ", slab_classes AS slab_text FROM instance_statistics WHERE instance_id = $1"
);

/// The statement that records the newest figures.
fn set_newest<DB: Database>(samples: &[&StatisticsSample]) -> QueryBuilder<DB>
where
    DB::Arguments: Default,
    for<'t> i64: Encode<'t, DB> + Type<DB>,
    for<'t> String: Encode<'t, DB> + Type<DB>,
{
    let mut query = QueryBuilder::new(SET);
    query.push_values(samples, |mut row, sample| {
        let it = &sample.newest;
        row.push_bind(it.instance_id.clone());
        for number in gauges(&it.gauges).into_iter().chain(counters(&it.counters)) {
            row.push_bind(number);
        }
        row.push_bind(it.uptime_seconds).push_bind(it.sampled_at.as_millis()).push_bind(it.slab_text.clone());
    });
    query.push(SET_END);
    query
}

fn gauges(it: &StatisticsGauges) -> [i64; 5] {
    [it.bytes, it.limit_bytes, it.items, it.connections, it.container_bytes]
}

fn counters(it: &StatisticsCounters) -> [i64; 10] {
    [
        it.hits,
        it.misses,
        it.sets,
        it.evictions,
        it.evicted_unfetched,
        it.reclaimed,
        it.out_of_memory,
        it.bytes_read,
        it.bytes_written,
        it.cpu_us,
    ]
}

impl Store {
    /// Records samples: the newest figures of each instance, and its history. Ignores unknown instances.
    ///
    /// # Errors
    /// Fails if the database does. Some may have been recorded then, so their next increments have to be counted from
    /// [`Store::all_instance_statistics`].
    pub async fn record_statistics(&self, samples: &[StatisticsSample]) -> Result<(), StoreError> {
        let mut ordered: Vec<&StatisticsSample> = samples.iter().collect();
        ordered.sort_by_key(|it| &it.newest.instance_id);
        for batch in ordered.chunks(BATCH_MAX) {
            write_unversioned!(self, tx => {
                for rows in batch.chunks(ROWS_MAX) {
                    set_newest(rows).build().execute(&mut *tx).await?;
                    for resolution in StatisticsResolution::ALL {
                        history::add(resolution, rows).build().execute(&mut *tx).await?;
                    }
                }
            });
        }
        Ok(())
    }

    /// Deletes the newest figures of memcacheds that haven't answered for a day, and some of the history of deleted
    /// caches. Returns whether there may be more of that.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn forget_statistics(&self) -> Result<bool, StoreError> {
        let sql = "DELETE FROM instance_statistics WHERE sampled_at < $1";
        let forgotten = now().saturating_sub(FORGOTTEN_AFTER);
        let deleted = write_unversioned!(self, tx => {
            sqlx::query(sql).bind(forgotten).execute(&mut *tx).await?;
            sqlx::query(history::DELETE_DELETED).bind(DELETED_MAX).execute(&mut *tx).await?.rows_affected()
        });
        Ok(i64::try_from(deleted).unwrap_or(i64::MAX) >= DELETED_MAX)
    }

    /// The newest statistics of all instances, 20,000 at most.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn all_instance_statistics(&self) -> Result<Vec<InstanceStatistics>, StoreError> {
        let limit = i64::try_from(LISTED_MAX).unwrap_or(i64::MAX);
        Ok(readable("statistics", read_rows!(self, ROW_BYTES_MAX, sqlx::query(ALL).bind(limit))?))
    }

    /// The newest statistics of an instance, if its memcached has answered lately.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn instance_statistics(
        &self,
        instance_id: &str,
    ) -> Result<Option<InstanceStatistics>, StoreError> {
        read_row!(self, ROW_BYTES_MAX, sqlx::query(OF_INSTANCE).bind(instance_id))?.transpose()
    }

    /// The history of an instance since a time, oldest first. Intervals without a sample are missing.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn statistics_history(
        &self,
        instance_id: &str,
        resolution: StatisticsResolution,
        since: Timestamp,
    ) -> Result<Vec<StatisticsInterval>, StoreError> {
        let rows: Vec<Result<StatisticsInterval, StoreError>> = read_rows!(
            self,
            SHORT_ROW_BYTES_MAX,
            sqlx::query(history::OF_INSTANCE)
                .bind(instance_id)
                .bind(resolution.seconds())
                .bind(since)
                .bind(resolution.slots())
        )?;
        rows.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(at: i64, uptime_seconds: i64, hits: i64, sets: i64) -> InstanceStatistics {
        let counters = StatisticsCounters { hits, sets, ..StatisticsCounters::default() };
        let sampled_at = Timestamp::from_millis(at);
        InstanceStatistics { counters, uptime_seconds, sampled_at, ..InstanceStatistics::default() }
    }

    #[test]
    fn increments_are_right_across_restarts_and_resets_and_never_negative() {
        let before = figures(10_000, 50, 100, 40);
        for (now, measured_ms, hits, sets) in [
            (figures(20_000, 60, 130, 40), 10_000, 30, 0),
            // Restarted: even what is more than before is all since then.
            (figures(20_000, 3, 170, 1), 10_000, 170, 1),
            // Restarted long ago, while the provisioner was away.
            (figures(610_000, 500, 170, 60), 600_000, 170, 60),
            (figures(610_000, 590, 170, 60), 600_000, 170, 60),
            // One counter was reset.
            (figures(20_000, 60, 5, 45), 10_000, 5, 5),
            // The provisioner was away.
            (figures(610_000, 650, 700, 40), 600_000, 600, 0),
            // The clock was set back: no rate can be known.
            (figures(9_000, 60, 130, 45), 0, 0, 0),
            (figures(20_000, 60, i64::MAX, -1), 10_000, COUNT_MAX - 100, 0),
        ] {
            let sample = StatisticsSample::new(now.clone(), Some(&before));
            assert_eq!(sample.measured, Duration::from_millis(measured_ms), "{now:?}");
            let expected = StatisticsCounters { hits, sets, ..StatisticsCounters::default() };
            assert_eq!(sample.increments, expected, "{now:?}");
        }
        // The clock was set by an hour, and memcached has been up for longer.
        let sample = StatisticsSample::new(
            figures(3_620_000, 90_010, 130, 40),
            Some(&figures(10_000, 90_000, 100, 40)),
        );
        assert_eq!((sample.increments.hits, sample.increments.sets), (30, 0));
        let first = StatisticsSample::new(figures(20_000, 60, 130, 40), None);
        assert_eq!((first.measured, first.increments), (Duration::ZERO, StatisticsCounters::default()));
    }
}
