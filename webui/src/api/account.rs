//! The account of the key's user: who it is, what its plan allows, and what was done with it.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use store::{ApiKeyRow, AuditEntry, UserState};
use utoipa::ToSchema;

use super::auth::{Principal, Read};
use super::body::Parameters;
use super::paging::{Page, PageParameters, cursor};
use super::problem::{Problem, ReadErrors};
use super::value::DateTime;
use crate::actions::caches::caches_max;
use crate::state::AppState;

/// The account of the key's user.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Account {
    /// 24 letters and digits.
    id: String,
    email: String,
    /// The name of the plan that new caches get.
    plan: String,
    /// `active` or `suspended`.
    state: &'static str,
    created_at: DateTime,
    /// The API key of this request.
    api_key: ApiKeyView,
}

/// An API key, without its secret.
#[derive(Debug, Serialize, ToSchema)]
struct ApiKeyView {
    /// The public half.
    id: String,
    name: String,
    /// What it may do: some of `read`, `tokens`, `caches`, `webhooks` and `metrics`.
    scopes: Vec<&'static str>,
    created_at: DateTime,
    /// When it ends; `null` is never.
    expires_at: Option<DateTime>,
}

/// What a plan allows.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Plan)]
pub(super) struct PlanView {
    name: String,
    /// Memory of a new cache in MiB, and the most that a cache can be resized to.
    memory_mb: i64,
    /// Client connections of a cache.
    connections: i64,
    /// Bytes of an item.
    item_size_max: i64,
    /// Operations per second; `null` is no limit.
    operations_per_second: Option<i64>,
    /// Bytes of requests and replies per second; `null` is no limit.
    bytes_per_second: Option<i64>,
    /// Whether caches keep their contents over a restart.
    warm: bool,
    /// Seconds without a command after which a cache sleeps; `null` is never.
    sleep_after_seconds: Option<i64>,
    /// Caches that you may have.
    caches_max: usize,
    /// Caches that you have.
    caches: usize,
    /// Active tokens that a cache may have.
    tokens_max: usize,
    /// What it costs, in words.
    price: Option<String>,
}

/// Something that you did, in the browser or through the API.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Activity {
    /// Its number in the audit log.
    seq: i64,
    at: DateTime,
    /// Like `token.create`.
    action: String,
    /// What it was done to, like `token` and an id.
    subject: String,
    /// More, in words; may be empty.
    detail: String,
}

/// Shows the account, and the API key of the request
#[utoipa::path(get, path = "/account", tag = "Account", operation_id = "getAccount",
    security(("api_key" = ["read"])),
    responses((status = 200, description = "The account", body = Account), ReadErrors))]
pub(super) async fn show(caller: Principal<Read>) -> Json<Account> {
    let Principal { user, key, .. } = caller;
    let state = match user.state {
        UserState::Active => "active",
        UserState::Suspended => "suspended",
    };
    Json(Account {
        id: user.id,
        email: user.email,
        plan: user.plan,
        state,
        created_at: DateTime(user.created_at),
        api_key: ApiKeyView::new(key),
    })
}

/// Shows what your plan allows
#[utoipa::path(get, path = "/plan", tag = "Account", operation_id = "getPlan",
    security(("api_key" = ["read"])),
    responses((status = 200, description = "The plan", body = PlanView), ReadErrors))]
pub(super) async fn plan(
    State(app): State<Arc<AppState>>,
    caller: Principal<Read>,
) -> Result<Json<PlanView>, Problem> {
    let plan = app.store.plan(&caller.user.plan).await?.ok_or_else(Problem::not_found)?;
    let caches = app.store.caches_of(&caller.user.id).await?.len();
    Ok(Json(PlanView {
        caches_max: caches_max(&app, Some(&plan)),
        caches,
        tokens_max: app.config.limits.tokens_at_once,
        name: plan.name,
        memory_mb: plan.memory_mb,
        connections: plan.connections,
        item_size_max: plan.item_size_max,
        operations_per_second: plan.operations_per_second,
        bytes_per_second: plan.bytes_per_second,
        warm: plan.warm,
        sleep_after_seconds: plan.sleep_after_seconds,
        price: plan.price_label,
    }))
}

/// Lists what you did, in the browser and through the API, the newest first
#[utoipa::path(get, path = "/activity", tag = "Account", operation_id = "listActivity",
    params(PageParameters), security(("api_key" = ["read"])),
    responses((status = 200, description = "A page of entries", body = Page<Activity>), ReadErrors))]
pub(super) async fn activity(
    State(app): State<Arc<AppState>>,
    caller: Principal<Read>,
    Parameters(parameters): Parameters<PageParameters>,
) -> Result<Json<Page<Activity>>, Problem> {
    let position = parameters.position()?;
    let before = match &position.after {
        None => i64::MAX,
        Some(text) => text
            .parse()
            .map_err(|_| Problem::parameter("cursor", "send that of the page before, or none."))?,
    };
    let limit = i64::try_from(position.limit).unwrap_or(i64::MAX);
    let entries = app.store.audit_by_user(&caller.user.id, before, limit.saturating_add(1)).await?;
    let has_more = entries.len() > position.limit;
    let items: Vec<Activity> = entries.into_iter().take(position.limit).map(Activity::new).collect();
    let next_cursor = items.last().filter(|_| has_more).map(|last| cursor(&last.seq.to_string()));
    Ok(Json(Page { items, next_cursor }))
}

impl ApiKeyView {
    fn new(key: ApiKeyRow) -> Self {
        Self {
            scopes: key.scopes.names().collect(),
            created_at: DateTime(key.created_at),
            expires_at: key.expires_at.map(DateTime),
            id: key.id,
            name: key.name,
        }
    }
}

impl Activity {
    fn new(entry: AuditEntry) -> Self {
        let AuditEntry { seq, at, action, subject, detail, .. } = entry;
        Self { seq, at: DateTime(at), action, subject, detail }
    }
}
