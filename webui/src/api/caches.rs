//! Caches: list, create, show, change, delete.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use store::{Cache, Instance, User};
use utoipa::ToSchema;

use super::auth::{Caches, Principal, Read};
use super::body::{Body, Ids, Parameters, present};
use super::idempotency::{self, CreationStart, repeated};
use super::paging::{Page, PageParameters, key_of};
use super::problem::{BodyErrors, ChangeErrors, Problem, ReadErrors};
use super::value::{DateTime, IfMatch, created, entity_tag, tagged, with_header};
use crate::actions;
use crate::state::AppState;
use crate::view::cache_state::CacheState;

/// A cache.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Cache)]
pub(super) struct CacheView {
    /// 24 lower-case letters and digits.
    pub(super) id: String,
    name: String,
    /// The name of its plan.
    plan: String,
    /// `pending`, `running`, `asleep`, `restarting`, `suspended`, `failed` or `deleting`.
    state: &'static str,
    /// The state in words.
    state_detail: String,
    /// Whether you or the operator have suspended it.
    suspended: bool,
    /// In MiB.
    memory_mb: i64,
    /// Client connections that it may have.
    connections_max: i64,
    /// Bytes of an item.
    item_size_max: i64,
    /// After how many seconds without a command you want it to sleep; `null`: after its plan's time.
    sleep_after_seconds: Option<i64>,
    /// After how many seconds without a command it sleeps: the shorter of yours and its plan's; `null` is never.
    sleep_after_seconds_in_effect: Option<i64>,
    /// Where applications connect.
    endpoint: EndpointView,
    /// memcached's version, once it is known.
    memcached_version: Option<String>,
    created_at: DateTime,
}

/// Where applications connect.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Endpoint)]
pub(super) struct EndpointView {
    host: String,
    port: u16,
    /// Whether it speaks TLS with a certificate of the CA at `/ca.pem`.
    tls: bool,
}

/// A cache to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewCache {
    /// 1 to 40 lower-case letters, digits and hyphens; a letter or digit first.
    #[schema(min_length = 1, max_length = 40, pattern = "^[a-z0-9][a-z0-9-]*$")]
    name: String,
}

/// What of a cache is to change.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CacheChange {
    /// After how many seconds without a command it is to sleep: no later than its plan says; `null`: after the plan's time.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<i64>, minimum = 60, maximum = 31_536_000)]
    sleep_after_seconds: Option<Option<i64>>,
}

/// Lists your caches, the oldest first
#[utoipa::path(get, path = "/caches", tag = "Caches", operation_id = "listCaches",
    params(PageParameters), security(("api_key" = ["read"])),
    responses((status = 200, description = "A page of caches", body = Page<CacheView>), ReadErrors))]
pub(super) async fn list(
    State(app): State<Arc<AppState>>,
    caller: Principal<Read>,
    Parameters(parameters): Parameters<PageParameters>,
) -> Result<Json<Page<CacheView>>, Problem> {
    let position = parameters.position()?;
    let caches = app.store.caches_of(&caller.user.id).await?;
    let Page { items, next_cursor } =
        position.page(caches, |cache| key_of(cache.created_at, &cache.id), |it| it);
    let mut views = Vec::with_capacity(items.len());
    for cache in items {
        // One that is being deleted has none.
        if let Some(instance) = app.store.instance_of_cache(&cache.id).await? {
            views.push(CacheView::read(&app, cache, &instance).await?);
        }
    }
    Ok(Json(Page { items: views, next_cursor }))
}

/// Creates a cache, with your plan and without a token
#[utoipa::path(post, path = "/caches", tag = "Caches", operation_id = "createCache",
    params(("Idempotency-Key" = Option<String>, Header, description = "Sent again with the same key within a day, it is done once")),
    request_body = NewCache, security(("api_key" = ["caches"])),
    responses((status = 201, description = "It is created, and starts", body = CacheView,
            headers(("Location" = String, description = "The cache"), ("ETag" = String, description = "For If-Match"))),
        (status = 200, description = "It was created before, with the same Idempotency-Key", body = CacheView),
        BodyErrors))]
pub(super) async fn create(
    State(app): State<Arc<AppState>>,
    caller: Principal<Caches>,
    body: Body<NewCache>,
) -> Result<Response, Problem> {
    let user = &caller.user;
    let creation = match idempotency::begin(&app, &user.id, &body.identity).await? {
        CreationStart::New(creation) => creation,
        CreationStart::Repeated(id) => {
            let (cache, instance) = actions::caches::find(&app, user, &id).await?;
            let view = CacheView::read(&app, cache, &instance).await?;
            return Ok(repeated(Json(view).into_response()));
        }
    };
    let cache = actions::caches::create(&app, user, &body.fields.name).await;
    let cache = cache.map(|cache| (cache.id.clone(), cache)).map_err(Problem::from);
    let cache = creation.end(&app, cache).await?;
    let (cache, instance) = actions::caches::find(&app, user, &cache.id).await?;
    let (path, tag) = (format!("/caches/{}", cache.id), cache_tag(&cache, &instance));
    let view = CacheView::read(&app, cache, &instance).await?;
    Ok(with_header(created(StatusCode::CREATED, &path, &view), axum::http::header::ETAG, &tag))
}

