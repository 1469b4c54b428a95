//! Operations on a cache: ask for one, and see how far it is.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use store::{NewOperation, Operation};
use utoipa::ToSchema;

use super::auth::{Caches, Principal, Read};
use super::body::{Body, Ids, Parameters};
use super::caches::{cache_tag, find};
use super::idempotency::{self, CreationStart, repeated};
use super::paging::{Page, PageParameters, key_of};
use super::problem::{BodyErrors, Problem, ReadErrors};
use super::value::{DateTime, IfMatch, created};
use crate::actions;
use crate::state::AppState;

/// An operation, and how far it is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Operation)]
pub(super) struct OperationView {
    /// 24 lower-case letters and digits.
    id: String,
    /// `restart`, `flush`, `resize`, `suspend`, `resume` or `delete`.
    kind: &'static str,
    /// The new size in MiB, of a resize.
    memory_mb: Option<i64>,
    /// `pending`, `running`, `done` or `failed`.
    state: &'static str,
    /// Percent.
    progress: i64,
    /// What it waits for, what it did, or why it failed and what helps.
    message: Option<String>,
    /// `you` or `operator`.
    requested_by: &'static str,
    created_at: DateTime,
    started_at: Option<DateTime>,
    finished_at: Option<DateTime>,
}

/// What to do with a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[schema(as = OperationKind)]
#[serde(rename_all = "snake_case", try_from = "String")]
pub(super) enum Kind {
    /// Stop and start memcached: its contents are lost, unless the plan is warm.
    Restart,
    /// Remove all items.
    Flush,
    /// Give it `memory_mb`.
    Resize,
    /// Stop it, and refuse its tokens, until it is resumed. Its contents are lost.
    Suspend,
    /// Start it again.
    Resume,
}

impl TryFrom<String> for Kind {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Self, &'static str> {
        match &*name {
            "restart" => Ok(Self::Restart),
            "flush" => Ok(Self::Flush),
            "resize" => Ok(Self::Resize),
            "suspend" => Ok(Self::Suspend),
            "resume" => Ok(Self::Resume),
            _ => Err("unknown kind, expected restart, flush, resize, suspend or resume"),
        }
    }
}

/// An operation to ask for. There is no question: what it costs is lost at once.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewOperation)]
pub(super) struct OperationFields {
    kind: Kind,
    /// The new size in MiB; of a resize only.
    #[schema(minimum = 8)]
    memory_mb: Option<i64>,
}

/// Lists the operations on a cache that are kept, the newest first
#[utoipa::path(get, path = "/caches/{cache}/operations", tag = "Operations", operation_id = "listOperations",
    params(("cache" = String, Path, description = "The cache's id"), PageParameters),
    security(("api_key" = ["read"])),
    responses((status = 200, description = "A page of operations", body = Page<OperationView>), ReadErrors))]
pub(super) async fn list(
    State(app): State<Arc<AppState>>,
    caller: Principal<Read>,
    Ids(id): Ids<String>,
    Parameters(parameters): Parameters<PageParameters>,
) -> Result<Json<Page<OperationView>>, Problem> {
    let position = parameters.position()?;
    let (cache, _) = find(&app, &caller.user, &id).await?;
    let mut operations = app.store.operations_of(&cache.id, actions::caches::OPERATIONS_MAX).await?;
    let key = |it: &Operation| key_of(it.created_at, &it.id);
    operations.sort_by_key(|it| std::cmp::Reverse(key(it)));
    Ok(Json(position.page_newest_first(operations, key, |it| OperationView::new(it, &caller.user.id))))
}

