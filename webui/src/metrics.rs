//! Prometheus metrics of this role. No label names a user.

use std::time::Duration;

use daemon::http::ConnectionMetrics;
use daemon::metrics::{CallMetrics, CounterBy, duration_histogram};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use store::NotificationKind;

/// The calls of the store that are counted.
const STORE_CALLS: [&str; 2] = ["ping", "read_session"];

#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) connections: ConnectionMetrics,
    limited: CounterBy,
    responses: CounterBy,
    /// Seconds from a request's head to its response's.
    request_duration: Histogram,
    sign_ups: CounterBy,
    near_limit: CounterBy,
    sign_ins: CounterBy,
    pub(crate) sign_in_delays: Counter,
    pub(crate) password_checks: Counter,
    pub(crate) password_refusals: Counter,
    pub(crate) event_streams: Gauge,
    pub(crate) leaked_tokens: Counter,
    mails: CounterBy,
    waiting_mails: Gauge,
    notifications: CounterBy,
    deliveries: CounterBy,
    due_deliveries: Gauge,
    pub(crate) store: CallMetrics,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let ours = registry.sub_registry_with_prefix("memgate_webui");
        let metrics = Self {
            connections: ConnectionMetrics::register(ours),
            // Each page names its own limits.
            limited: CounterBy::register(
                ours,
                "limited",
                "Requests refused by a limit, by its name",
                "cause",
                [],
            ),
            responses: CounterBy::register(
                ours,
                "responses",
                "HTTP responses by class",
                "status",
                ["1xx", "2xx", "3xx", "4xx", "5xx"],
            ),
            request_duration: duration_histogram(),
            sign_ups: CounterBy::register(
                ours,
                "sign_ups",
                "Sign-ups with valid fields",
                "outcome",
                ["success", "taken", "limited"],
            ),
            near_limit: CounterBy::register(
                ours,
                "sign_ups_near_limit",
                "Accounts created while four fifths of a limit on all sign-ups are used up, by the limit",
                "cause",
                ["sign_ups_in_total_per_hour", "accounts"],
            ),
            sign_ins: CounterBy::register(
                ours,
                "sign_ins",
                "Attempts to sign in",
                "outcome",
                ["success", "wrong_credentials", "limited", "code_required", "wrong_code"],
            ),
            sign_in_delays: counter(
                ours,
                "sign_in_delays",
                "Attempts to sign in that were delayed after many failed ones",
            ),
            password_checks: counter(ours, "password_checks", "Passwords compared with a hash"),
            password_refusals: counter(
                ours,
                "password_refusals",
                "Passwords not hashed because too many waited",
            ),
            event_streams: gauge(ours, "event_streams", "Open event streams"),
            leaked_tokens: counter(ours, "leaked_tokens", "Tokens revoked because they were found in public"),
            mails: mails(ours),
            waiting_mails: gauge(ours, "waiting_mails", "Mails that wait to be sent, 1,000 at most"),
            notifications: notifications(ours),
            deliveries: deliveries(ours),
            due_deliveries: gauge(
                ours,
                "due_webhook_deliveries",
                "Deliveries to webhooks that are due, 1,000 at most",
            ),
            store: CallMetrics::register(ours.sub_registry_with_prefix("store"), &STORE_CALLS),
        };
        ours.register(
            "request_duration_seconds",
            "Time from a request's head to its response's head",
            metrics.request_duration.clone(),
        );
        metrics
    }

    pub(crate) fn count_limited(&self, cause: &'static str) {
        self.limited.inc(cause);
    }

    pub(crate) fn count_sign_up(&self, outcome: &'static str) {
        self.sign_ups.inc(outcome);
    }

    pub(crate) fn count_near_limit(&self, cause: &'static str) {
        self.near_limit.inc(cause);
    }

    pub(crate) fn count_sign_in(&self, outcome: &'static str) {
        self.sign_ins.inc(outcome);
    }

    pub(crate) fn count_mail(&self, outcome: &'static str) {
        self.mails.inc(outcome);
    }

    pub(crate) fn set_waiting_mails(&self, count: usize) {
        self.waiting_mails.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(crate) fn count_notification(&self, kind: &'static str) {
        self.notifications.inc(kind);
    }

    pub(crate) fn count_delivery(&self, outcome: &'static str) {
        self.deliveries.inc(outcome);
    }

    pub(crate) fn set_due_deliveries(&self, count: usize) {
        self.due_deliveries.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(crate) fn count_response(&self, status: u16, elapsed: Duration) {
        let class = match status {
            100..=199 => "1xx",
            200..=299 => "2xx",
            300..=399 => "3xx",
            400..=499 => "4xx",
            _ => "5xx",
        };
        self.responses.inc(class);
        self.request_duration.observe(elapsed.as_secs_f64());
    }
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    let gauge = Gauge::default();
    registry.register(name, help, gauge.clone());
    gauge
}

fn notifications(registry: &mut Registry) -> CounterBy {
    let kinds = NotificationKind::CHOICES.map(NotificationKind::name);
    CounterBy::register(registry, "notifications", "Notifications that were added, by kind", "kind", kinds)
}

fn deliveries(registry: &mut Registry) -> CounterBy {
    CounterBy::register(
        registry,
        "webhook_deliveries",
        "Attempts to send to webhooks",
        "outcome",
        ["delivered", "retried", "failed"],
    )
}

fn mails(registry: &mut Registry) -> CounterBy {
    CounterBy::register(
        registry,
        "mails",
        "Attempts to send mail, and requests for mail that isn't sent",
        "outcome",
        ["sent", "retried", "failed", "not_sent"],
    )
}
