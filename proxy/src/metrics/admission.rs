//! Unauthenticated connections: how many there are, and why some were closed for others.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, Default)]
pub(crate) struct AdmissionMetrics {
    open: Family<OpenLabels, Gauge>,
    closed: Family<ClosedLabels, Counter>,
    silent: Gauge,
    logging_in: Gauge,
    held: Gauge,
    closing: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OpenLabels {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClosedLabels {
    cause: &'static str,
}

/// Why an unauthenticated connection was refused, or closed for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClosedCause {
    /// The proxy has its maximum of connections.
    ConnectionLimit,
    /// The maximum of unauthenticated connections is reached, and none may close for this one.
    UnauthenticatedLimit,
    /// Too many logins in progress from its source.
    SourceLimit,
    /// Too many logins in progress from its network.
    NetworkLimit,
    /// A silent connection closed for a new one.
    SilentEvicted,
    /// An unfinished login closed for a new connection.
    LoginEvicted,
    /// No byte in time.
    SilentTimedOut,
}

impl AdmissionMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let mut metrics = Self::default();
        for (state, gauge) in [
            ("silent", &mut metrics.silent),
            ("logging_in", &mut metrics.logging_in),
            ("held", &mut metrics.held),
            ("closing", &mut metrics.closing),
        ] {
            *gauge = metrics.open.get_or_create(&OpenLabels { state }).clone();
        }
        registry.register(
            "unauthenticated_connections",
            "Open connections that count in no plan, by state",
            metrics.open.clone(),
        );
        registry.register(
            "admission_closed",
            "Unauthenticated connections refused or closed for others, by cause",
            metrics.closed.clone(),
        );
        metrics
    }

    pub(crate) fn set_open(&self, silent: usize, logging_in: usize, held: usize, closing: usize) {
        for (gauge, count) in [
            (&self.silent, silent),
            (&self.logging_in, logging_in),
            (&self.held, held),
            (&self.closing, closing),
        ] {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    pub(crate) fn closed(&self, cause: ClosedCause) {
        let cause = match cause {
            ClosedCause::ConnectionLimit => "connection_limit",
            ClosedCause::UnauthenticatedLimit => "unauthenticated_limit",
            ClosedCause::SourceLimit => "source_limit",
            ClosedCause::NetworkLimit => "network_limit",
            ClosedCause::SilentEvicted => "silent_evicted",
            ClosedCause::LoginEvicted => "login_evicted",
            ClosedCause::SilentTimedOut => "silent_timed_out",
        };
        self.closed.get_or_create(&ClosedLabels { cause }).inc();
    }
}
