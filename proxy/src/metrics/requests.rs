//! Requests by protocol: how many, how fast, and how many failed. Plain cells of a tenant, which a worker collects, and the
//! proxy's sums of them.

use std::cell::Cell;
use std::fmt::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::{Registry, Unit};

use crate::protocol::request::{Fault, Outcome, ReplyFormat};

/// Latency buckets, by powers of two of a microsecond: bucket `n` counts requests under `1 << n`, the last one all that
/// are longer.
pub(crate) const BUCKETS: usize = 24;
/// Upper bound of the first bucket, in seconds. Each bucket is twice as wide as the one before it.
const BUCKET_MIN: f64 = 0.000_001;
/// The values of the label `protocol`, in the order of [`index`].
const PROTOCOLS: [&str; 3] = ["text", "meta", "binary"];
const LABEL: &str = "protocol";

/// What one tenant's requests of one protocol came to since the last collection.
#[derive(Debug, Default)]
struct RequestCells {
    unavailable: Cell<u64>,
    timed_out: Cell<u64>,
    micros: Cell<u64>,
    latency: [Cell<u64>; BUCKETS],
}

/// The cells of all protocols.
#[derive(Debug, Default)]
pub(crate) struct Requests([RequestCells; PROTOCOLS.len()]);

/// The counts of one protocol.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestCounts {
    /// Requests that failed because the backend was unavailable.
    pub(crate) unavailable: u64,
    /// Requests that failed because the backend didn't answer in time.
    pub(crate) timed_out: u64,
    /// Total latency in microseconds.
    pub(crate) micros: u64,
    pub(crate) latency: [u64; BUCKETS],
}

/// The counts of all protocols.
pub(crate) type CountsByProtocol = [RequestCounts; PROTOCOLS.len()];

pub(super) fn add(sum: &Cell<u64>, more: u64) {
    sum.set(sum.get().saturating_add(more));
}

fn index(format: ReplyFormat) -> usize {
    match format {
        ReplyFormat::Text(_) => 0,
        ReplyFormat::Meta(_) => 1,
        ReplyFormat::Binary(_) => 2,
    }
}

impl Requests {
    /// Counts a request that was answered after `micros`.
    pub(super) fn answered(&self, format: ReplyFormat, outcome: &Outcome<'_>, micros: u32) {
        let Some(cells) = self.0.get(index(format)) else { return };
        match outcome {
            Outcome::Failed(Fault::Unavailable) => add(&cells.unavailable, 1),
            Outcome::Failed(Fault::TimedOut) => add(&cells.timed_out, 1),
            _ => {}
        }
        add(&cells.micros, u64::from(micros));
        let bucket = usize::try_from(u32::BITS - micros.leading_zeros()).unwrap_or(0).min(BUCKETS - 1);
        if let Some(bucket) = cells.latency.get(bucket) {
            add(bucket, 1);
        }
    }

    /// Returns the counts since the last call, and resets them.
    pub(super) fn take(&self) -> CountsByProtocol {
        self.0.each_ref().map(|cells| RequestCounts {
            unavailable: cells.unavailable.take(),
            timed_out: cells.timed_out.take(),
            micros: cells.micros.take(),
            latency: cells.latency.each_ref().map(Cell::take),
        })
    }
}

impl RequestCounts {
    /// Adds later counts.
    pub(crate) fn add(&mut self, later: &Self) {
        for (sum, more) in [
            (&mut self.unavailable, later.unavailable),
            (&mut self.timed_out, later.timed_out),
            (&mut self.micros, later.micros),
        ] {
            *sum = sum.saturating_add(more);
        }
        for (sum, more) in self.latency.iter_mut().zip(later.latency) {
            *sum = sum.saturating_add(more);
        }
    }

    /// Requests that failed.
    pub(crate) fn errors(&self) -> u64 {
        self.unavailable.saturating_add(self.timed_out)
    }
}

/// The latencies of all protocols, added up.
pub(crate) fn total_latency(requests: &CountsByProtocol) -> [u64; BUCKETS] {
    let mut total = RequestCounts::default();
    requests.iter().for_each(|counts| total.add(counts));
    total.latency
}

/// The proxy's sums. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct RequestMetrics {
    errors: Family<[(&'static str, &'static str); 2], Counter>,
    latency: Arc<Latency>,
}

impl RequestMetrics {
    pub(super) fn register(proxy: &mut Registry) -> Self {
        let metrics = Self::default();
        for protocol in PROTOCOLS {
            for cause in ["unavailable", "timed_out"] {
                drop(metrics.errors.get_or_create(&[(LABEL, protocol), ("cause", cause)]));
            }
        }
        proxy.register(
            "request_errors",
            "Requests that failed because the backend did not answer, by protocol and cause",
            metrics.errors.clone(),
        );
        proxy.register_collector(Box::new(metrics.latency.clone()));
        metrics
    }

    /// Adds the counts of one worker.
    pub(super) fn add(&self, requests: &CountsByProtocol) {
        for ((protocol, counts), latency) in PROTOCOLS.iter().zip(requests).zip(&self.latency.0) {
            for (cause, errors) in [("unavailable", counts.unavailable), ("timed_out", counts.timed_out)] {
                self.errors.get_or_create(&[(LABEL, *protocol), ("cause", cause)]).inc_by(errors);
            }
            latency.add(counts);
        }
    }
}

/// A histogram for each protocol.
#[derive(Debug, Default)]
struct Latency([Histogram; PROTOCOLS.len()]);

/// A histogram to which each worker adds whole buckets; workers count without sharing.
#[derive(Debug, Default)]
struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    micros: AtomicU64,
}

impl Histogram {
    fn add(&self, counts: &RequestCounts) {
        for (bucket, count) in self.buckets.iter().zip(counts.latency) {
            bucket.fetch_add(count, Ordering::Relaxed);
        }
        self.micros.fetch_add(counts.micros, Ordering::Relaxed);
    }

    /// Counts by upper bound in seconds.
    fn read(&self) -> Vec<(f64, u64)> {
        let mut bound = BUCKET_MIN;
        let mut buckets = Vec::with_capacity(BUCKETS);
        for bucket in &self.buckets {
            buckets.push((bound, bucket.load(Ordering::Relaxed)));
            bound *= 2.0;
        }
        if let Some((bound, _)) = buckets.last_mut() {
            *bound = f64::INFINITY;
        }
        buckets
    }

    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), Error> {
        let buckets = self.read();
        let count = buckets.iter().fold(0, |sum: u64, (_, count)| sum.saturating_add(*count));
        let seconds = Duration::from_micros(self.micros.load(Ordering::Relaxed)).as_secs_f64();
        encoder.encode_histogram::<NoLabelSet>(seconds, count, &buckets, None)
    }
}

impl Collector for Latency {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let help = "Time from reading a request's last byte to writing its reply, by protocol";
        let mut family = encoder.encode_descriptor(
            "request_duration",
            help,
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for (protocol, histogram) in PROTOCOLS.iter().zip(&self.0) {
            histogram.encode(family.encode_family(&[(LABEL, *protocol)])?)?;
        }
        Ok(())
    }
}
