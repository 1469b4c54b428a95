//! The proxy's Prometheus metrics. Labels have few values, in snake_case; a user or a cache is never one.

pub(crate) mod admission;
pub(crate) mod denials;
pub(crate) mod requests;
pub(crate) mod usage;

use daemon::metrics::{CallMetrics, CounterBy, GaugeBy, LastTime, duration_histogram};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use rustls::HandshakeKind;

use crate::login::outcome::LoginOutcome;
use admission::AdmissionMetrics;
use denials::Denials;
use requests::{CountsByProtocol, RequestMetrics};
use usage::Counts;

/// The calls of the store that are counted.
const STORE_CALLS: [&str; 7] = [
    "read_feed",
    "read_grant",
    "write_heartbeat",
    "write_usage",
    "write_token_uses",
    "write_denials",
    "request_wake",
];

#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Client connections, authenticated or not.
    pub(crate) connections: Gauge,
    /// As many as there may be.
    connections_limit: Gauge,
    /// Caches with an open session, each on one worker.
    pub(crate) active_caches: Gauge,
    /// Connections that have logged in.
    pub(crate) sessions: Gauge,
    /// What clients' connections hold; see [`crate::buffers`].
    pub(crate) buffered: Gauge,
    /// As much as that may be.
    buffered_limit: Gauge,
    pub(crate) admission: AdmissionMetrics,
    logins: CounterBy,
    /// Failed logins whose reply was delayed because many had failed before.
    pub(crate) throttled_logins: Counter,
    /// Connections that weren't read for a while, because they had exceeded a rate.
    pub(crate) throttled_sessions: Counter,
    /// Sessions that wait for a lane.
    pub(crate) held_sessions: Gauge,
    held_requests: CounterBy,
    pub(crate) denials: Denials,
    handshakes: CounterBy,
    /// Open lanes.
    pub(crate) lanes: LaneGauges,
    pub(crate) lane_failures: Counter,
    panics: Counter,
    lane_errors: CounterBy,
    operations: CounterBy,
    bytes: CounterBy,
    requests: RequestMetrics,
    pub(crate) store: CallMetrics,
    pub(crate) feed: FeedMetrics,
}

/// Numbers of open lanes.
#[derive(Debug, Default)]
pub(crate) struct LaneGauges {
    pub(crate) shared: Gauge,
    pub(crate) dedicated: Gauge,
}

/// How current the grants are.
#[derive(Debug)]
pub(crate) struct FeedMetrics {
    /// The revision up to which changes have been read.
    pub(crate) read: Gauge,
    /// The revision up to which the workers have applied them.
    pub(crate) applied: Gauge,
    /// When the store last answered.
    pub(crate) last_contact: LastTime,
    /// When all connections last were as the store said.
    pub(crate) last_current: LastTime,
    /// Seconds from reading a change to its applying to all connections.
    pub(crate) apply: Histogram,
}

/// What a backend did that no instance of ours does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum LaneError {
    ProtocolViolation,
    NotAnInstance,
    WrongSecret,
}

impl LaneError {
    const ALL: [Self; 3] = [Self::ProtocolViolation, Self::NotAnInstance, Self::WrongSecret];