/// Asks for an operation on a cache
#[utoipa::path(post, path = "/caches/{cache}/operations", tag = "Operations", operation_id = "createOperation",
    params(("cache" = String, Path, description = "The cache's id"),
        ("If-Match" = Option<String>, Header, description = "Do it only if the cache's ETag is this"),
        ("Idempotency-Key" = Option<String>, Header, description = "Sent again with the same key within a day, it is done once")),
    request_body = OperationFields, security(("api_key" = ["caches"])),
    responses((status = 202, description = "It is asked for; an unfinished one of the same kind goes on", body = OperationView,
            headers(("Location" = String, description = "The operation"))),
        (status = 200, description = "It was asked for before, with the same Idempotency-Key", body = OperationView),
        BodyErrors))]
pub(super) async fn create(
    State(app): State<Arc<AppState>>,
    caller: Principal<Caches>,
    Ids(id): Ids<String>,
    headers: HeaderMap,
    body: Body<OperationFields>,
) -> Result<Response, Problem> {
    let user = &caller.user;
    let (cache, instance) = find(&app, user, &id).await?;
    let creation = match idempotency::begin(&app, &user.id, &body.identity).await? {
        CreationStart::New(creation) => creation,
        CreationStart::Repeated(operation) => {
            let operation = app.store.operation(&cache.id, &operation).await?;
            let operation = operation.ok_or_else(Problem::not_found)?;
            return Ok(repeated(Json(OperationView::new(operation, &user.id)).into_response()));
        }
    };
    let request = async {
        IfMatch::of(&headers).check(&cache_tag(&cache, &instance))?;
        let new = match (body.fields.kind, body.fields.memory_mb) {
            (Kind::Resize, Some(memory_mb)) => {
                actions::caches::resize(&app, &cache, &instance, memory_mb).await?
            }
            (Kind::Resize, None) => {
                return Err(Problem::field("memory_mb", "Give the new size in MB."));
            }
            (_, Some(_)) => {
                return Err(Problem::field("memory_mb", "Only a resize has a size. Leave it out."));
            }
            (Kind::Restart, None) => NewOperation::Restart,
            (Kind::Flush, None) => NewOperation::Flush,
            (Kind::Suspend, None) => NewOperation::Suspend,
            (Kind::Resume, None) => NewOperation::Resume,
        };
        let operation = actions::caches::request(&app, user, &instance, new).await?;
        Ok((operation.id.clone(), operation))
    };
    let requested = request.await;
    let operation = creation.end(&app, requested).await?;
    let path = format!("/caches/{}/operations/{}", cache.id, operation.id);
    Ok(created(StatusCode::ACCEPTED, &path, &OperationView::new(operation, &user.id)))
}

/// Shows an operation
#[utoipa::path(get, path = "/caches/{cache}/operations/{operation}", tag = "Operations", operation_id = "getOperation",
    params(("cache" = String, Path, description = "The cache's id"),
        ("operation" = String, Path, description = "The operation's id")),
    security(("api_key" = ["read"])),
    responses((status = 200, description = "The operation", body = OperationView), ReadErrors))]
pub(super) async fn show(
    State(app): State<Arc<AppState>>,
    caller: Principal<Read>,
    Ids((cache, operation)): Ids<(String, String)>,
) -> Result<Json<OperationView>, Problem> {
    let (cache, _) = find(&app, &caller.user, &cache).await?;
    if !actions::caches::is_id(&operation) {
        return Err(Problem::not_found());
    }
    let operation = app.store.operation(&cache.id, &operation).await?.ok_or_else(Problem::not_found)?;
    Ok(Json(OperationView::new(operation, &caller.user.id)))
}

impl OperationView {
    fn new(it: Operation, user_id: &str) -> Self {
        let is_own = it.requested_by.strip_prefix("user ") == Some(user_id);
        Self {
            kind: it.kind.as_str(),
            memory_mb: it.memory_mb,
            state: it.state.as_str(),
            progress: it.progress,
            message: it.message,
            requested_by: if is_own { "you" } else { "operator" },
            created_at: DateTime(it.created_at),
            started_at: it.started_at.map(DateTime),
            finished_at: it.finished_at.map(DateTime),
            id: it.id,
        }
    }
}
