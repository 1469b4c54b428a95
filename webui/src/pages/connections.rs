//! Live connections of the user's first cache, each with a button that closes it.

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use serde::Deserialize;
use store::{ConnectionId, LiveConnection, TokenRow, now};

use super::no_cache;
use crate::http::csrf::CsrfForm;
use crate::http::reject::PageError;
use crate::http::session::SignedIn;
use crate::layout::{Layout, render};
use crate::state::AppState;
use crate::view::date::ago;

#[derive(Template)]
#[template(path = "connections.html")]
struct Page<'a> {
    layout: Layout,
    csrf_token: &'a str,
    connections: Vec<ConnectionView>,
    total: i64,
    /// Proxies that didn't answer in time.
    unanswered: usize,
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

pub(crate) async fn show(State(app): State<Arc<AppState>>, me: SignedIn) -> Result<Response, PageError> {
    app.rate_limits.connection_lists.acquire(&me.user.id).map_err(|wait| limited(&app, wait))?;
    let Some(instance) = app.store.first_instance_of(&me.user.id).await? else {
        return no_cache::page(&me, StatusCode::OK);
    };
    // Connections of tokens that aren't active are closed.
    let tokens = app.store.list_tokens(&instance.cache_id, 0).await?.active;
    let live = app.store.live_connections(&instance.id).await?;
    let page = Page {
        layout: Layout::signed_in(&me),
        csrf_token: &me.session.form_token,
        connections: live.connections.into_iter().map(|it| ConnectionView::new(it, &tokens)).collect(),
        total: live.total,
        unanswered: live.unanswered,
    };
    render(StatusCode::OK, &page)
}

/// Closes one connection of the user's own cache: the request names the cache, and the proxy searches only there.
pub(crate) async fn close(
    State(app): State<Arc<AppState>>,
    CsrfForm { sender: me, fields }: CsrfForm<SignedIn, Fields>,
) -> Result<Response, PageError> {
    let limits = &app.rate_limits;
    limits.connection_closes.acquire(&me.user.id).map_err(|wait| limited(&app, wait))?;
    limits.connection_closes_per_hour.acquire(&me.user.id).map_err(|wait| limited(&app, wait))?;
    let id: ConnectionId = fields.id.parse().map_err(|_| PageError::Malformed)?;
    let Some(instance) = app.store.first_instance_of(&me.user.id).await? else {
        return no_cache::page(&me, StatusCode::CONFLICT);
    };
    me.store(&app).close_connection(&instance.id, &id).await?;
    Ok(Redirect::to("/connections").into_response())
}

fn limited(app: &AppState, wait: Duration) -> PageError {
    app.metrics.count_limited("connections");
    PageError::RateLimited(wait)
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
