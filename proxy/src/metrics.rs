//! The proxy's Prometheus metrics. Labels have few values, in snake_case; a user or a cache is never one.

pub(crate) mod admission;
pub(crate) mod denials;
pub(crate) mod usage;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use rustls::HandshakeKind;

use crate::login::outcome::LoginOutcome;
use admission::AdmissionMetrics;
use denials::Denials;
use usage::{BUCKETS, Counts};

/// Upper bound of the first latency bucket, in seconds.
const LATENCY_BUCKET_MIN: f64 = 0.000_001;

#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Client connections, authenticated or not.
    pub(crate) connections: Gauge,
    /// What clients' connections hold; see [`crate::buffers`].
    pub(crate) buffered: Gauge,
    pub(crate) admission: AdmissionMetrics,
    logins: Family<Login, Counter>,
    pub(crate) denials: Denials,
    handshakes: Family<Handshake, Counter>,
    pub(crate) lane_failures: Counter,
    panics: Counter,
    lane_errors: Family<LaneErrorLabels, Counter>,
    operations: Family<Operation, Counter>,
    bytes: Family<Bytes, Counter>,
    errors: Counter,
    latency: Arc<Latency>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Bytes {
    direction: &'static str,
}

/// A histogram to which each worker adds whole buckets; workers count without sharing.
#[derive(Debug, Default)]
struct Latency {
    buckets: [AtomicU64; BUCKETS],
    micros: AtomicU64,
}

impl Collector for Latency {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut bound = LATENCY_BUCKET_MIN;
        let mut buckets = Vec::with_capacity(BUCKETS);
        for bucket in &self.buckets {
            buckets.push((bound, bucket.load(Ordering::Relaxed)));
            bound *= 2.0;
        }
        if let Some((bound, _)) = buckets.last_mut() {
            *bound = f64::MAX;
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

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Handshake {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Login {
    outcome: &'static str,
}

/// What a backend did that no instance of ours does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum LaneError {
    ProtocolViolation,
    NotAnInstance,
    WrongSecret,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LaneErrorLabels {
    cause: &'static str,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let proxy = registry.sub_registry_with_prefix("memgate_proxy");
        let metrics = Self { admission: AdmissionMetrics::register(proxy), ..Self::default() };
        proxy.register(
            "connections",
            "Open client connections, authenticated or not",
            metrics.connections.clone(),
        );
        proxy.register(
            "buffered_bytes",
            "Bytes of unfinished requests and unread replies",
            metrics.buffered.clone(),
        );
        proxy.register("logins", "Login attempts by outcome", metrics.logins.clone());
        let denials = metrics.denials.by_cause.clone();
        proxy.register("denials", "Denied logins and requests by cause", denials);
        proxy.register("tls_handshakes", "TLS handshakes by outcome", metrics.handshakes.clone());
        proxy.register("operations", "Requests answered by kind", metrics.operations.clone());
        proxy.register(
            "traffic_bytes",
            "Bytes from (in) and to (out) authenticated clients",
            metrics.bytes.clone(),
        );
        proxy.register(
            "request_errors",
            "Requests that failed because the backend did not answer",
            metrics.errors.clone(),
        );
        proxy.register("lane_failures", "Lanes closed because of a failure", metrics.lane_failures.clone());
        proxy.register(
            "lane_errors",
            "Lanes refused or closed for what the backend answered, by cause",
            metrics.lane_errors.clone(),
        );
        proxy.register("panics", "Connections and lanes that ended in a panic", metrics.panics.clone());
        registry.register_collector(Box::new(metrics.latency.clone()));
        metrics
    }

    /// Adds the counts of one worker.
    pub(crate) fn count(&self, counts: &Counts, latency: &[u64; BUCKETS]) {
        for (kind, count) in [
            ("hit", counts.hits),
            ("miss", counts.misses),
            ("store", counts.stores),
            ("delete", counts.deletes),
            ("arithmetic", counts.arithmetic),
            ("touch", counts.touches),
            ("other", counts.others),
        ] {
            self.operations.get_or_create(&Operation { kind }).inc_by(count);
        }
        for (direction, bytes) in [("in", counts.bytes_in), ("out", counts.bytes_out)] {
            self.bytes.get_or_create(&Bytes { direction }).inc_by(bytes);
        }
        self.errors.inc_by(counts.errors);
        for (bucket, count) in self.latency.buckets.iter().zip(latency) {
            bucket.fetch_add(*count, Ordering::Relaxed);
        }
        self.latency.micros.fetch_add(counts.micros, Ordering::Relaxed);
    }

    /// The number of open client connections.
    pub(crate) fn connections_open(&self) -> usize {
        usize::try_from(self.connections.get()).unwrap_or(0)
    }

    /// Counts a TLS handshake; `None` means that it failed.
    pub(crate) fn handshake(&self, kind: Option<HandshakeKind>) {
        let outcome = match kind {
            Some(HandshakeKind::Resumed) => "resumed",
            Some(_) => "full",
            None => "failed",
        };
        self.handshakes.get_or_create(&Handshake { outcome }).inc();
    }

    /// Counts a lane that was refused or closed for what the backend answered.
    pub(crate) fn lane_error(&self, error: LaneError) {
        let cause = match error {
            LaneError::ProtocolViolation => "protocol_violation",
            LaneError::NotAnInstance => "not_an_instance",
            LaneError::WrongSecret => "wrong_secret",
        };
        self.lane_errors.get_or_create(&LaneErrorLabels { cause }).inc();
    }

    /// Counts a login attempt.
    pub(crate) fn login(&self, outcome: LoginOutcome) {
        self.logins.get_or_create(&Login { outcome: outcome.as_str() }).inc();
    }
}

/// Counts a panic, if the task that holds it ends in one.
pub(crate) struct PanicGuard(Counter);

impl PanicGuard {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self(metrics.panics.clone())
    }
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.inc();
        }
    }
}

/// Counts a connection in a gauge until it is dropped.
pub(crate) struct ConnectionGuard(Gauge);

impl ConnectionGuard {
    pub(crate) fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::LocalSet;

    use super::*;

    // V-9.
    #[tokio::test]
    async fn a_panic_ends_one_task_and_is_counted() {
        let metrics = Metrics::default();
        let local = LocalSet::new();
        let task = |panics: bool| {
            let guard = PanicGuard::new(&metrics);
            local.spawn_local(async move {
                let _guard = guard;
                tokio::task::yield_now().await;
                assert!(!panics, "on purpose");
            })
        };
        let (first, second) = (task(true), task(false));
        local.await;
        assert!(first.await.is_err_and(|error| error.is_panic()));
        assert!(second.await.is_ok());
        assert_eq!(metrics.panics.get(), 1);
    }
}
