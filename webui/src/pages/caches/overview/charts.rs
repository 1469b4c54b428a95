//! Charts of a cache over a range of time that the page's address names.

use std::time::Duration;

use store::{
    StatisticsCounters, StatisticsInterval, StatisticsResolution, Timestamp, hits_per_thousand,
    merge_intervals, tenths_per_second,
};

use crate::view::chart::{About, Chart, Series, Shape, Unit};
use crate::view::date::{day_of_year, time_of_day};

const HOUR: Duration = Duration::from_hours(1);

/// How far charts go back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Range {
    #[default]
    Hour,
    Day,
    Week,
    Month,
}

const HIT_RATE: About = About {
    id: "hit-rate",
    title: "Hit rate",
    meaning: "A dip that recovers is a restart, a flush or a deployment with new keys. A slow fall with evictions means that memory is short.",
    unit: Unit::Share,
    shape: Shape::Lines,
};
const OPERATIONS: About = About {
    id: "operations",
    title: "Operations per second",
    meaning: "More misses and stores at the same number of hits means that items are gone before they are read again.",
    unit: Unit::Rate,
    shape: Shape::Lines,
};
const MEMORY: About = About {
    id: "memory",
    title: "Memory",
    meaning: "It rises until the cache is full, and stays there: that is normal. A cliff means that the cache was emptied.",
    unit: Unit::Bytes,
    shape: Shape::Lines,
};
const EVICTIONS: About = About {
    id: "evictions",
    title: "Evictions",
    meaning: "Items removed to make room. When they set in while the hit rate falls, the cache is too small for what is read.",
    unit: Unit::Count,
    shape: Shape::Bars,
};
const NETWORK: About = About {
    id: "network",
    title: "Network",
    meaning: "Much more out than in is normal. A rise without more operations means larger items.",
    unit: Unit::ByteRate,
    shape: Shape::Lines,
};

impl Range {
    pub(super) const ALL: [Self; 4] = [Self::Hour, Self::Day, Self::Week, Self::Month];

    /// The range of `?range=`; the default for any other text.
    pub(super) fn parse(text: &str) -> Self {
        Self::ALL.into_iter().find(|it| it.name() == text).unwrap_or_default()
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }

    /// What the history is read at: never more than 744 rows.
    pub(super) fn resolution(self) -> StatisticsResolution {
        match self {
            Self::Hour => StatisticsResolution::Seconds,
            Self::Day => StatisticsResolution::Minutes,
            Self::Week | Self::Month => StatisticsResolution::Hours,
        }
    }

    /// The time of one point, and how many points there are.
    fn points(self) -> (Duration, i64) {
        match self {
            Self::Hour => (HOUR / 60, 60),
            Self::Day => (HOUR / 2, 48),
            Self::Week => (HOUR * 3, 56),
            Self::Month => (HOUR * 24, 31),
        }
    }

    /// The time of one point, in words.
    pub(super) fn step(self) -> &'static str {
        match self {
            Self::Hour => "a minute",
            Self::Day => "half an hour",
            Self::Week => "three hours",
            Self::Month => "a day",
        }
    }

    /// When the first point begins.
    pub(super) fn begins_at(self, now: Timestamp) -> Timestamp {
        let (width, count) = self.points();
        let width = width_ms(width);
        let last = now.as_millis().div_euclid(width);
        Timestamp::from_millis((last - count + 1).saturating_mul(width))
    }

    fn label(self, at: Timestamp) -> String {
        match self {
            Self::Hour => time_of_day(at),
            Self::Day | Self::Week => format!("{} {}", day_of_year(at), time_of_day(at)),
            Self::Month => day_of_year(at),
        }
    }
}

