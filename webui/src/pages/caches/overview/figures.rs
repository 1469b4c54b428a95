//! Figures of a cache: tiles with how it is doing now, each with what it means.

use std::time::Duration;

use store::{
    Instance, InstanceState, InstanceStatistics, StatisticsCounters, StatisticsInterval, Timestamp, Usage,
    hits_per_thousand, latency_quantile_us, tenths_per_second,
};

use crate::view::date::{ago, day};
use crate::view::number;

/// What has been measured longer ago isn't how things are now. Samples are taken every 10 s.
const FRESH_FOR: Duration = Duration::from_secs(60);
/// The time that rates are taken of.
const RATE_SPAN: Duration = Duration::from_secs(60);
const UNKNOWN: &str = "–";

/// What the store knows of a cache's traffic.
#[derive(Debug, Clone, Default)]
pub(super) struct Measured {
    pub(super) newest: Option<InstanceStatistics>,
    /// Of the last hour, oldest first.
    pub(super) last_hour: Vec<StatisticsInterval>,
    /// Since the cache was created.
    pub(super) usage: Usage,
    /// The same.
    pub(super) latency: Vec<(i64, i64)>,
    /// Connections of clients.
    pub(super) connections: i64,
}

/// A figure.
pub(super) struct Tile {
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    pub(super) value: String,
    /// Of what, since when.
    pub(super) detail: String,
    /// What it means, and what a change usually means.
    pub(super) meaning: &'static str,
    /// A part and its whole.
    pub(super) meter: Option<(i64, i64)>,
}

impl Measured {
    /// What has happened in the last hour.
    pub(super) fn hour(&self) -> StatisticsCounters {
        sum(&self.last_hour).map_or_else(StatisticsCounters::default, |it| it.counters)
    }

    /// Whether no application has used the cache.
    pub(super) fn is_unused(&self) -> bool {
        let StatisticsCounters { hits, misses, sets, .. } = self.hour();
        self.usage.operations() == 0 && (hits, misses, sets) == (0, 0, 0)
    }

    pub(super) fn tiles(&self, instance: &Instance, now: Timestamp) -> Vec<Tile> {
        let minute_ago = now.saturating_sub(RATE_SPAN);
        let at = self.last_hour.partition_point(|it| it.begins_at < minute_ago);
        let minute = sum(&self.last_hour[at..]);
        let (memory, items) = self.contents(instance, now);
        vec![
            memory,
            self.hit_rate(),
            self.operation_rate(instance, minute.as_ref()),
            items,
            self.evictions(),
            self.client_connections(instance),
            network(minute.as_ref()),
            self.latency_tile(instance),
        ]
    }

    /// Memory and items, as they are now or were when they were last measured.
    fn contents(&self, instance: &Instance, now: Timestamp) -> (Tile, Tile) {
        let limit = instance.memory_mb.saturating_mul(1 << 20);
        let mut memory = Tile {
            id: "memory-used",
            title: "Memory",
            value: UNKNOWN.to_owned(),
            detail: format!("of {} MB", instance.memory_mb),
            meaning: "Space that items use. A full cache removes the items that nobody has read for longest.",
            meter: None,
        };
        let mut items = Tile {
            id: "items",
            title: "Items",
            value: UNKNOWN.to_owned(),
            detail: String::new(),
            meaning: "Expired ones count until memcached finds them. A fall to nothing means that the cache was emptied.",
            meter: None,
        };
        let Some(newest) = &self.newest else { return (memory, items) };
        let used = newest.gauges.bytes;
        let age = now.since(newest.sampled_at);
        let runs = matches!(instance.state(), InstanceState::Running | InstanceState::Restarting);
        if runs && age <= FRESH_FOR {
            let limit = if newest.gauges.limit_bytes > 0 { newest.gauges.limit_bytes } else { limit };
            memory.value = number::bytes(used);
            memory.detail = format!("of {}", number::size(limit));
            memory.meter = Some((used.min(limit), limit));
            items.value = number::grouped(newest.gauges.items.max(0));
        } else {
            memory.detail = format!(
                "{} of {} MB when last measured, {}",
                number::bytes(used),
                instance.memory_mb,
                ago(age)
            );
            items.detail = format!("{} when last measured", number::grouped(newest.gauges.items.max(0)));
        }
        (memory, items)
    }

