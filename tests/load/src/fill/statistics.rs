//! memgate's statistics of a cache beside memcached's own. While a cache is filled, each figure that only grows must lie between
//! what memcached said before the sample and after it; while nothing is stored, all must be equal.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use serde_json::Value;
use store::{InstanceStatistics, Store, Timestamp, now};

use crate::direct::DirectConnection;
use crate::error::LoadError;

/// A sample is taken every 10 s, and may be missed once.
const SAMPLE_TIMEOUT: Duration = Duration::from_secs(40);
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// By so much the reading of a sample begins before its time at most: a login and a request.
const READ_MAX: Duration = Duration::from_secs(2);
/// Readings that are kept: a sample is compared within them.
const READINGS_MAX: usize = 200;

/// Figures of a cache, as memcached or memgate says them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Figures {
    pub(super) items: i64,
    pub(super) bytes: i64,
    pub(super) limit_bytes: i64,
    pub(super) hits: i64,
    pub(super) misses: i64,
    pub(super) sets: i64,
    pub(super) evictions: i64,
    pub(super) evicted_unfetched: i64,
    pub(super) reclaimed: i64,
    pub(super) out_of_memory: i64,
}

/// What memcached said, and between which times.
struct Reading {
    begun: Timestamp,
    ended: Timestamp,
    figures: Figures,
}

pub(super) struct Statistics<'a> {
    direct: DirectConnection,
    store: &'a Store,
    instance: String,
    /// Oldest first.
    readings: VecDeque<Reading>,
    /// A sample that waits for a reading after it.
    sample: Option<InstanceStatistics>,
    compared_at: Timestamp,
    compared: usize,
    differences: Vec<String>,
}

impl<'a> Statistics<'a> {
    pub(super) fn new(direct: DirectConnection, store: &'a Store, instance: String) -> Self {
        let (readings, differences) = (VecDeque::new(), Vec::new());
        Self { direct, store, instance, readings, sample: None, compared_at: now(), compared: 0, differences }
    }

    /// How many samples were compared.
    pub(super) fn compared(&self) -> usize {
        self.compared
    }

    pub(super) fn take_differences(&mut self) -> Vec<String> {
        std::mem::take(&mut self.differences)
    }

    /// Asks memcached, and compares the newest sample if there is one.
    pub(super) async fn read(&mut self) -> Result<Figures, LoadError> {
        if self.sample.is_none() {
            let newest = self.newest().await?;
            self.sample = newest.filter(|newest| newest.sampled_at > self.compared_at);
        }
        let begun = now();
        let mut own = self.direct.statistics("").await?;
        own.append(&mut self.direct.statistics(" items").await?);
        let figures = Figures::of_memcached(&own);
        self.readings.push_back(Reading { begun, ended: now(), figures });
        if self.readings.len() > READINGS_MAX {
            self.readings.pop_front();
        }
        if let Some(sample) = self.sample.take() {
            self.compare(&sample);
        }
        Ok(figures)
    }

    fn compare(&mut self, sample: &InstanceStatistics) {
        let at = sample.sampled_at;
        self.compared_at = at;
        let read_from = at.saturating_sub(READ_MAX);
        let before = self.readings.iter().rfind(|reading| reading.ended <= read_from);
        let after = self.readings.iter().find(|reading| reading.begun >= at);
        if let (Some(before), Some(after)) = (before, after) {
            self.compared += 1;
            let growing =
                Figures::of_sample(sample).outside(&before.figures, &after.figures, Figures::growing);
            self.differences.extend(growing);
        }
    }

    /// Waits for a sample while nothing is stored, and returns what differs. `show` is `memgate cache stats`.
    pub(super) async fn compare_quiet(
        &mut self,
        show: impl Fn() -> Result<Value, LoadError>,
    ) -> Result<Vec<String>, LoadError> {
        let before = self.read().await?;
        let (since, deadline) = (now(), Instant::now() + SAMPLE_TIMEOUT);
        let is_new = |sample: &InstanceStatistics| sample.sampled_at.saturating_sub(READ_MAX) >= since;
        let sample = loop {
            if let Some(sample) = self.newest().await?.filter(is_new) {
                break sample;
            }
            if Instant::now() > deadline {
                return Ok(vec!["no sample".to_owned()]);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        };
        let shown = show()?;
        let after = self.read().await?;
        self.compared += 1;
        let of_sample = Figures::of_sample(&sample);
        let mut differences = of_sample.outside(&before, &after, Figures::all);
        let of_command = Figures::of_command(&shown["newest"]);
        differences.extend(of_command.outside(&before, &after, Figures::all));
        Ok(differences)
    }

    async fn newest(&self) -> Result<Option<InstanceStatistics>, LoadError> {
        self.store.instance_statistics(&self.instance).await.map_err(LoadError::unexpected)
    }
}

impl Figures {
    fn of_memcached(own: &BTreeMap<String, i64>) -> Self {
        let figure = |name: &str| own.get(name).copied().unwrap_or(-1);
        let of_class =
            |(name, _): &(&String, &i64)| name.starts_with("items:") && name.ends_with(":outofmemory");
        Self {
            items: figure("curr_items"),
            bytes: figure("bytes"),
            limit_bytes: figure("limit_maxbytes"),
            hits: figure("get_hits"),
            misses: figure("get_misses"),
            sets: figure("cmd_set"),
            evictions: figure("evictions"),
            evicted_unfetched: figure("evicted_unfetched"),
            reclaimed: figure("reclaimed"),
            out_of_memory: own.iter().filter(of_class).map(|(_, value)| value).sum(),
        }
    }

