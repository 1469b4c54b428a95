//! Live connections of a cache, and denied logins and requests.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use store::{ConnectionId, DenialRecord, LiveConnection};
use utoipa::ToSchema;

use super::auth::{Caches, Principal, Read};
use super::body::{Ids, Parameters};
use super::caches::find;
use super::paging::{Page, PageParameters, key_of};
use super::problem::{ChangeErrors, Problem, ReadErrors};
use super::value::DateTime;
use crate::actions::{self, caches::acquire_connections};
use crate::state::AppState;

/// A client's connection.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Connection {
    /// Identifies it. Encode it (`%40` for `@`) when it is part of an address.
    id: String,
    /// The token that it logged in with.
    token_id: String,
    /// The client's address.
    source: String,
    /// `text` (which includes meta) or `binary`.
    protocol: String,
    tls: bool,
    since: DateTime,
    /// Operations so far; a multi-key get counts once per key.
    operations: i64,
}

/// Connections of a cache.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Connections {
    /// Some of them, the oldest first.
    items: Vec<Connection>,
    /// Send it as `cursor` to get the next page; `null` at the end.
    next_cursor: Option<String>,
    /// How many there are.
    total: i64,
    /// Proxies that didn't answer in time: theirs are missing.
    unanswered: usize,
}

/// Logins or requests that were denied, with the same token, cause, source and detail.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Denial {
    token_id: String,
    /// Like `wrong_secret` or `scope_write`.
    cause: &'static str,
    /// What happened.
    summary: &'static str,
    /// What helps.
    fix: &'static str,
    /// The client's address; `null` for many.
    source: Option<String>,
    /// The login mechanism or the command.
    detail: String,
    /// `text` or `binary`, of the last one.
    protocol: String,
    tls: bool,
    count: i64,
    first_at: DateTime,
    last_at: DateTime,
}

/// Lists the live connections of a cache, the oldest first
#[utoipa::path(get, path = "/caches/{cache}/connections", tag = "Connections", operation_id = "listConnections",
    params(("cache" = String, Path, description = "The cache's id"), PageParameters),
    security(("api_key" = ["read"])),
    responses((status = 200, description = "A page of connections", body = Connections), ReadErrors))]
pub(super) async fn list(
    State(app): State<Arc<AppState>>,
    caller: Principal<Read>,
    Ids(id): Ids<String>,
    Parameters(parameters): Parameters<PageParameters>,
) -> Result<Json<Connections>, Problem> {
    let position = parameters.position()?;
    let (_, instance) = find(&app, &caller.user, &id).await?;
    acquire_connections(&app, &caller.user, false).map_err(Problem::rate_limited)?;
    let live = app.store.live_connections(&instance.id).await?;
    let mut connections = live.connections;
    let key = |it: &LiveConnection| key_of(it.since, &it.id.to_string());
    connections.sort_by_key(key);
    let Page { items, next_cursor } = position.page(connections, key, Connection::new);
    Ok(Json(Connections { items, next_cursor, total: live.total, unanswered: live.unanswered }))
}

/// Closes a connection of a cache
#[utoipa::path(delete, path = "/caches/{cache}/connections/{connection}", tag = "Connections", operation_id = "closeConnection",
    params(("cache" = String, Path, description = "The cache's id"),
        ("connection" = String, Path, description = "The connection's id")),
    security(("api_key" = ["caches"])),
    responses((status = 204, description = "It is closed, now or before"),
        (status = 202, description = "It is asked for; the proxy hasn't confirmed it within 2 seconds"),
        ChangeErrors))]
pub(super) async fn close(
    State(app): State<Arc<AppState>>,
    caller: Principal<Caches>,
    Ids((cache, connection)): Ids<(String, String)>,
) -> Result<StatusCode, Problem> {
    let (_, instance) = find(&app, &caller.user, &cache).await?;
    let id: ConnectionId = connection.parse().map_err(|_| Problem::not_found())?;
    acquire_connections(&app, &caller.user, true).map_err(Problem::rate_limited)?;
    let is_closed = actions::acting(&app, &caller.user).close_connection(&instance.id, &id).await?;
    Ok(if is_closed { StatusCode::NO_CONTENT } else { StatusCode::ACCEPTED })
}

/// Lists denied logins and requests of a cache's tokens, the newest first, each with its reason and what helps
#[utoipa::path(get, path = "/caches/{cache}/denials", tag = "Connections", operation_id = "listDenials",
    params(("cache" = String, Path, description = "The cache's id"), PageParameters),
    security(("api_key" = ["read"])),
    responses((status = 200, description = "A page of denials", body = Page<Denial>), ReadErrors))]
pub(super) async fn denials(
    State(app): State<Arc<AppState>>,
    caller: Principal<Read>,
    Ids(id): Ids<String>,
    Parameters(parameters): Parameters<PageParameters>,
) -> Result<Json<Page<Denial>>, Problem> {
    let position = parameters.position()?;
    let (cache, _) = find(&app, &caller.user, &id).await?;
    let mut denials = app.store.denials_of_cache(&cache.id).await?;
    let key = |it: &DenialRecord| {
        let source = it.source.as_deref().unwrap_or("*");
        let detail: String = it.detail.chars().filter(char::is_ascii_graphic).take(40).collect();
        key_of(it.last_at, &format!("{}-{}-{source}-{detail}", it.token_id, it.cause.as_str()))
    };
    denials.sort_by_key(|it| std::cmp::Reverse(key(it)));
    Ok(Json(position.page_newest_first(denials, key, Denial::new)))
}

impl Connection {
    fn new(connection: LiveConnection) -> Self {
        let LiveConnection { id, token_id, source, protocol, tls, since, operations } = connection;
        Self { id: id.to_string(), token_id, source, protocol, tls, since: DateTime(since), operations }
    }
}

impl Denial {
    fn new(denial: DenialRecord) -> Self {
        let DenialRecord { token_id, cause, source, detail, protocol, tls, count, first_at, last_at } =
            denial;
        Self {
            token_id,
            cause: cause.as_str(),
            summary: cause.what(),
            fix: cause.fix(),
            source,
            detail,
            protocol,
            tls,
            count,
            first_at: DateTime(first_at),
            last_at: DateTime(last_at),
        }
    }
}