    fn as_str(self) -> &'static str {
        match self {
            Self::ProtocolViolation => "protocol_violation",
            Self::NotAnInstance => "not_an_instance",
            Self::WrongSecret => "wrong_secret",
        }
    }
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let proxy = registry.sub_registry_with_prefix("memgate_proxy");
        let lanes = GaugeBy::register(proxy, "lanes", "Open lanes by kind", "kind", ["shared", "dedicated"]);
        let metrics = Self {
            admission: AdmissionMetrics::register(proxy),
            denials: Denials::register(proxy),
            lanes: LaneGauges { shared: lanes.of("shared"), dedicated: lanes.of("dedicated") },
            feed: FeedMetrics::register(proxy),
            requests: RequestMetrics::register(proxy),
            store: CallMetrics::register(proxy.sub_registry_with_prefix("store"), &STORE_CALLS),
            ..Self::counters_by_label(proxy)
        };
        for (name, help, gauge) in [
            ("connections", "Open client connections, authenticated or not", &metrics.connections),
            ("connections_limit", "Client connections that there may be", &metrics.connections_limit),
            ("sessions", "Open client connections that have logged in", &metrics.sessions),
            ("active_caches", "Caches with an open session", &metrics.active_caches),
            ("held_sessions", "Connections whose requests wait for their instance", &metrics.held_sessions),
            ("buffered_bytes", "Bytes of unfinished requests and unread replies", &metrics.buffered),
            ("buffered_bytes_limit", "Bytes of them that there may be", &metrics.buffered_limit),
        ] {
            proxy.register(name, help, gauge.clone());
        }
        for (name, help, counter) in [
            (
                "throttled_logins",
                "Failed logins whose reply was delayed because many had failed before",
                &metrics.throttled_logins,
            ),
            (
                "throttled_sessions",
                "Pauses of connections that had exceeded a rate",
                &metrics.throttled_sessions,
            ),
            ("lane_failures", "Lanes closed because of a failure", &metrics.lane_failures),
            ("panics", "Connections and lanes that ended in a panic", &metrics.panics),
        ] {
            proxy.register(name, help, counter.clone());
        }
        metrics
    }

    /// Registers the counters of the proxy that have a label.
    fn counters_by_label(proxy: &mut Registry) -> Self {
        let mut by = |name, help, label, values: &[&'static str]| {
            CounterBy::register(proxy, name, help, label, values.iter().copied())
        };
        Self {
            logins: by(
                "logins",
                "Login attempts by outcome",
                "outcome",
                &LoginOutcome::ALL.map(LoginOutcome::as_str),
            ),
            handshakes: by(
                "tls_handshakes",
                "TLS handshakes by outcome",
                "outcome",
                &["resumed", "full", "failed"],
            ),
            operations: by(
                "operations",
                "Requests answered by kind",
                "kind",
                &["hit", "miss", "store", "delete", "arithmetic", "touch", "other"],
            ),
            bytes: by(
                "traffic_bytes",
                "Bytes from (in) and to (out) authenticated clients",
                "direction",
                &["in", "out"],
            ),
            held_requests: by(
                "held_requests",
                "Requests that have waited for an instance that couldn't be reached, by outcome",
                "outcome",
                &["served", "expired"],
            ),
            lane_errors: by(
                "lane_errors",
                "Lanes refused or closed for what the backend answered, by cause",
                "cause",
                &LaneError::ALL.map(LaneError::as_str),
            ),
            ..Self::default()
        }
    }

    /// Adds the counts of one worker.
    pub(crate) fn count(&self, counts: &Counts, requests: &CountsByProtocol) {
        for (kind, count) in [
            ("hit", counts.hits),
            ("miss", counts.misses),
            ("store", counts.stores),
            ("delete", counts.deletes),
            ("arithmetic", counts.arithmetic),
            ("touch", counts.touches),
            ("other", counts.others),
        ] {
            self.operations.add(kind, count);
        }
        for (direction, bytes) in [("in", counts.bytes_in), ("out", counts.bytes_out)] {
            self.bytes.add(direction, bytes);
        }
        self.requests.add(requests);
    }

    /// Tells how many connections there may be, and how much they may hold in memory.
    pub(crate) fn set_limits(&self, connections: usize, buffer_bytes: usize) {
        self.connections_limit.set(i64::try_from(connections).unwrap_or(i64::MAX));
        self.buffered_limit.set(i64::try_from(buffer_bytes).unwrap_or(i64::MAX));
    }

    /// Whether there are as many client connections as there may be.
    pub(crate) fn is_full(&self) -> bool {
        self.connections.get() >= self.connections_limit.get()
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
        self.handshakes.inc(outcome);
    }

    /// Counts a lane that was refused or closed for what the backend answered.
    pub(crate) fn lane_error(&self, error: LaneError) {
        self.lane_errors.inc(error.as_str());
    }

    /// Counts a request that has waited for its instance, and whether it was served then.
    pub(crate) fn held(&self, is_served: bool) {
        self.held_requests.inc(if is_served { "served" } else { "expired" });
    }

    /// Counts a login attempt.
    pub(crate) fn login(&self, outcome: LoginOutcome) {
        self.logins.inc(outcome.as_str());
    }
}

impl FeedMetrics {
    fn register(proxy: &mut Registry) -> Self {
        let (read, applied) = (Gauge::default(), Gauge::default());
        proxy.register(
            "feed_read_revision",
            "Revision of the store up to which changes were read",
            read.clone(),
        );
        proxy.register(
            "feed_applied_revision",
            "Revision of the store up to which changes apply to all connections",
            applied.clone(),
        );
        let name = "feed_last_contact_timestamp_seconds";
        let last_contact =
            LastTime::register(proxy, name, "When the store last told whether there are changes");
        let last_current = LastTime::register(
            proxy,
            "feed_last_current_timestamp_seconds",
            "When all connections last were as the store said",
        );
        let apply = duration_histogram();
        proxy.register(
            "feed_apply_duration_seconds",
            "Time from reading changes until they apply to all connections",
            apply.clone(),
        );
        Self { read, applied, last_contact, last_current, apply }
    }
}

impl Default for FeedMetrics {
    fn default() -> Self {
        Self::register(&mut Registry::default())
    }
}

/// When the certificate in use ends.
#[derive(Debug, Default)]
pub(crate) struct CertificateEnd(Gauge);

impl CertificateEnd {
    /// Only for a proxy with a certificate: an alert must not take 1970 for its end.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let end = Self::default();
        registry.sub_registry_with_prefix("memgate_proxy").register(
            "tls_certificate_end_timestamp_seconds",
            "When the TLS certificate in use ends, in seconds since 1970",
            end.0.clone(),
        );
        end
    }

    /// Sets it to a time in seconds since 1970.
    pub(crate) fn set(&self, end: i64) {
        self.0.set(end);
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
