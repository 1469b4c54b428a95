//! `GET /admin/settings`: the settings that this web UI works with. It knows no others, and shows no secret.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use store::Cidr;

use super::Tab;
use crate::config::{Config, Limits};
use crate::http::admin::Admin;
use crate::http::reject::PageError;
use crate::layout::{Layout, render};
use crate::state::AppState;

#[derive(Template)]
#[template(path = "admin/settings.html")]
struct Page {
    layout: Layout,
    tab: Tab,
    settings: Vec<(&'static str, String)>,
}

pub(crate) async fn show(State(app): State<Arc<AppState>>, admin: Admin) -> Result<Response, PageError> {
    let page =
        Page { layout: Layout::signed_in(&admin.me), tab: Tab::Settings, settings: shown(&app.config) };
    render(StatusCode::OK, &page)
}

/// The settings that are shown, by name: each is listed here, so that none is shown because it was added.
fn shown(config: &Config) -> Vec<(&'static str, String)> {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "not set".to_owned());
    let proxies: Vec<String> = config.trusted_proxies.iter().map(ToString::to_string).collect();
    let networks = |networks: &[Cidr]| {
        let networks: Vec<String> = networks.iter().map(ToString::to_string).collect();
        or_none(Some(networks.join(", ")).filter(|text| !text.is_empty()))
    };
    let mut settings = vec![
        ("webui.listen", config.listen.to_string()),
        ("webui.health", config.health.to_string()),
        ("webui.endpoint", config.endpoint.clone()),
        (
            "webui.ca_certificate",
            or_none(config.ca_certificate.as_ref().map(|path| path.display().to_string())),
        ),
        ("webui.base_url", or_none(config.base_url.clone())),
        ("webui.trusted_proxies", or_none(Some(proxies.join(", ")).filter(|text| !text.is_empty()))),
        ("webui.sign_up", config.sign_up.as_str().to_owned()),
        (
            "webui.sign_up_domains",
            or_none(Some(config.sign_up_domains.join(", ")).filter(|text| !text.is_empty())),
        ),
        ("webui.confirm_email", config.confirm_email.to_string()),
        ("webui.contact", or_none(config.contact.clone())),
        ("webui.mail.server", or_none(config.mail.server.as_ref().map(|_| "set".to_owned()))),
        ("webui.webhooks.enabled", config.webhooks.enabled.to_string()),
        ("webui.webhooks.allow_networks", networks(&config.webhooks.allow_networks)),
        ("webui.webhooks.refuse_networks", networks(&config.webhooks.refuse_networks)),
        (
            "webui.webhooks.ca_certificate",
            or_none(config.webhooks.ca_certificate.as_ref().map(|path| path.display().to_string())),
        ),
        ("webui.plan", config.plan.clone()),
        ("webui.session_idle_seconds", config.session_idle_seconds.to_string()),
        ("webui.session_seconds", config.session_seconds.to_string()),
        ("webui.admin_password_seconds", config.admin_password_seconds.to_string()),
        ("limits.caches_per_user", config.caches_per_user.to_string()),
    ];
    settings.extend(limits(&config.limits));
    settings
}

fn limits(limits: &Limits) -> [(&'static str, String); 16] {
    [
        ("webui.limits.sign_ins_per_minute", limits.sign_ins_per_minute),
        ("webui.limits.sign_ins_per_source_per_minute", limits.sign_ins_per_source_per_minute),
        ("webui.limits.sign_ups_per_hour", limits.sign_ups_per_hour),
        ("webui.limits.sign_ups_in_total_per_hour", limits.sign_ups_in_total_per_hour),
        ("webui.limits.accounts", limits.accounts),
        ("webui.limits.tokens_per_hour", limits.tokens_per_hour),
        ("webui.limits.tokens_at_once", limits.tokens_at_once),
        ("webui.limits.cache_changes_per_hour", limits.cache_changes_per_hour),
        ("webui.limits.pages_per_minute", limits.pages_per_minute),
        ("webui.limits.connections_per_minute", limits.connections_per_minute),
        ("webui.limits.leak_reports_per_minute", limits.leak_reports_per_minute),
        ("webui.limits.api_requests_per_minute", limits.api_requests_per_minute),
        ("webui.limits.api_key_failures_per_minute", limits.api_key_failures_per_minute),
        ("webui.limits.mail_requests_per_hour", limits.mail_requests_per_hour),
        ("webui.limits.mails_per_hour", limits.mails_per_hour),
        ("webui.limits.mails_in_total_per_hour", limits.mails_in_total_per_hour),
    ]
    .map(|(name, limit)| (name, limit.to_string()))
}
