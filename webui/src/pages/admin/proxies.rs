//! `GET /admin/proxies`: the proxies of the last day, their load, and how far behind they are.

use std::collections::HashMap;
use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use store::{Proxy, now};

use super::Tab;
use crate::http::admin::Admin;
use crate::http::reject::PageError;
use crate::layout::{Layout, render};
use crate::state::AppState;
use crate::view::date::{Moment, ago};
use crate::view::number::grouped;

/// Changes that a proxy may be behind without lagging: it applies all within a second.
const BEHIND_MAX: i64 = 100;

#[derive(Template)]
#[template(path = "admin/proxies.html")]
struct Page {
    layout: Layout,
    tab: Tab,
    proxies: Vec<ProxyRow>,
}

struct ProxyRow {
    name: String,
    version: String,
    state: &'static str,
    text: String,
    connections: String,
    behind: String,
    seen: String,
    started: Moment,
}

/// How a proxy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    Ready,
    /// It hasn't applied many changes.
    Lags,
    /// Its heartbeats have stopped for some seconds.
    Silent,
    /// They have stopped for a minute.
    Gone,
}

impl Health {
    /// `revision` was read before the proxy.
    pub(super) fn of(proxy: &Proxy, revision: i64) -> Self {
        let at = now();
        match revision.saturating_sub(proxy.applied) {
            _ if proxy.is_gone(at) => Self::Gone,
            _ if proxy.is_silent(at) => Self::Silent,
            behind if behind > BEHIND_MAX => Self::Lags,
            _ => Self::Ready,
        }
    }

    /// One word.
    fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Lags => "lags",
            Self::Silent => "silent",
            Self::Gone => "gone",
        }
    }

    /// What that means.
    pub(super) fn text(self, proxy: &Proxy, revision: i64) -> String {
        let seen = ago(now().since(proxy.seen_at));
        match self {
            Self::Ready => "Applies changes as they come.".to_owned(),
            Self::Lags => format!(
                "It has yet to apply {} changes: revoked tokens may still work there.",
                grouped(revision.saturating_sub(proxy.applied))
            ),
            Self::Silent => {
                format!("Its last heartbeat was {seen}: it was killed, hangs, or can’t write the store.")
            }
            Self::Gone => format!("Its last heartbeat was {seen}: it was stopped or killed."),
        }
    }
}

pub(crate) async fn show(State(app): State<Arc<AppState>>, admin: Admin) -> Result<Response, PageError> {
    let revision = app.store.revision().await?;
    let connections: HashMap<String, i64> = app.store.connections_by_proxy().await?.into_iter().collect();
    let row = |proxy: Proxy| {
        let health = Health::of(&proxy, revision);
        let open = connections.get(&proxy.name).copied().filter(|_| health != Health::Gone);
        ProxyRow {
            state: health.name(),
            text: health.text(&proxy, revision),
            connections: open.map_or_else(|| "-".to_owned(), grouped),
            behind: grouped(revision.saturating_sub(proxy.applied).max(0)),
            seen: ago(now().since(proxy.seen_at)),
            started: Moment::new(proxy.started_at),
            name: proxy.name,
            version: proxy.version,
        }
    };
    let proxies = app.store.proxies().await?.into_iter().map(row).collect();
    render(StatusCode::OK, &Page { layout: Layout::signed_in(&admin.me), tab: Tab::Proxies, proxies })
}