/// Shows a cache
#[utoipa::path(get, path = "/caches/{cache}", tag = "Caches", operation_id = "getCache",
    params(("cache" = String, Path, description = "Its id")), security(("api_key" = ["read"])),
    responses((status = 200, description = "The cache", body = CacheView,
            headers(("ETag" = String, description = "For If-Match; changes with what you can change"))),
        ReadErrors))]
pub(super) async fn show(
    State(app): State<Arc<AppState>>,
    caller: Principal<Read>,
    Ids(id): Ids<String>,
) -> Result<Response, Problem> {
    let (cache, instance) = actions::caches::find(&app, &caller.user, &id).await?;
    let tag = cache_tag(&cache, &instance);
    Ok(tagged(StatusCode::OK, &tag, &CacheView::read(&app, cache, &instance).await?))
}

/// Changes when a cache sleeps
#[utoipa::path(patch, path = "/caches/{cache}", tag = "Caches", operation_id = "updateCache",
    params(("cache" = String, Path, description = "Its id"),
        ("If-Match" = Option<String>, Header, description = "Change it only if its ETag is this")),
    request_body = CacheChange, security(("api_key" = ["caches"])),
    responses((status = 200, description = "It is changed", body = CacheView,
            headers(("ETag" = String, description = "For If-Match"))),
        BodyErrors))]
pub(super) async fn update(
    State(app): State<Arc<AppState>>,
    caller: Principal<Caches>,
    Ids(id): Ids<String>,
    headers: HeaderMap,
    body: Body<CacheChange>,
) -> Result<Response, Problem> {
    let (cache, instance) = actions::caches::find(&app, &caller.user, &id).await?;
    // What would be refused without If-Match is refused for the same reason with it.
    if let Some(seconds) = body.fields.sleep_after_seconds {
        actions::caches::check_sleep_after(seconds)?;
    }
    IfMatch::of(&headers).check(&cache_tag(&cache, &instance))?;
    if let Some(seconds) = body.fields.sleep_after_seconds {
        actions::caches::set_sleep_after(&app, &caller.user, &cache, seconds).await?;
    }
    let (cache, instance) = actions::caches::find(&app, &caller.user, &id).await?;
    let tag = cache_tag(&cache, &instance);
    Ok(tagged(StatusCode::OK, &tag, &CacheView::read(&app, cache, &instance).await?))
}

/// Deletes a cache with its contents, and revokes its tokens. It can't be undone
#[utoipa::path(delete, path = "/caches/{cache}", tag = "Caches", operation_id = "deleteCache",
    params(("cache" = String, Path, description = "Its id"),
        ("If-Match" = Option<String>, Header, description = "Delete it only if its ETag is this")),
    security(("api_key" = ["caches"])),
    responses((status = 204, description = "It is deleted"), ChangeErrors))]
pub(super) async fn delete(
    State(app): State<Arc<AppState>>,
    caller: Principal<Caches>,
    Ids(id): Ids<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let (cache, instance) = actions::caches::find(&app, &caller.user, &id).await?;
    IfMatch::of(&headers).check(&cache_tag(&cache, &instance))?;
    actions::caches::delete(&app, &caller.user, &cache).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The user's cache with this id.
pub(super) async fn find(app: &AppState, user: &User, id: &str) -> Result<(Cache, Instance), Problem> {
    Ok(actions::caches::find(app, user, id).await?)
}

/// The entity tag of a cache: of what its user can change.
pub(super) fn cache_tag(cache: &Cache, instance: &Instance) -> String {
    let Cache { id, name, plan, suspended, sleep_after_seconds, .. } = cache;
    entity_tag(&(id, name, plan, suspended, sleep_after_seconds, instance.memory_mb))
}

impl CacheView {
    async fn read(app: &AppState, cache: Cache, instance: &Instance) -> Result<Self, Problem> {
        let operations = app.store.operations_of(&cache.id, actions::caches::OPERATIONS_MAX).await?;
        let state = CacheState::new(instance).with_operations(instance, &operations);
        Ok(Self {
            id: cache.id,
            name: cache.name,
            plan: cache.plan,
            state: state.state,
            state_detail: state.detail,
            suspended: cache.suspended,
            memory_mb: instance.memory_mb,
            connections_max: instance.connections,
            item_size_max: instance.item_size_max,
            sleep_after_seconds: cache.sleep_after_seconds,
            sleep_after_seconds_in_effect: instance.effective_sleep_after_seconds,
            endpoint: EndpointView::of(app),
            memcached_version: state.version,
            created_at: DateTime(cache.created_at),
        })
    }
}

impl EndpointView {
    pub(super) fn of(app: &AppState) -> Self {
        Self {
            host: app.endpoint.host().to_owned(),
            port: app.endpoint.port(),
            tls: app.config.ca_certificate.is_some(),
        }
    }
}
