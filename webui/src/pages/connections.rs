//! Who is connected to a user's cache now, and a button that ends one of them.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;
use store::{ConnectionId, LiveConnection, TokenRow, now};

use super::{Frame, Trouble, render};
use crate::csrf::Submitted;
use crate::date::ago;
use crate::session::SignedIn;
use crate::web::Web;

#[derive(Template)]
#[template(path = "connections.html")]
struct Page<'a> {
    frame: Frame,
    form_token: &'a str,
    connections: Vec<ConnectionView>,
    total: i64,
    /// Proxies that haven't answered.
    silent: usize,
}

struct ConnectionView {
    id: String,
    token_id: String,
    token_name: String,
    source: String,
    how: String,
    since: String,
    operations: i64,
}

#[derive(Deserialize)]
pub(crate) struct Fields {
    #[serde(default)]
    id: String,
}

pub(crate) async fn show(State(web): State<Arc<Web>>, me: SignedIn) -> Result<Response, Trouble> {
    web.connection_looks.take(&me.user.id).map_err(Trouble::TooOften)?;
    let instance = web.store.instance_of(&me.user.id).await?.ok_or(Trouble::NotFound)?;
    let tokens = web.store.tokens_of(&me.user.id).await?;
    let live = web.store.live_connections(&instance.id).await?;
    let page = Page {
        frame: Frame::of(&me),
        form_token: &me.session.form_token,
        connections: live.connections.into_iter().map(|it| ConnectionView::of(it, &tokens)).collect(),
        total: live.total,
        silent: live.silent,
    };
    render(StatusCode::OK, &page)
}

/// Only connections of this very user's cache: a proxy looks nowhere else for it.
pub(crate) async fn end(
    State(web): State<Arc<Web>>,
    Submitted { sender: me, fields }: Submitted<SignedIn, Fields>,
) -> Result<Response, Trouble> {
    web.connection_closes.take(&me.user.id).map_err(Trouble::TooOften)?;
    let id: ConnectionId = fields.id.parse().map_err(|_| Trouble::Unreadable)?;
    let instance = web.store.instance_of(&me.user.id).await?.ok_or(Trouble::NotFound)?;
    me.store(&web).close_connection(&instance.id, &id).await?;
    Ok(Redirect::to("/connections").into_response())
}

impl ConnectionView {
    fn of(connection: LiveConnection, tokens: &[TokenRow]) -> Self {
        let LiveConnection { id, token_id, source, protocol, tls, since, operations } = connection;
        let name = tokens.iter().find(|token| token.id == token_id).map(|token| token.name.clone());
        Self {
            id: id.to_string(),
            token_name: name.unwrap_or_else(|| format!("mg_{token_id}")),
            token_id,
            source,
            how: format!("{protocol} protocol {}", if tls { "with TLS" } else { "without TLS" }),
            since: ago(now().saturating_sub(since)),
            operations,
        }
    }
}