    fn of_sample(sample: &InstanceStatistics) -> Self {
        let (gauges, counters) = (sample.gauges, sample.counters);
        Self {
            items: gauges.items,
            bytes: gauges.bytes,
            limit_bytes: gauges.limit_bytes,
            hits: counters.hits,
            misses: counters.misses,
            sets: counters.sets,
            evictions: counters.evictions,
            evicted_unfetched: counters.evicted_unfetched,
            reclaimed: counters.reclaimed,
            out_of_memory: counters.out_of_memory,
        }
    }

    fn of_command(newest: &Value) -> Self {
        let figure = |name: &str| newest[name].as_i64().unwrap_or(-1);
        Self {
            items: figure("items"),
            bytes: figure("bytes"),
            limit_bytes: figure("limit_bytes"),
            hits: figure("hits"),
            misses: figure("misses"),
            sets: figure("sets"),
            evictions: figure("evictions"),
            evicted_unfetched: figure("evicted_unfetched"),
            reclaimed: figure("reclaimed"),
            out_of_memory: figure("out_of_memory"),
        }
    }

    /// Those that never become less while memcached runs.
    fn growing(&self) -> Vec<(&'static str, i64)> {
        vec![
            ("hits", self.hits),
            ("misses", self.misses),
            ("sets", self.sets),
            ("evictions", self.evictions),
            ("evicted_unfetched", self.evicted_unfetched),
            ("reclaimed", self.reclaimed),
            ("out_of_memory", self.out_of_memory),
        ]
    }

    fn all(&self) -> Vec<(&'static str, i64)> {
        let mut all = vec![("items", self.items), ("bytes", self.bytes), ("limit_bytes", self.limit_bytes)];
        all.extend(self.growing());
        all
    }

    /// The figures that don't lie between those before and after.
    fn outside(
        &self,
        before: &Self,
        after: &Self,
        figures: fn(&Self) -> Vec<(&'static str, i64)>,
    ) -> Vec<String> {
        let ends = figures(before).into_iter().zip(figures(after));
        figures(self)
            .into_iter()
            .zip(ends)
            .filter(|((_, value), ((_, before), (_, after)))| {
                !(before.min(after)..=before.max(after)).contains(&value)
            })
            .map(|((name, value), ((_, before), (_, after)))| {
                format!("{name} {value} isn't between memcached's {before} and {after}")
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_that_differs_is_found() {
        let before = Figures { sets: 5, bytes: 100, ..Figures::default() };
        let after = Figures { sets: 9, bytes: 50, ..Figures::default() };
        for sets in 5..=9 {
            let sample = Figures { sets, bytes: 75, ..Figures::default() };
            assert!(sample.outside(&before, &after, Figures::all).is_empty());
        }
        let wrong = Figures { sets: 4, bytes: 101, hits: 1, ..Figures::default() };
        let all = wrong.outside(&before, &after, Figures::all);
        assert_eq!(all.len(), 3, "{all:?}");
        assert_eq!(wrong.outside(&before, &after, Figures::growing).len(), 2);
        assert_eq!(all[2], "sets 4 isn't between memcached's 5 and 9");
    }

    #[test]
    fn figures_have_memcacheds_names() {
        let own = [("curr_items", 3), ("bytes", 9), ("items:5:outofmemory", 2), ("items:7:outofmemory", 1)];
        let figures =
            Figures::of_memcached(&own.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect());
        assert_eq!((figures.items, figures.bytes, figures.out_of_memory, figures.sets), (3, 9, 3, -1));
        let mut sample = InstanceStatistics::default();
        (sample.gauges.items, sample.counters.out_of_memory) = (3, 3);
        let newest = serde_json::to_value(&sample).unwrap();
        assert_eq!(Figures::of_command(&newest), Figures::of_sample(&sample));
    }
}
