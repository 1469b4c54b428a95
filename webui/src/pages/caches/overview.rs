//! Overview of a cache: what it has, and what happened to it. Never shows where the instance runs.

use std::sync::Arc;

use askama::Template;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use store::{Instance, now};

use super::{Header, OwnCache, Tab, read_state};
use crate::http::reject::PageError;
use crate::layout::{Layout, render};
use crate::state::AppState;
use crate::view::cache_state::CacheState;
use crate::view::date::ago;
use crate::view::number;

/// Repairs on the page.
const EVENTS_MAX: i64 = 5;

#[derive(Template)]
#[template(path = "caches/overview.html")]
struct Page<'a> {
    layout: Layout,
    header: Header,
    endpoint: String,
    /// Whether the endpoint speaks TLS, with a CA certificate to download.
    has_tls: bool,
    instance: &'a Instance,
    /// What happened to the cache, and how long ago, newest first.
    events: Vec<(String, String)>,
}

pub(crate) async fn show(State(app): State<Arc<AppState>>, own: OwnCache) -> Result<Response, PageError> {
    let events = app.store.instance_events(&own.instance.id, EVENTS_MAX).await?;
    let page = Page {
        layout: Layout::signed_in(&own.me),
        header: Header::new(&app, &own, Tab::Overview).await?,
        endpoint: app.endpoint.to_string(),
        has_tls: app.config.ca_certificate.is_some(),
        instance: &own.instance,
        events: events.iter().map(|event| (event.text(), ago(now().since(event.last_at)))).collect(),
    };
    render(StatusCode::OK, &page)
}

/// `GET /caches/{cache}/state`: polled by pages whose event stream was refused.
pub(crate) async fn state(
    State(app): State<Arc<AppState>>,
    own: OwnCache,
) -> Result<Json<CacheState>, PageError> {
    Ok(Json(read_state(&app, &own.instance).await?))
}

impl Page<'_> {
    fn item_size_max(&self) -> String {
        number::size(self.instance.item_size_max)
    }

    fn connections_max(&self) -> String {
        number::grouped(self.instance.connections)
    }
}
