//! What operators count. No label names a user.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// How something ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Outcome {
    pub(crate) outcome: &'static str,
}

/// An answer's class: `2xx` to `5xx`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Class {
    pub(crate) status: &'static str,
}

#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) answers: Family<Class, Counter>,
    pub(crate) sign_ups: Family<Outcome, Counter>,
    pub(crate) sign_ins: Family<Outcome, Counter>,
    pub(crate) password_checks: Counter,
    pub(crate) live_streams: Gauge,
    pub(crate) leaked_tokens: Counter,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let ours = registry.sub_registry_with_prefix("memgate_webui");
        ours.register("answers", "HTTP answers by class", metrics.answers.clone());
        ours.register("sign_ups", "Sign-ups with valid fields", metrics.sign_ups.clone());
        ours.register("sign_ins", "Attempts to sign in", metrics.sign_ins.clone());
        ours.register("password_checks", "Passwords compared with a hash", metrics.password_checks.clone());
        ours.register("live_streams", "Pages that follow their cache now", metrics.live_streams.clone());
        ours.register(
            "leaked_tokens",
            "Tokens revoked because they were found in public",
            metrics.leaked_tokens.clone(),
        );
        metrics
    }

    pub(crate) fn sign_up(&self, outcome: &'static str) {
        self.sign_ups.get_or_create(&Outcome { outcome }).inc();
    }

    pub(crate) fn sign_in(&self, outcome: &'static str) {
        self.sign_ins.get_or_create(&Outcome { outcome }).inc();
    }

    pub(crate) fn answered(&self, status: u16) {
        let status = match status {
            100..=199 => "1xx",
            200..=299 => "2xx",
            300..=399 => "3xx",
            400..=499 => "4xx",
            _ => "5xx",
        };
        self.answers.get_or_create(&Class { status }).inc();
    }
}
