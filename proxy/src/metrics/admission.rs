//! Unauthenticated connections: how many there are, and why some were rejected or closed for others.

use daemon::metrics::{CounterBy, GaugeBy};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, Default)]
pub(crate) struct AdmissionMetrics {
    rejections: CounterBy,
    evictions: CounterBy,
    awaiting_proxy_header: Gauge,
    silent: Gauge,
    logging_in: Gauge,
    authenticated: Gauge,
    closing: Gauge,
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
        let open = GaugeBy::register(
            registry,
            "unauthenticated_connections",
            "Open connections that count in no plan, by state",
            "state",
            ["awaiting_proxy_header", "silent", "logging_in", "authenticated", "closing"],
        );
        let rejections = CounterBy::register(
            registry,
            "admission_rejections",
            "Connections rejected before a login, by cause",
            "cause",
            RejectionCause::ALL.map(RejectionCause::as_str),
        );
        let evictions = CounterBy::register(
            registry,
            "admission_evictions",
            "Admitted connections closed before they had logged in, for others or for their silence, by cause",
            "cause",
            EvictionCause::ALL.map(EvictionCause::as_str),
        );
        Self {
            rejections,
            evictions,
            awaiting_proxy_header: open.of("awaiting_proxy_header"),
            silent: open.of("silent"),
            logging_in: open.of("logging_in"),
            authenticated: open.of("authenticated"),
            closing: open.of("closing"),
        }
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
        self.rejections.inc(cause.as_str());
    }

    pub(crate) fn evicted(&self, cause: EvictionCause) {
        self.evictions.inc(cause.as_str());
    }
}

impl RejectionCause {
    const ALL: [Self; 4] = [Self::Connections, Self::Unauthenticated, Self::Source, Self::Network];

    fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connection_limit",
            Self::Unauthenticated => "unauthenticated_limit",
            Self::Source => "source_limit",
            Self::Network => "network_limit",
        }
    }
}

impl EvictionCause {
    const ALL: [Self; 5] =
        [Self::Silent, Self::Login, Self::SourceLimit, Self::NetworkLimit, Self::SilentTimedOut];

    fn as_str(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Login => "login",
            Self::SourceLimit => "source_limit",
            Self::NetworkLimit => "network_limit",
            Self::SilentTimedOut => "silent_timed_out",
        }
    }
}
