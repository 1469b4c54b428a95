//! Prometheus metrics of this role. No label names a user.

use daemon::http::ConnectionMetrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Outcome {
    pub(crate) outcome: &'static str,
}

/// Which limit refused a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Cause {
    cause: &'static str,
}

/// Class of a response: `2xx` to `5xx`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct StatusClass {
    pub(crate) status: &'static str,
}

#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) connections: ConnectionMetrics,
    limited: Family<Cause, Counter>,
    pub(crate) responses: Family<StatusClass, Counter>,
    pub(crate) sign_ups: Family<Outcome, Counter>,
    near_limit: Family<Cause, Counter>,
    pub(crate) sign_ins: Family<Outcome, Counter>,
    pub(crate) sign_in_delays: Counter,
    pub(crate) password_checks: Counter,
    pub(crate) password_refusals: Counter,
    pub(crate) event_streams: Gauge,
    pub(crate) leaked_tokens: Counter,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let ours = registry.sub_registry_with_prefix("memgate_webui");
        let metrics = Self { connections: ConnectionMetrics::register(ours), ..Self::default() };
        ours.register("limited", "Requests refused by a limit, by its name", metrics.limited.clone());
        ours.register("responses", "HTTP responses by class", metrics.responses.clone());
        ours.register("sign_ups", "Sign-ups with valid fields", metrics.sign_ups.clone());
        ours.register(
            "sign_ups_near_limit",
            "Accounts created while four fifths of a limit on all sign-ups are used up, by the limit",
            metrics.near_limit.clone(),
        );
        ours.register("sign_ins", "Attempts to sign in", metrics.sign_ins.clone());
        ours.register(
            "sign_in_delays",
            "Attempts to sign in that were delayed after many failed ones",
            metrics.sign_in_delays.clone(),
        );
        ours.register("password_checks", "Passwords compared with a hash", metrics.password_checks.clone());
        ours.register(
            "password_refusals",
            "Passwords not hashed because too many waited",
            metrics.password_refusals.clone(),
        );
        ours.register("event_streams", "Open event streams", metrics.event_streams.clone());
        ours.register(
            "leaked_tokens",
            "Tokens revoked because they were found in public",
            metrics.leaked_tokens.clone(),
        );
        metrics
    }

    pub(crate) fn count_limited(&self, cause: &'static str) {
        self.limited.get_or_create(&Cause { cause }).inc();
    }

    pub(crate) fn count_sign_up(&self, outcome: &'static str) {
        self.sign_ups.get_or_create(&Outcome { outcome }).inc();
    }

    pub(crate) fn count_near_limit(&self, cause: &'static str) {
        self.near_limit.get_or_create(&Cause { cause }).inc();
    }

    pub(crate) fn count_sign_in(&self, outcome: &'static str) {
        self.sign_ins.get_or_create(&Outcome { outcome }).inc();
    }

    pub(crate) fn count_response(&self, status: u16) {
        let status = match status {
            100..=199 => "1xx",
            200..=299 => "2xx",
            300..=399 => "3xx",
            400..=499 => "4xx",
            _ => "5xx",
        };
        self.responses.get_or_create(&StatusClass { status }).inc();
    }
}
