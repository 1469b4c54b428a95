//! `memgate cache stats`: how a cache has been used, over time.

use std::time::Duration;

use serde::Serialize;
use store::{
    InstanceStatistics, SlabClass, StatisticsCounters, StatisticsInterval, StatisticsResolution,
    hits_per_thousand, merge_intervals, now, tenths_per_second,
};

use crate::cli::context::Context;
use crate::cli::instance::megabytes;
use crate::cli::lookup::{CacheArg, find_user};
use crate::output::CliError;
use crate::output::table::table;
use crate::output::time;

/// Rows of the table.
const ROWS_MAX: u64 = 24;

#[derive(Debug, clap::Args)]
pub(crate) struct Stats {
    /// The user's e-mail address
    email: String,
    #[command(flatten)]
    cache: CacheArg,
    /// How far back: 1h in steps of 10 seconds, up to 7d in steps of 5 minutes, up to 365d in hours
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = store::parse_duration)]
    since: Duration,
}

/// A cache's statistics.
#[derive(Debug, Serialize)]
struct History {
    email: String,
    cache: String,
    id: String,
    /// Seconds of each interval.
    resolution_seconds: i64,
    /// What memcached said last, since it started.
    newest: Option<InstanceStatistics>,
    /// The same per size of items.
    slab_classes: Vec<SlabClass>,
    /// Oldest first; without those in which nothing was sampled.
    intervals: Vec<StatisticsInterval>,
}

impl Stats {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let store = &context.store;
        let user = find_user(store, &self.email).await?;
        let cache = self.cache.find(store, &user).await?;
        let resolution = StatisticsResolution::that_covers(self.since);
        let (mut newest, mut intervals) = (None, Vec::new());
        if let Some(instance) = store.instance_of_cache(&cache.id).await? {
            newest = store.instance_statistics(&instance.id).await?;
            let since = now().saturating_sub(self.since);
            intervals = store.statistics_history(&instance.id, resolution, since).await?;
        }
        let slab_classes = newest.as_ref().map(InstanceStatistics::slab_classes).unwrap_or_default();
        let (email, resolution_seconds) = (user.email, resolution.seconds());
        let history = History {
            email,
            cache: cache.name,
            id: cache.id,
            resolution_seconds,
            newest,
            slab_classes,
            intervals,
        };
        context.print(&history, || history.text(self.since))
    }
}

impl History {
    fn text(&self, since: Duration) -> String {
        if self.intervals.is_empty() {
            return "no statistics of this time: they are taken every 10 seconds while the cache runs"
                .to_owned();
        }
        let rows: Vec<_> = self.rows(since).iter().map(row).collect();
        let mut text = table(
            [
                "FROM",
                "HITS",
                "READS/S",
                "SETS/S",
                "EVICTED",
                "UNREAD",
                "NO ROOM",
                "ITEMS",
                "USED",
                "CONTAINER",
                "CPU",
            ],
            &rows,
        );
        let full: Vec<_> = self.slab_classes.iter().filter(|class| class.out_of_memory > 0).collect();
        if !full.is_empty() {
            let line = |class: &&SlabClass| {
                let SlabClass { chunk_size, items, out_of_memory, .. } = class;
                [format!("up to {chunk_size} bytes"), items.to_string(), out_of_memory.to_string()]
            };
            text.push('\n');
            text.push_str(&table(
                ["SIZE OF ITEMS", "ITEMS", "NO ROOM, SINCE MEMCACHED STARTED"],
                &full.iter().map(line).collect::<Vec<_>>(),
            ));
        }
        text
    }

    /// The intervals, several of them together if there are many.
    fn rows(&self, since: Duration) -> Vec<StatisticsInterval> {
        let resolution = u64::try_from(self.resolution_seconds).unwrap_or(1).max(1);
        let steps = since.as_secs().div_ceil(ROWS_MAX).div_ceil(resolution).max(1);
        merge_intervals(&self.intervals, Duration::from_secs(steps.saturating_mul(resolution)))
    }
}

