//! Live connections of a cache, each with a button that closes it.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use serde::Deserialize;
use store::{ConnectionId, LiveConnection, TokenRow, now};

use super::{Header, OwnCache, Tab, path_of};
use crate::actions::caches::acquire_connections;
use crate::http::csrf::CsrfForm;
use crate::http::reject::PageError;
use crate::layout::{Layout, render};
use crate::state::AppState;
use crate::view::date::ago;

#[derive(Template)]
#[template(path = "caches/connections.html")]
struct Page<'a> {
    layout: Layout,
    header: Header,
    csrf_token: &'a str,
    connections: Vec<ConnectionView>,
    total: i64,
    /// Proxies that didn't answer in time.
    unanswered: usize,
    /// Whether one was closed just now.
    closed: bool,
}

struct ConnectionView {
    id: String,
    token_id: String,
    token_name: String,
    source: String,
    protocol: String,
    since: String,
    operations: i64,
}

#[derive(Deserialize)]
pub(crate) struct Fields {
    #[serde(default)]
    id: String,
}

#[derive(Deserialize)]
pub(crate) struct Params {
    closed: Option<String>,
}

pub(crate) async fn show(
    State(app): State<Arc<AppState>>,
    own: OwnCache,
    params: Query<Params>,
) -> Result<Response, PageError> {
    acquire_connections(&app, &own.me.user, false).map_err(PageError::RateLimited)?;
    // Connections of tokens that aren't active are closed.
    let tokens = app.store.list_tokens(&own.cache.id, 0).await?.active;
    let live = app.store.live_connections(&own.instance.id).await?;
    let page = Page {
        layout: Layout::signed_in(&own.me),
        header: Header::new(&app, &own, Tab::Connections).await?,
        csrf_token: &own.me.session.form_token,
        connections: live.connections.into_iter().map(|it| ConnectionView::new(it, &tokens)).collect(),
        total: live.total,
        unanswered: live.unanswered,
        closed: params.closed.is_some(),
    };
    render(StatusCode::OK, &page)
}

/// Closes one connection of the user's own cache: the request names the cache, and the proxy searches only there.
pub(crate) async fn close(
    State(app): State<Arc<AppState>>,
    CsrfForm { sender: own, fields }: CsrfForm<OwnCache, Fields>,
) -> Result<Response, PageError> {
    acquire_connections(&app, &own.me.user, true).map_err(PageError::RateLimited)?;
    let id: ConnectionId = fields.id.parse().map_err(|_| PageError::Malformed)?;
    own.me.store(&app).close_connection(&own.instance.id, &id).await?;
    Ok(Redirect::to(&format!("{}?closed", path_of(&own.cache.id, Tab::Connections))).into_response())
}

impl ConnectionView {
    fn new(connection: LiveConnection, tokens: &[TokenRow]) -> Self {
        let LiveConnection { id, token_id, source, protocol, tls, since, operations } = connection;
        let name = tokens.iter().find(|token| token.id == token_id).map(|token| token.name.clone());
        Self {
            id: id.to_string(),
            token_name: name.unwrap_or_else(|| format!("mg_{token_id}")),
            token_id,
            source,
            protocol: format!("{protocol} protocol {}", if tls { "with TLS" } else { "without TLS" }),
            since: ago(now().since(since)),
            operations,
        }
    }
}
