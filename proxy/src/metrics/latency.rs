//! The histogram of requests' latencies.

use std::fmt::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::usage::BUCKETS;

/// Upper bound of the first bucket, in seconds. Each bucket is twice as wide as the one before it.
const BUCKET_MIN: f64 = 0.000_001;

/// A histogram to which each worker adds whole buckets; workers count without sharing.
#[derive(Debug, Default)]
pub(super) struct Latency {
    buckets: [AtomicU64; BUCKETS],
    micros: AtomicU64,
}

impl Latency {
    /// Adds the counts of one worker.
    pub(super) fn add(&self, micros: u64, buckets: &[u64; BUCKETS]) {
        for (bucket, count) in self.buckets.iter().zip(buckets) {
            bucket.fetch_add(*count, Ordering::Relaxed);
        }
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }
}

impl Collector for Latency {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut bound = BUCKET_MIN;
        let mut buckets = Vec::with_capacity(BUCKETS);
        for bucket in &self.buckets {
            buckets.push((bound, bucket.load(Ordering::Relaxed)));
            bound *= 2.0;
        }
        if let Some((bound, _)) = buckets.last_mut() {
            *bound = f64::INFINITY;
        }
        let count = buckets.iter().fold(0, |sum: u64, (_, count)| sum.saturating_add(*count));
        let seconds = Duration::from_micros(self.micros.load(Ordering::Relaxed)).as_secs_f64();
        let help = "Time from reading a request's last byte to writing its reply";
        encoder
            .encode_descriptor(
                "memgate_proxy_request_duration",
                help,
                Some(&Unit::Seconds),
                MetricType::Histogram,
            )?
            .encode_histogram::<NoLabelSet>(seconds, count, &buckets, None)
    }
}
