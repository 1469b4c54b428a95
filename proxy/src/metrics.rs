//! The proxy's numbers. Labels are few and bounded; a user is never one.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Connections, logged in or not.
    pub(crate) connections: Gauge,
    pub(crate) logins: Family<Login, Counter>,
    /// Connections that ended before a login, by what they did.
    pub(crate) requests: Counter,
    pub(crate) lane_failures: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Login {
    pub(crate) outcome: LoginOutcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum LoginOutcome {
    Welcome,
    /// Not a token: mistyped, or something else altogether.
    Malformed,
    Unknown,
    Wrong,
    Revoked,
    Suspended,
    /// The store is away.
    Unavailable,
    /// The plan has no connection left.
    Full,
    /// Plaintext from a public address.
    Plaintext,
    TimedOut,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let proxy = registry.sub_registry_with_prefix("memgate_proxy");
        proxy.register("connections", "Client connections, logged in or not", metrics.connections.clone());
        proxy.register("logins", "Login attempts by outcome", metrics.logins.clone());
        proxy.register("requests", "Requests put on lanes", metrics.requests.clone());
        proxy.register("lane_failures", "Lanes that ended by a fault", metrics.lane_failures.clone());
        metrics
    }

    pub(crate) fn login(&self, outcome: LoginOutcome) {
        self.logins.get_or_create(&Login { outcome }).inc();
    }
}

/// Counts a connection for as long as it lives.
pub(crate) struct Counted(Gauge);

impl Counted {
    pub(crate) fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