fn row(it: &StatisticsInterval) -> [String; 11] {
    let StatisticsCounters {
        hits, misses, sets, evictions, evicted_unfetched, out_of_memory, cpu_us, ..
    } = it.counters;
    let reads = hits.saturating_add(misses);
    let bytes = |bytes: i64| megabytes(u64::try_from(bytes).unwrap_or(0));
    let container =
        if it.gauges.container_bytes == 0 { "-".to_owned() } else { bytes(it.gauges.container_bytes) };
    [
        time::utc(it.begins_at),
        hits_per_thousand(hits, misses).map_or_else(|| "-".to_owned(), |share| format!("{} %", share / 10)),
        per_second(reads, it.measured_ms),
        per_second(sets, it.measured_ms),
        evictions.to_string(),
        evicted_unfetched.to_string(),
        out_of_memory.to_string(),
        it.gauges.items.to_string(),
        bytes(it.gauges.bytes),
        container,
        // Microseconds in milliseconds are thousandths.
        cpu_us.checked_div(it.measured_ms).map_or_else(
            || "-".to_owned(),
            |thousandths| format!("{}.{} %", thousandths / 10, thousandths % 10),
        ),
    ]
}

/// A rate with one decimal.
fn per_second(count: i64, millis: i64) -> String {
    tenths_per_second(count, millis)
        .map_or_else(|| "-".to_owned(), |tenths| format!("{}.{}", tenths / 10, tenths % 10))
}

#[cfg(test)]
mod tests {
    use store::{StatisticsGauges, Timestamp};

    use super::*;

    fn interval(at: i64, hits: i64, items: i64, container_bytes: i64) -> StatisticsInterval {
        let gauges =
            StatisticsGauges { items, container_bytes, bytes: 3 << 20, ..StatisticsGauges::default() };
        let counters =
            StatisticsCounters { hits, misses: 10, cpu_us: 31_000, ..StatisticsCounters::default() };
        StatisticsInterval {
            begins_at: Timestamp::from_millis(at * 1_000),
            measured_ms: 10_000,
            gauges,
            counters,
        }
    }

    fn history(intervals: Vec<StatisticsInterval>) -> History {
        let (email, cache, id) = ("ada".to_owned(), "default".to_owned(), "id".to_owned());
        History {
            email,
            cache,
            id,
            resolution_seconds: 10,
            newest: None,
            slab_classes: Vec::new(),
            intervals,
        }
    }

    #[test]
    fn many_intervals_become_few_rows_with_right_rates() {
        let all = history((0..360).map(|n| interval(n * 10, 90, n, n % 7)).collect());
        let rows = all.rows(Duration::from_secs(3_600));
        assert_eq!(rows.len(), 24);
        assert_eq!((rows[1].begins_at, rows[1].measured_ms), (Timestamp::from_millis(150_000), 150_000));
        assert_eq!((rows[1].gauges.items, rows[1].gauges.container_bytes), (29, 6));
        let shown = row(&rows[1]);
        assert_eq!(shown[..4], ["1970-01-01 00:02 UTC", "90 %", "10.0", "0.0"]);
        assert_eq!(shown[7..], ["29", "3.0 MB", "0.0 MB", "0.3 %"]);
        assert_eq!(all.rows(Duration::from_secs(60)).len(), 360, "never finer than what is kept");
    }

    #[test]
    fn what_is_not_known_is_no_number() {
        let empty = StatisticsInterval { measured_ms: 0, ..interval(0, 0, 0, 0) };
        let shown = row(&StatisticsInterval { counters: StatisticsCounters::default(), ..empty });
        assert_eq!([&shown[1], &shown[2], &shown[9], &shown[10]], ["-", "-", "-", "-"]);
        assert!(history(Vec::new()).text(Duration::ZERO).starts_with("no statistics"));
        let class =
            SlabClass { class: 5, chunk_size: 240, items: 2, out_of_memory: 7, ..SlabClass::default() };
        let full = History { slab_classes: vec![class], ..history(vec![interval(0, 1, 2, 3)]) };
        let text = full.text(Duration::from_secs(60));
        assert!(text.contains("up to 240 bytes  2      7"), "{text}");
        assert_eq!(per_second(i64::MAX, 1), "922337203685477580.7", "no rate is a panic");
    }
}
