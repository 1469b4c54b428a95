//! The history of statistics: three rings of intervals per instance. An interval's slot is its number modulo how many are
//! kept, so a new one replaces the oldest, and there are never more rows.

use std::time::Duration;

use sqlx::{Database, Encode, QueryBuilder, Type};

use super::{StatisticsCounters, StatisticsGauges, StatisticsSample, counters, gauges};
use crate::Timestamp;

/// How finely the history is kept, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatisticsResolution {
    /// 10 seconds, for an hour.
    Seconds,
    /// 5 minutes, for a week.
    Minutes,
    /// An hour, for a year.
    Hours,
}

/// Statistics of one interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow, serde::Serialize)]
pub struct StatisticsInterval {
    /// When it began.
    pub begins_at: Timestamp,
    /// The time in milliseconds that the counters cover; 0 if nothing is known of them.
    pub measured_ms: i64,
    /// How things were at the end; of the connections, and of the container's memory, the most.
    #[sqlx(flatten)]
    #[serde(flatten)]
    pub gauges: StatisticsGauges,
    /// What has happened in the interval.
    #[sqlx(flatten)]
    #[serde(flatten)]
    pub counters: StatisticsCounters,
}

impl StatisticsResolution {
    pub(super) const ALL: [Self; 3] = [Self::Seconds, Self::Minutes, Self::Hours];

    /// The finest that goes back as far as this.
    #[must_use]
    pub fn that_covers(time: Duration) -> Self {
        Self::ALL.into_iter().find(|it| time <= it.span()).unwrap_or(Self::Hours)
    }

    /// Seconds of an interval.
    #[must_use]
    pub const fn seconds(self) -> i64 {
        match self {
            Self::Seconds => 10,
            Self::Minutes => 300,
            Self::Hours => 3_600,
        }
    }

    /// Intervals that are kept.
    pub(super) const fn slots(self) -> i64 {
        match self {
            Self::Seconds => 360,
            Self::Minutes => 2_016,
            Self::Hours => 8_760,
        }
    }

    /// How far it goes back.
    #[must_use]
    pub fn span(self) -> Duration {
        Duration::from_secs(u64::try_from(self.seconds() * self.slots()).unwrap_or(0))
    }

    /// The slot of the interval that has `at`, and when that begins.
    fn interval_of(self, at: Timestamp) -> (i64, i64) {
        let millis = self.seconds() * 1_000;
        let number = at.as_millis().div_euclid(millis);
        (number.rem_euclid(self.slots()), number * millis)
    }
}

const ADD: &str = "INSERT INTO statistics_history AS h (instance_id, resolution, slot, begins_at, measured_ms, bytes, \
     limit_bytes, items, connections, container_bytes, hits, misses, sets, evictions, evicted_unfetched, reclaimed, \
     out_of_memory, bytes_read, bytes_written, cpu_us) SELECT v.* FROM (";

macro_rules! sum {
    ($column:literal) => {
        concat!(
            $column,
            " = CASE WHEN h.begins_at = excluded.begins_at THEN h.",
            $column,
            " + excluded.",
            $column,
            " ELSE excluded.",
            $column,
            " END, "
        )
    };
}
macro_rules! most {
    ($column:literal) => {
        concat!(
            $column,
            " = CASE WHEN h.begins_at = excluded.begins_at AND h.",
            $column,
            " > excluded.",
            $column,
            " THEN h.",
            $column,
            " ELSE excluded.",
            $column,
            " END, "
        )
    };
}

const ADD_END: &str = concat!(
    ") AS v JOIN instances i ON i.id = v.column1 WHERE 1 = 1 ON CONFLICT (instance_id, resolution, slot) DO UPDATE SET ",
    sum!("measured_ms"),
    sum!("hits"),
    sum!("misses"),
    sum!("sets"),
    sum!("evictions"),
    sum!("evicted_unfetched"),
    sum!("reclaimed"),
    sum!("out_of_memory"),
    sum!("bytes_read"),
    sum!("bytes_written"),
    sum!("cpu_us"),
    most!("connections"),
    most!("container_bytes"),
    "bytes = excluded.bytes, limit_bytes = excluded.limit_bytes, items = excluded.items, begins_at = excluded.begins_at"
);

/// The intervals of the instance `$1` with the resolution `$2` that begin at `$3` or later, oldest first. There are never
/// more than `$4`, the slots of the ring.
pub(crate) const OF_INSTANCE: &str = "SELECT begins_at, measured_ms, bytes, limit_bytes, items, connections, container_bytes, \
     hits, misses, sets, evictions, evicted_unfetched, reclaimed, out_of_memory, bytes_read, bytes_written, cpu_us \
     FROM statistics_history WHERE instance_id = $1 AND resolution = $2 AND begins_at >= $3 ORDER BY begins_at LIMIT $4";
/// `$1` rows of deleted caches.
pub(super) const DELETE_DELETED: &str = "DELETE FROM statistics_history WHERE (instance_id, resolution, slot) IN \
     (SELECT h.instance_id, h.resolution, h.slot FROM caches c JOIN instances i ON i.cache_id = c.id \
     JOIN statistics_history h ON h.instance_id = i.id WHERE c.deleted_at IS NOT NULL LIMIT $1)";

/// The statement that adds samples to the intervals that they are in.
pub(super) fn add<DB: Database>(
    resolution: StatisticsResolution,
    samples: &[&StatisticsSample],
) -> QueryBuilder<DB>
where
    DB::Arguments: Default,
    for<'t> i64: Encode<'t, DB> + Type<DB>,
    for<'t> String: Encode<'t, DB> + Type<DB>,
{
    let mut query = QueryBuilder::new(ADD);
    query.push_values(samples, |mut row, sample| {
        let newest = &sample.newest;
        let (slot, begins_at) = resolution.interval_of(newest.sampled_at);
        let measured_ms =
            i64::try_from(sample.measured.as_millis()).unwrap_or(i64::MAX).min(super::COUNT_MAX);
        row.push_bind(newest.instance_id.clone()).push_bind(resolution.seconds());
        for number in [slot, begins_at, measured_ms] {
            row.push_bind(number);
        }
        for number in gauges(&newest.gauges).into_iter().chain(counters(&sample.increments)) {
            row.push_bind(number);
        }
    });
    query.push(ADD_END);
    query
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_cover_an_hour_a_week_and_a_year() {
        use StatisticsResolution::{Hours, Minutes, Seconds};
        let hour = Duration::from_hours(1);
        assert_eq!(
            StatisticsResolution::ALL.map(StatisticsResolution::span),
            [hour, 168 * hour, 365 * 24 * hour]
        );
        for (hours, resolution) in
            [(0, Seconds), (1, Seconds), (2, Minutes), (168, Minutes), (169, Hours), (99_999, Hours)]
        {
            assert_eq!(StatisticsResolution::that_covers(hours * hour), resolution, "{hours}");
        }
    }

    #[test]
    fn an_interval_takes_the_slot_of_the_one_that_is_too_old() {
        let seconds = StatisticsResolution::Seconds;
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1_000);
        assert_eq!(seconds.interval_of(at(3_600 * 5 + 19)), (1, (3_600 * 5 + 10) * 1_000));
        assert_eq!(seconds.interval_of(at(3_600 * 6 + 10)).0, 1);
        assert_eq!(seconds.interval_of(at(-1)).0, 359);
        assert!((0..8_760).contains(&StatisticsResolution::Hours.interval_of(Timestamp::MAX).0));
    }
}
