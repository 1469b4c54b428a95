//! Metrics of a listener's connections.

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::metrics::CounterBy;

/// Why a connection is refused: see `Rejection`.
const REFUSED: [&str; 2] = ["source_limit", "total_limit"];
/// Why a connection is closed: see `Timeout`, and `Rejection` for those that make room.
const CLOSED: [&str; 6] =
    ["head_timeout", "idle_timeout", "body_timeout", "write_timeout", "source_limit", "total_limit"];

/// Counts the connections of a listener. Clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct ConnectionMetrics {
    pub(super) open: Gauge,
    pub(super) waiting: Gauge,
    refused: CounterBy,
    closed: CounterBy,
}

impl ConnectionMetrics {
    /// Registers them in a registry whose prefix names the listener.
    pub fn register(registry: &mut Registry) -> Self {
        let open = Gauge::default();
        registry.register("connections", "Open HTTP connections", open.clone());
        let waiting = Gauge::default();
        let help = "HTTP connections that wait until another ends";
        registry.register("connections_waiting", help, waiting.clone());
        let refused = CounterBy::register(
            registry,
            "connections_refused",
            "HTTP connections refused: too many of one source or in total",
            "cause",
            REFUSED,
        );
        let closed = CounterBy::register(
            registry,
            "connections_closed",
            "HTTP connections closed by a time limit, or for a new one",
            "cause",
            CLOSED,
        );
        Self { open, waiting, refused, closed }
    }

    pub(super) fn count_rejection(&self, cause: &'static str) {
        self.refused.inc(cause);
    }

    pub(super) fn count_close(&self, cause: &'static str) {
        self.closed.inc(cause);
    }
}
