//! `GET /caches`: a user's caches, how many there may be, and a form for another.

use std::sync::Arc;

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use serde::Deserialize;
use store::{Cache, CacheName, Plan, UserState};

use super::{CACHES, read_state};
use crate::actions::caches::caches_max;
use crate::http::reject::PageError;
use crate::http::session::SignedIn;
use crate::layout::{Layout, render};
use crate::pages::no_cache;
use crate::state::AppState;
use crate::view::cache_state::CacheState;

#[derive(Template)]
#[template(path = "caches/list.html")]
struct Page<'a> {
    layout: Layout,
    csrf_token: &'a str,
    caches: Vec<CacheRow>,
    max: usize,
    /// The plan of another cache; `None` if there may be no other.
    plan: Option<Plan>,
    user_suspended: bool,
    /// The name of the cache that was just deleted.
    deleted: Option<CacheName>,
    form: NewCacheForm,
}

/// A cache in the list.
struct CacheRow {
    id: String,
    name: String,
    memory_mb: i64,
    state: CacheState,
}

/// The form for a new cache: its value, and an error message.
#[derive(Default)]
pub(super) struct NewCacheForm {
    pub(super) name: String,
    pub(super) error: Option<String>,
}

#[derive(Default, Deserialize)]
pub(crate) struct Params {
    /// Shows the list also if it has one cache only.
    all: Option<String>,
    deleted: Option<String>,
}

/// Somebody with one cache is led to it, unless the list was asked for.
pub(crate) async fn show(
    State(app): State<Arc<AppState>>,
    me: SignedIn,
    params: Result<Query<Params>, QueryRejection>,
) -> Result<Response, PageError> {
    let Query(params) = params.unwrap_or_default();
    let caches = app.store.caches_of(&me.user.id).await?;
    // Only the address says so: nothing is said of a cache that exists.
    let deleted: Option<CacheName> = params.deleted.and_then(|name| name.parse().ok());
    let deleted = deleted.filter(|name| caches.iter().all(|cache| cache.name != name.to_string()));
    match &*caches {
        [only] if params.all.is_none() && deleted.is_none() => {
            Ok(Redirect::to(&format!("{CACHES}/{}", only.id)).into_response())
        }
        _ => page(&app, &me, StatusCode::OK, (caches, deleted, NewCacheForm::default())).await,
    }
}

/// The page with the form as it was sent, and its error.
pub(super) async fn with_rejected_form(
    app: &AppState,
    me: &SignedIn,
    status: StatusCode,
    form: NewCacheForm,
) -> Result<Response, PageError> {
    page(app, me, status, (app.store.caches_of(&me.user.id).await?, None, form)).await
}

async fn page(
    app: &AppState,
    me: &SignedIn,
    status: StatusCode,
    (caches, deleted, form): (Vec<Cache>, Option<CacheName>, NewCacheForm),
) -> Result<Response, PageError> {
    let plan = app.store.plan(&me.user.plan).await?;
    let max = caches_max(app, plan.as_ref());
    let user_suspended = me.user.state == UserState::Suspended;
    let may_create = caches.len() < max && !user_suspended;
    if caches.is_empty() && !may_create && deleted.is_none() {
        return no_cache::page(me, status);
    }
    let mut rows = Vec::with_capacity(caches.len());
    for Cache { id, name, .. } in caches {
        // One that is being deleted has none.
        if let Some(instance) = app.store.instance_of_cache(&id).await? {
            let state = read_state(app, &instance).await?;
            rows.push(CacheRow { id, name, memory_mb: instance.memory_mb, state });
        }
    }
    let page = Page {
        layout: Layout::signed_in(me),
        csrf_token: &me.session.form_token,
        caches: rows,
        max,
        plan: plan.filter(|_| may_create),
        user_suspended,
        deleted,
        form,
    };
    render(status, &page)
}