/// The charts of a range. `intervals` are its history, oldest first.
pub(super) fn all(range: Range, intervals: &[StatisticsInterval], now: Timestamp) -> Vec<Chart> {
    let (width, count) = range.points();
    let begins_at = range.begins_at(now);
    let times: Vec<Timestamp> = (0..u32::try_from(count).unwrap_or(0))
        .map(|number| begins_at.saturating_add(width.saturating_mul(number)))
        .collect();
    let labels: Vec<String> = times.iter().map(|at| range.label(*at)).collect();
    let merged = merge_intervals(intervals, width);
    let first = begins_at.as_millis().div_euclid(width_ms(width));
    let mut points: Vec<Option<StatisticsInterval>> = vec![None; times.len()];
    for it in merged {
        let place = usize::try_from(it.number(width) - first).ok().and_then(|i| points.get_mut(i));
        if let Some(place) = place {
            *place = Some(it);
        }
    }
    let series = |name, value: fn(&StatisticsInterval) -> Option<i64>| Series {
        name,
        values: points.iter().map(|it| it.as_ref().and_then(value)).collect(),
    };
    let chart = |about, series: &[Series]| Chart::new(about, &labels, series);
    vec![
        chart(HIT_RATE, &[series("Hit rate", |it| hits_per_thousand(it.counters.hits, it.counters.misses))]),
        chart(
            OPERATIONS,
            &[
                series("Hits", |it| rate(it, |counters| counters.hits)),
                series("Misses", |it| rate(it, |counters| counters.misses)),
                series("Stores", |it| rate(it, |counters| counters.sets)),
            ],
        ),
        chart(
            MEMORY,
            &[series("Used", |it| Some(it.gauges.bytes)), series("Limit", |it| Some(it.gauges.limit_bytes))],
        ),
        chart(EVICTIONS, &[series("Evictions", |it| Some(it.counters.evictions))]),
        chart(
            NETWORK,
            &[
                series("In", |it| rate(it, |counters| counters.bytes_read).map(|tenths| tenths / 10)),
                series("Out", |it| rate(it, |counters| counters.bytes_written).map(|tenths| tenths / 10)),
            ],
        ),
    ]
}

fn rate(it: &StatisticsInterval, count: fn(&StatisticsCounters) -> i64) -> Option<i64> {
    tenths_per_second(count(&it.counters), it.measured_ms)
}

fn width_ms(width: Duration) -> i64 {
    i64::try_from(width.as_millis()).unwrap_or(i64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use store::StatisticsGauges;

    use super::*;

    fn interval(at: i64, hits: i64) -> StatisticsInterval {
        StatisticsInterval {
            begins_at: Timestamp::from_millis(at),
            measured_ms: 10_000,
            gauges: StatisticsGauges { bytes: 1 << 20, limit_bytes: 4 << 20, ..StatisticsGauges::default() },
            counters: StatisticsCounters { hits, misses: 10, ..StatisticsCounters::default() },
        }
    }

    /// 30 Nov 2026, 14:05:30 UTC.
    const NOW: Timestamp = Timestamp::from_millis(1_796_047_530_000);

    #[test]
    fn points_are_where_their_time_is() {
        let begins = Range::Hour.begins_at(NOW).as_millis();
        // The first minute, two intervals of the second, and the last one.
        let all_of = [
            interval(begins, 90),
            interval(begins + 60_000, 10),
            interval(begins + 70_000, 30),
            interval(begins + 59 * 60_000, 0),
            // The clock was ahead.
            interval(begins + 61 * 60_000, 5),
        ];
        let charts = all(Range::Hour, &all_of, NOW);
        let rows = |chart: &Chart| chart.rows.clone();
        let row = |time: &str, values: &[&str]| {
            (time.to_owned(), values.iter().map(|it| (*it).to_owned()).collect::<Vec<String>>())
        };
        assert_eq!(
            rows(&charts[0]),
            [row("13:06", &["90.0 %"]), row("13:07", &["66.6 %"]), row("14:05", &["0.0 %"])]
        );
        assert_eq!(rows(&charts[1])[1], row("13:07", &["2.0", "1.0", "0.0"]));
        assert_eq!(rows(&charts[2])[0], row("13:06", &["1.0 MB", "4.0 MB"]));
        assert_eq!(charts[0].times, ["13:06", "13:36", "14:05"]);
        assert!(
            charts[0].drawn[0].path.starts_with("M0 100L16 334M1000 1000h0"),
            "{}",
            charts[0].drawn[0].path
        );
    }

    #[test]
    fn ranges_end_now_and_are_read_at_a_resolution_that_is_kept() {
        for (name, begins, middle) in [
            ("hour", "13:06", "13:36"),
            ("day", "29 Nov 14:30", "30 Nov 02:30"),
            ("week", "23 Nov 15:00", "27 Nov 03:00"),
            ("month", "31 Oct", "15 Nov"),
        ] {
            let range = Range::parse(name);
            assert_eq!(range.name(), name);
            assert!(NOW.since(range.begins_at(NOW)) <= range.resolution().span(), "{name}");
            let charts = all(range, &[], NOW);
            assert_eq!(charts[0].times[..2], [begins, middle], "{name}");
            assert!(charts.iter().all(|chart| chart.rows.is_empty()));
        }
        assert_eq!([Range::parse(""), Range::parse("year")], [Range::Hour, Range::Hour]);
    }
}
