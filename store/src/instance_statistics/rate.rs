//! What counters come to: rates, shares, and several intervals together. Shared by all that shows them. Pure.

use std::time::Duration;

use super::StatisticsInterval;

/// The share of reads that found their key, in thousandths and rounded down; `None` without a read.
#[must_use]
pub fn hits_per_thousand(hits: i64, misses: i64) -> Option<i64> {
    let (hits, reads) = (i128::from(hits), i128::from(hits) + i128::from(misses));
    hits.saturating_mul(1_000).checked_div(reads).map(narrow)
}

/// A rate per second in tenths, rounded down; `None` if nothing was measured.
#[must_use]
pub fn tenths_per_second(count: i64, measured_ms: i64) -> Option<i64> {
    i128::from(count).saturating_mul(10_000).checked_div(i128::from(measured_ms)).map(narrow)
}

/// Intervals of this width, each of those that begin in it; none where there is none. `intervals` are ordered.
#[must_use]
pub fn merge_intervals(intervals: &[StatisticsInterval], width: Duration) -> Vec<StatisticsInterval> {
    let same = intervals.chunk_by(|a, b| a.number(width) == b.number(width));
    same.filter_map(|same| same.iter().copied().reduce(StatisticsInterval::followed_by)).collect()
}

impl StatisticsInterval {
    /// Which of all intervals of this width since 1970 it begins in.
    #[must_use]
    pub fn number(&self, width: Duration) -> i64 {
        let width = i64::try_from(width.as_millis()).unwrap_or(i64::MAX).max(1);
        self.begins_at.as_millis().div_euclid(width)
    }

    /// This one and a later one as one.
    #[must_use]
    pub fn followed_by(self, later: Self) -> Self {
        let mut gauges = later.gauges;
        gauges.connections = gauges.connections.max(self.gauges.connections);
        gauges.container_bytes = gauges.container_bytes.max(self.gauges.container_bytes);
        Self {
            begins_at: self.begins_at,
            measured_ms: self.measured_ms.saturating_add(later.measured_ms),
            gauges,
            counters: self.counters.plus(&later.counters),
        }
    }
}

fn narrow(number: i128) -> i64 {
    let bound = if number < 0 { i64::MIN } else { i64::MAX };
    i64::try_from(number).unwrap_or(bound)
}

#[cfg(test)]
mod tests {
    use super::super::{StatisticsCounters, StatisticsGauges};
    use super::*;
    use crate::Timestamp;

    #[test]
    fn rates_and_shares_are_rounded_down_and_unknown_without_a_base() {
        assert_eq!(
            [(9, 1), (1, 2), (0, 7), (0, 0)].map(|(h, m)| hits_per_thousand(h, m)),
            [Some(900), Some(333), Some(0), None]
        );
        assert_eq!(tenths_per_second(59, 10_000), Some(59));
        assert_eq!(tenths_per_second(1, 60_000), Some(0));
        assert_eq!(tenths_per_second(5, 0), None);
    }

    //
    #[test]
    fn absurd_numbers_come_to_a_number() {
        let (max, min) = (i64::MAX, i64::MIN);
        assert_eq!(hits_per_thousand(max, max), Some(500));
        assert_eq!(hits_per_thousand(max, -max), None);
        assert_eq!((hits_per_thousand(max, 1 - max), hits_per_thousand(min, max)), (Some(max), Some(max)));
        assert_eq!((tenths_per_second(max, 1), tenths_per_second(min, 1)), (Some(max), Some(min)));
    }

    #[test]
    fn intervals_are_added_up_where_they_begin() {
        let interval = |seconds: i64, hits, items| StatisticsInterval {
            begins_at: Timestamp::from_millis(seconds * 1_000),
            measured_ms: 10_000,
            gauges: StatisticsGauges { items, connections: 100 - items, ..StatisticsGauges::default() },
            counters: StatisticsCounters { hits, ..StatisticsCounters::default() },
        };
        let all = [interval(50, 1, 1), interval(60, 2, 2), interval(110, 4, 3), interval(300, 8, 4)];
        let merged = merge_intervals(&all, Duration::from_secs(60));
        let shown = |it: &StatisticsInterval| {
            (
                it.begins_at.as_millis() / 1_000,
                it.measured_ms,
                it.counters.hits,
                it.gauges.items,
                it.gauges.connections,
            )
        };
        assert_eq!(
            merged.iter().map(shown).collect::<Vec<_>>(),
            [(50, 10_000, 1, 1, 99), (60, 20_000, 6, 3, 98), (300, 10_000, 8, 4, 96)]
        );
        assert_eq!(merge_intervals(&all, Duration::ZERO), all, "never finer than they are");
        assert_eq!(merge_intervals(&[], Duration::from_secs(60)), []);
    }
}
