//! What the metrics of all roles have in common: series with one label, times, calls of another service, the process, and
//! the two text formats.

mod calls;
mod process;
mod text;

use std::sync::atomic::AtomicU64;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry};

pub use calls::{CallMetrics, PendingCall};
pub(crate) use process::register as register_process;
pub use text::{MetricsText, encode};

type Label = [(&'static str, &'static str); 1];

/// Counters that differ in the value of one label. Clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct CounterBy {
    label: &'static str,
    counters: Family<Label, Counter>,
}

/// Gauges that differ in the value of one label. Clones share the values.
#[derive(Debug, Clone, Default)]
pub struct GaugeBy {
    label: &'static str,
    gauges: Family<Label, Gauge>,
}

/// The time when something last happened, in seconds since 1970; 0 if it never has. Clones share the time.
#[derive(Debug, Clone, Default)]
pub struct LastTime(Gauge<f64, AtomicU64>);

impl CounterBy {
    /// Registers counters for each of `values` of `label`. All of them are shown from the start, because an increase is
    /// only seen after a zero.
    pub fn register(
        registry: &mut Registry,
        name: &str,
        help: &str,
        label: &'static str,
        values: impl IntoIterator<Item = &'static str>,
    ) -> Self {
        Self { label, counters: register_by(registry, name, help, label, values) }
    }

    /// Counts one more.
    pub fn inc(&self, value: &'static str) {
        self.add(value, 1);
    }

    /// Counts `more`.
    pub fn add(&self, value: &'static str, more: u64) {
        self.counters.get_or_create(&[(self.label, value)]).inc_by(more);
    }

    /// The count.
    #[must_use]
    pub fn get(&self, value: &'static str) -> u64 {
        self.counters.get_or_create(&[(self.label, value)]).get()
    }
}

impl GaugeBy {
    /// Registers gauges for each of `values` of `label`, all of them 0.
    pub fn register(
        registry: &mut Registry,
        name: &str,
        help: &str,
        label: &'static str,
        values: impl IntoIterator<Item = &'static str>,
    ) -> Self {
        Self { label, gauges: register_by(registry, name, help, label, values) }
    }

    /// Sets a gauge to a number of things.
    pub fn set(&self, value: &'static str, count: usize) {
        self.gauges.get_or_create(&[(self.label, value)]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// One gauge, for what changes it often.
    #[must_use]
    pub fn of(&self, value: &'static str) -> Gauge {
        self.gauges.get_or_create(&[(self.label, value)]).clone()
    }
}

impl LastTime {
    /// Registers it. `name` ends in `_timestamp_seconds`.
    pub fn register(registry: &mut Registry, name: &str, help: &str) -> Self {
        let time = Self::default();
        registry.register(name, help, time.0.clone());
        time
    }

    /// It happens now.
    pub fn set_now(&self) {
        self.0.set(seconds_since_1970());
    }
}

/// Registers a metric for each of `values` of `label`.
fn register_by<M>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    label: &'static str,
    values: impl IntoIterator<Item = &'static str>,
) -> Family<Label, M>
where
    Family<Label, M>: Metric,
    M: Default,
{
    let family = Family::<Label, M>::default();
    values.into_iter().for_each(|value| drop(family.get_or_create(&[(label, value)])));
    registry.register(name, help, family.clone());
    family
}

/// A histogram of durations in seconds, from 1 ms to 32 s.
#[must_use]
pub fn duration_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 16))
}

fn seconds_since_1970() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

#[cfg(test)]
mod tests;