    fn hit_rate(&self) -> Tile {
        let StatisticsCounters { hits, misses, .. } = self.hour();
        let reads = hits.saturating_add(misses).max(0);
        let share = hits_per_thousand(hits, misses);
        Tile {
            id: "hit-rate",
            title: "Hit rate",
            value: share.map_or_else(|| UNKNOWN.to_owned(), number::percent),
            detail: format!("of {} reads in the last hour", number::grouped(reads)),
            meaning: "Reads that found their key. It falls after a restart, or when items expire or are evicted too early.",
            meter: share.map(|share| (share, 1_000)),
        }
    }

    fn operation_rate(&self, instance: &Instance, minute: Option<&StatisticsInterval>) -> Tile {
        let rate = minute.and_then(|it| tenths_per_second(operations(&it.counters), it.measured_ms));
        let rate = rate.or((instance.state() == InstanceState::Asleep).then_some(0));
        Tile {
            id: "operations",
            title: "Operations per second",
            value: rate.map_or_else(|| UNKNOWN.to_owned(), number::tenths),
            detail: format!(
                "in the last minute; {} since the cache was created",
                number::grouped(self.usage.operations().max(0))
            ),
            meaning: "Reads and stores. A fall to nothing often means that an application lost its connection or its token.",
            meter: None,
        }
    }

    fn evictions(&self) -> Tile {
        let StatisticsCounters { evictions, evicted_unfetched, .. } = self.hour();
        Tile {
            id: "evictions",
            title: "Evictions",
            value: number::grouped(evictions.max(0)),
            detail: format!(
                "in the last hour, {} of items that nobody had read",
                number::grouped(evicted_unfetched.max(0))
            ),
            meaning: "Items removed to make room. Some are normal in a full cache; many, with a falling hit rate, ask for more memory.",
            meter: None,
        }
    }

    fn client_connections(&self, instance: &Instance) -> Tile {
        let (open, max) = (self.connections.max(0), instance.connections.max(1));
        Tile {
            id: "connections",
            title: "Connections",
            value: number::grouped(open),
            detail: format!("of {}", number::grouped(max)),
            meaning: "Open connections of your applications. A steady rise means that one opens new ones without closing the old.",
            meter: Some((open.min(max), max)),
        }
    }

    /// There is no history of latencies: they count since the cache was created.
    fn latency_tile(&self, instance: &Instance) -> Tile {
        let [p50, p99, p999] = [500, 990, 999].map(|thousandths| {
            let bound = latency_quantile_us(&self.latency, thousandths);
            bound.map_or_else(|| UNKNOWN.to_owned(), |us| format!("under {}", number::microseconds(us)))
        });
        Tile {
            id: "latency",
            title: "Latency (p50)",
            value: p50,
            detail: format!("p99 {p99}, p99.9 {p999}; since {}", day(instance.created_at)),
            meaning: "How long half, 99 % and 99.9 % of all requests took inside this service. The way to your application comes on top.",
            meter: None,
        }
    }
}

/// Reads and stores.
fn operations(counters: &StatisticsCounters) -> i64 {
    counters.hits.saturating_add(counters.misses).saturating_add(counters.sets)
}

fn network(minute: Option<&StatisticsInterval>) -> Tile {
    let rate = |bytes: fn(&StatisticsCounters) -> i64| {
        let tenths = minute.and_then(|it| tenths_per_second(bytes(&it.counters), it.measured_ms));
        tenths.map_or_else(|| UNKNOWN.to_owned(), |tenths| format!("{}/s", number::bytes(tenths / 10)))
    };
    Tile {
        id: "network",
        title: "Network in",
        value: rate(|it| it.bytes_read),
        detail: format!("out {}, in the last minute", rate(|it| it.bytes_written)),
        meaning: "What memcached received and sent, with a little that this service asks it for. More without more operations means larger items.",
        meter: None,
    }
}

fn sum(intervals: &[StatisticsInterval]) -> Option<StatisticsInterval> {
    intervals.iter().copied().reduce(StatisticsInterval::followed_by)
}
