//! `GET /admin/caches`: caches of all users, those first that have failed, and operations in progress.

use std::sync::Arc;

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use store::{InstanceState, ListedCache, OpenOperation, Timestamp};

use super::CacheLine;
use crate::http::admin::Admin;
use crate::http::reject::PageError;
use crate::layout::{Layout, render};
use crate::pages::admin::{Tab, cache_path, cut_page, plain_id, rows_to_read};
use crate::state::AppState;
use crate::view::operation;

/// Failed caches above the list, and operations in progress.
const SHOWN_MAX: i64 = 20;

#[derive(Template)]
#[template(path = "admin/caches/list.html")]
struct Page {
    layout: Layout,
    tab: Tab,
    /// The state that was asked for; empty for any.
    state: &'static str,
    states: Vec<&'static str>,
    is_first: bool,
    failed: Vec<CacheLine>,
    operations: Vec<OperationLine>,
    caches: Vec<CacheLine>,
    /// The time and the id before which the next page goes on.
    next: Option<(i64, String)>,
}

struct OperationLine {
    path: String,
    title: String,
    cache: String,
    email: String,
    state: &'static str,
    progress: i64,
    message: String,
    requested_by: String,
}

#[derive(Default, Deserialize)]
pub(crate) struct Params {
    #[serde(default)]
    state: String,
    before: Option<i64>,
    #[serde(default)]
    id: String,
}

pub(crate) async fn show(
    State(app): State<Arc<AppState>>,
    admin: Admin,
    params: Result<Query<Params>, QueryRejection>,
) -> Result<Response, PageError> {
    let Query(params) = params.unwrap_or_default();
    let listed = InstanceState::ALL.into_iter().filter(|state| *state != InstanceState::Deleting);
    let state = listed.clone().find(|state| state.as_str() == params.state);
    let at = params.before.map(Timestamp::from_millis);
    let before = at.zip(plain_id(&params.id).ok());
    let (store, is_first) = (&app.store, before.is_none());
    let (caches, has_more) = cut_page(store.find_caches(state, before, rows_to_read()).await?);
    let shows_failed = is_first && state.is_none();
    let failed = if shows_failed { store.failed_caches(SHOWN_MAX).await? } else { Vec::new() };
    let open = if is_first { store.operations_in_progress(SHOWN_MAX).await? } else { Vec::new() };
    let cursor = |cache: &ListedCache| (cache.created_at.as_millis(), cache.id.clone());
    let page = Page {
        layout: Layout::signed_in(&admin.me),
        tab: Tab::Caches,
        state: state.map_or("", InstanceState::as_str),
        states: listed.map(InstanceState::as_str).collect(),
        is_first,
        failed: failed.into_iter().map(CacheLine::new).collect(),
        operations: open.into_iter().map(OperationLine::new).collect(),
        next: caches.last().filter(|_| has_more).map(cursor),
        caches: caches.into_iter().map(CacheLine::new).collect(),
    };
    render(StatusCode::OK, &page)
}

impl OperationLine {
    fn new(open: OpenOperation) -> Self {
        let OpenOperation { operation: it, cache, email } = open;
        Self {
            path: cache_path(&it.cache_id),
            title: operation::title(&it),
            cache,
            email,
            state: it.state.as_str(),
            progress: it.progress,
            message: it.message.unwrap_or_default(),
            requested_by: it.requested_by,
        }
    }
}
