//! What is known of a cache, as metrics `memgate_cache_*`.

use std::fmt::Error;
use std::time::Duration;

use daemon::metrics::CounterBy;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use store::{Cache, Instance, InstanceState, InstanceStatistics, Usage};

/// What the store has of a cache.
#[derive(Debug)]
pub(super) struct CacheFigures {
    pub(super) cache: Cache,
    pub(super) instance: Instance,
    /// What applications have done since the cache was created.
    pub(super) usage: Usage,
    /// Pairs of an upper bound in microseconds and a number of requests, ascending.
    pub(super) latency: Vec<(i64, i64)>,
    pub(super) connections: i64,
    /// What memcached last said; `None` if it hasn't lately.
    pub(super) newest: Option<InstanceStatistics>,
}

impl CacheFigures {
    /// The metrics.
    pub(super) fn registry(self) -> Registry {
        let mut registry = Registry::with_prefix("memgate_cache");
        let (cache, state) = (&self.cache, self.instance.state().as_str());
        let labels =
            vec![("cache", cache.name.clone()), ("plan", cache.plan.clone()), ("state", state.to_owned())];
        registry.register("description", "Which cache this is, its plan and its state", Info::new(labels));
        self.register_usage(&mut registry);
        registry.register_collector(Box::new(self));
        registry
    }

    fn register_usage(&self, registry: &mut Registry) {
        let it = &self.usage;
        let operations = [
            ("hit", it.hits),
            ("miss", it.misses),
            ("store", it.stores),
            ("delete", it.deletes),
            ("arithmetic", it.arithmetic),
            ("touch", it.touches),
            ("other", it.others),
        ];
        let traffic = [("in", it.bytes_in), ("out", it.bytes_out)];
        let (operations_help, traffic_help) = (
            "Operations of applications since the cache was created, by kind",
            "Bytes from (in) and to (out) applications",
        );
        let names = operations.map(|(kind, _)| kind);
        let by_kind = CounterBy::register(registry, "operations", operations_help, "kind", names);
        let names = traffic.map(|(direction, _)| direction);
        let by_direction = CounterBy::register(registry, "traffic_bytes", traffic_help, "direction", names);
        operations.into_iter().for_each(|(kind, count)| by_kind.add(kind, unsigned(count)));
        traffic.into_iter().for_each(|(direction, bytes)| by_direction.add(direction, unsigned(bytes)));
    }

    fn encode_latency(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut buckets: Vec<(f64, u64)> = Vec::with_capacity(self.latency.len() + 1);
        let (mut count, mut micros) = (0_u64, 0_u64);
        for (upper_us, requests) in &self.latency {
            let (upper_us, requests) = (upper_us.unsigned_abs(), unsigned(*requests));
            count = count.saturating_add(requests);
            // The lower bound is half of the upper one.
            micros = micros.saturating_add((upper_us / 4 * 3).saturating_mul(requests));
            buckets.push((Duration::from_micros(upper_us).as_secs_f64(), requests));
        }
        buckets.push((f64::INFINITY, 0));
        let help = "Time from reading a request to writing its reply in the proxy; the sum is estimated from the buckets";
        encoder
            .encode_descriptor("request_duration", help, Some(&Unit::Seconds), MetricType::Histogram)?
            .encode_histogram::<NoLabelSet>(Duration::from_micros(micros).as_secs_f64(), count, &buckets, None)
    }
}

impl Collector for CacheFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        self.encode_latency(&mut encoder)?;
        for (name, help, value) in [
            ("connections", "Open client connections", self.connections),
            ("connections_limit", "Client connections that there may be", self.instance.connections),
            (
                "up",
                "1 while the cache runs, otherwise 0",
                i64::from(self.instance.state() == InstanceState::Running),
            ),
        ] {
            let descriptor = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(descriptor)?;
        }
        let errors = ("errors", "Operations that failed because memcached didn't answer", self.usage.errors);
        encode_counter(&mut encoder, errors)?;
        let Some(newest) = &self.newest else { return Ok(()) };
        let gauges = &newest.gauges;
        for (name, help, value) in [
            ("memory_bytes", "Bytes that items use", gauges.bytes),
            ("memory_limit_bytes", "Bytes that items may use", gauges.limit_bytes),
            ("items", "Items, expired ones too until memcached finds them", gauges.items),
            ("uptime_seconds", "Time since memcached started", newest.uptime_seconds),
        ] {
            let descriptor = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(descriptor)?;
        }
        let counters = &newest.counters;
        for counter in [
            ("evictions", "Items that were removed to make room", counters.evictions),
            ("evicted_unfetched", "Those of them that nobody had read", counters.evicted_unfetched),
            ("out_of_memory_errors", "Stores that failed because there was no room", counters.out_of_memory),
        ] {
            encode_counter(&mut encoder, counter)?;
        }
        let sampled = newest.sampled_at.as_millis().div_euclid(1000);
        let help = "When memcached last said how much memory, items and evictions it has";
        let name = "sampled_timestamp_seconds";
        ConstGauge::new(sampled).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
    }
}

fn encode_counter(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help, value): (&str, &str, i64),
) -> Result<(), Error> {
    let counter = ConstCounter::new(unsigned(value));
    counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)
}

/// A count; a broken proxy may have written any number.
fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or_default()
}
