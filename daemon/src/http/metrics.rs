//! Metrics of a listener's connections.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Why a connection was refused or closed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Cause {
    cause: &'static str,
}

/// Counts the connections of a listener. Clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct ConnectionMetrics {
    pub(super) open: Gauge,
    refused: Family<Cause, Counter>,
    closed: Family<Cause, Counter>,
}

impl ConnectionMetrics {
    /// Registers them in a registry whose prefix names the listener.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("connections", "Open HTTP connections", metrics.open.clone());
        registry.register(
            "connections_refused",
            "HTTP connections refused: too many of one source or in total",
            metrics.refused.clone(),
        );
        registry.register(
            "connections_closed",
            "HTTP connections closed by a time limit, or for a new one",
            metrics.closed.clone(),
        );
        metrics
    }

    pub(super) fn count_rejection(&self, cause: &'static str) {
        self.refused.get_or_create(&Cause { cause }).inc();
    }

    pub(super) fn count_close(&self, cause: &'static str) {
        self.closed.get_or_create(&Cause { cause }).inc();
    }
}
