//! The proxy's numbers. Labels are few and bounded; a user is never one.

pub(crate) mod denials;
pub(crate) mod usage;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use rustls::HandshakeKind;

use crate::login::outcome::LoginOutcome;
use denials::Denials;
use usage::{BUCKETS, Counts};

/// The bound of the first bucket of latencies, in seconds.
const MICROSECOND: f64 = 0.000_001;

#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Connections, logged in or not.
    pub(crate) connections: Gauge,
    pub(crate) logins: Family<Login, Counter>,
    pub(crate) denials: Denials,
    handshakes: Family<Handshake, Counter>,
    pub(crate) lane_failures: Counter,
    operations: Family<Operation, Counter>,
    bytes: Family<Bytes, Counter>,
    errors: Counter,
    latency: Arc<Latency>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    kind: OperationKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum OperationKind {
    Hit,
    Miss,
    Store,
    Delete,
    Arithmetic,
    Touch,
    Other,
}

impl EncodeLabelValue for OperationKind {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        let value = match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Store => "store",
            Self::Delete => "delete",
            Self::Arithmetic => "arithmetic",
            Self::Touch => "touch",
            Self::Other => "other",
        };
        value.encode(encoder)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Bytes {
    direction: Direction,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Direction {
    In,
    Out,
}

impl EncodeLabelValue for Direction {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        let value = match self {
            Self::In => "in",
            Self::Out => "out",
        };
        value.encode(encoder)
    }
}

/// A histogram that is added to by the bucketful: workers count on their own.
#[derive(Debug, Default)]
struct Latency {
    buckets: [AtomicU64; BUCKETS],
    micros: AtomicU64,
}

impl Collector for Latency {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut bound = MICROSECOND;
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
        let help = "From a request's last byte read to its reply written";
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
    outcome: HandshakeOutcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum HandshakeOutcome {
    Full,
    Resumed,
    Failed,
}

impl EncodeLabelValue for HandshakeOutcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        let value = match self {
            Self::Full => "full",
            Self::Resumed => "resumed",
            Self::Failed => "failed",
        };
        value.encode(encoder)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Login {
    pub(crate) outcome: LoginOutcome,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let proxy = registry.sub_registry_with_prefix("memgate_proxy");
        proxy.register("connections", "Client connections, logged in or not", metrics.connections.clone());
        proxy.register("logins", "Login attempts by outcome", metrics.logins.clone());
        let denials = metrics.denials.counted.clone();
        proxy.register("denials", "Logins and requests refused, by cause", denials);
        proxy.register("tls_handshakes", "TLS handshakes by outcome", metrics.handshakes.clone());
        proxy.register("operations", "Requests answered, by kind", metrics.operations.clone());
        proxy.register("bytes", "Bytes to and from clients that have logged in", metrics.bytes.clone());
        proxy.register("errors", "Requests that memcached didn't answer", metrics.errors.clone());
        proxy.register("lane_failures", "Lanes that ended by a fault", metrics.lane_failures.clone());
        registry.register_collector(Box::new(metrics.latency.clone()));
        metrics
    }

    /// Adds what a worker has counted.
    pub(crate) fn count(&self, counts: &Counts, latency: &[u64; BUCKETS]) {
        for (kind, count) in [
            (OperationKind::Hit, counts.hits),
            (OperationKind::Miss, counts.misses),
            (OperationKind::Store, counts.stores),
            (OperationKind::Delete, counts.deletes),
            (OperationKind::Arithmetic, counts.arithmetic),
            (OperationKind::Touch, counts.touches),
            (OperationKind::Other, counts.others),
        ] {
            self.operations.get_or_create(&Operation { kind }).inc_by(count);
        }
        for (direction, bytes) in [(Direction::In, counts.bytes_in), (Direction::Out, counts.bytes_out)] {
            self.bytes.get_or_create(&Bytes { direction }).inc_by(bytes);
        }
        self.errors.inc_by(counts.errors);
        for (bucket, count) in self.latency.buckets.iter().zip(latency) {
            bucket.fetch_add(*count, Ordering::Relaxed);
        }
        self.latency.micros.fetch_add(counts.micros, Ordering::Relaxed);
    }

    /// How a handshake has gone; `None` when it failed.
    pub(crate) fn handshake(&self, kind: Option<HandshakeKind>) {
        let outcome = match kind {
            Some(HandshakeKind::Resumed) => HandshakeOutcome::Resumed,
            Some(_) => HandshakeOutcome::Full,
            None => HandshakeOutcome::Failed,
        };
        self.handshakes.get_or_create(&Handshake { outcome }).inc();
    }

    pub(crate) fn login(&self, outcome: LoginOutcome) {
        self.logins.get_or_create(&Login { outcome }).inc();
    }
}

/// Counts a connection for as long as it lives.
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
