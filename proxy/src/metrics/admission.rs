//! Unauthenticated connections: how many there are, and why some were rejected or closed for others.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, Default)]
pub(crate) struct AdmissionMetrics {
    open: Family<OpenLabels, Gauge>,
    rejections: Family<CauseLabels, Counter>,
    evictions: Family<CauseLabels, Counter>,
    awaiting_proxy_header: Gauge,
    silent: Gauge,
    logging_in: Gauge,
    authenticated: Gauge,
    closing: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OpenLabels {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CauseLabels {
    cause: &'static str,
}

/// Numbers of open connections that count in no plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct OpenCounts {
    pub(crate) awaiting_proxy_header: usize,
    pub(crate) silent: usize,
    pub(crate) logging_in: usize,
    pub(crate) authenticated: usize,
    pub(crate) closing: usize,
}

/// Why a connection was rejected when it was accepted, or when it began to log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RejectionCause {
    /// The proxy has its maximum of connections.
    Connections,
    /// The maximum of unauthenticated connections is reached, and none may close for this one.
    Unauthenticated,
    /// Too many logins in progress from its source.
    Source,
    /// Too many logins in progress from its network.
    Network,
}

/// Why a connection was closed before it had logged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EvictionCause {
    /// A silent connection, for a new one.
    Silent,
    /// An unfinished login, for a new connection.
    Login,
    /// Too many logins in progress from its source.
    SourceLimit,
    /// Too many logins in progress from its network.
    NetworkLimit,
    /// No byte in time.
    SilentTimedOut,
}

impl AdmissionMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let mut metrics = Self::default();
        for (state, gauge) in [
            ("awaiting_proxy_header", &mut metrics.awaiting_proxy_header),
            ("silent", &mut metrics.silent),
            ("logging_in", &mut metrics.logging_in),
            ("authenticated", &mut metrics.authenticated),
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
            "admission_rejections",
            "Connections rejected before a login, by cause",
            metrics.rejections.clone(),
        );
        registry.register(
            "admission_evictions",
            "Admitted connections closed before they had logged in, for others or for their silence, by cause",
            metrics.evictions.clone(),
        );
        metrics
    }

    pub(crate) fn set_open(&self, open: &OpenCounts) {
        for (gauge, count) in [
            (&self.awaiting_proxy_header, open.awaiting_proxy_header),
            (&self.silent, open.silent),
            (&self.logging_in, open.logging_in),
            (&self.authenticated, open.authenticated),
            (&self.closing, open.closing),
        ] {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    pub(crate) fn rejected(&self, cause: RejectionCause) {
        let cause = match cause {
            RejectionCause::Connections => "connection_limit",
            RejectionCause::Unauthenticated => "unauthenticated_limit",
            RejectionCause::Source => "source_limit",
            RejectionCause::Network => "network_limit",
        };
        self.rejections.get_or_create(&CauseLabels { cause }).inc();
    }

    pub(crate) fn evicted(&self, cause: EvictionCause) {
        let cause = match cause {
            EvictionCause::Silent => "silent",
            EvictionCause::Login => "login",
            EvictionCause::SourceLimit => "source_limit",
            EvictionCause::NetworkLimit => "network_limit",
            EvictionCause::SilentTimedOut => "silent_timed_out",
        };
        self.evictions.get_or_create(&CauseLabels { cause }).inc();
    }
}
