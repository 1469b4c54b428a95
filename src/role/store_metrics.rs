//! Metrics of a role's connections to the store and its writes, `memgate_store_*`. Read whenever they are asked for.

use std::fmt::Error;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use store::{PoolUse, Store};

/// The metrics of a store, whose clones the role uses.
pub(super) fn of(store: Store) -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(StoreCollector(store)));
    registry
}

#[derive(Debug)]
struct StoreCollector(Store);

impl Collector for StoreCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        encode_pools(&mut encoder, &self.0.pool_use())?;
        self.encode_writes(&mut encoder)
    }
}

impl StoreCollector {
    fn encode_writes(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let writes = self.0.write_counts();
        let count = writes.durations.iter().map(|(_, count)| count).sum();
        let (name, help) = ("memgate_store_write_duration", "Duration of writes that the database took");
        encoder
            .encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?
            .encode_histogram::<NoLabelSet>(writes.seconds, count, &writes.durations, None)?;
        let help = "Writes that failed because the database did, or that took too long";
        let errors = ConstCounter::new(writes.failed);
        errors.encode(encoder.encode_descriptor(
            "memgate_store_write_errors",
            help,
            None,
            MetricType::Counter,
        )?)?;
        let (name, help) =
            ("memgate_store_last_write_timestamp", "When the database last took a write; 0 if it never has");
        let age = self.0.write_health().last_success;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let last = age.map_or(0.0, |age| now.saturating_sub(age).as_secs_f64());
        let gauge = ConstGauge::new(last);
        gauge.encode(encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?)
    }
}

fn encode_pools(encoder: &mut DescriptorEncoder<'_>, pools: &[PoolUse]) -> Result<(), Error> {
    let number = |count: usize| ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
    let help = "Open connections to the database by pool and state";
    let mut family = encoder.encode_descriptor("memgate_store_connections", help, None, MetricType::Gauge)?;
    for pool in pools {
        for (state, count) in [("in_use", pool.in_use), ("idle", pool.idle)] {
            number(count).encode(family.encode_family(&[("pool", pool.name), ("state", state)])?)?;
        }
    }
    let help = "Connections to the database that there may be, by pool";
    let mut family =
        encoder.encode_descriptor("memgate_store_connections_limit", help, None, MetricType::Gauge)?;
    for pool in pools {
        number(pool.max).encode(family.encode_family(&[("pool", pool.name)])?)?;
    }
    Ok(())
}
