//! Logins and requests that were denied, with the reason and what helps.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use store::UserDenial;

use super::{Header, OwnCache, Tab};
use crate::http::reject::PageError;
use crate::layout::{Layout, render};
use crate::state::AppState;
use crate::view::denials::DenialView;

/// Denials on the page, the newest.
const DENIALS_MAX: i64 = 50;

#[derive(Template)]
#[template(path = "caches/denials.html")]
struct Page {
    layout: Layout,
    header: Header,
    denials: Vec<DenialView>,
    endpoint: String,
}

pub(crate) async fn show(State(app): State<Arc<AppState>>, own: OwnCache) -> Result<Response, PageError> {
    let denials = app.store.named_denials_of_cache(&own.cache.id, DENIALS_MAX).await?;
    let view = |UserDenial { denial, token, .. }: UserDenial| DenialView::new(denial, &token);
    let page = Page {
        layout: Layout::signed_in(&own.me),
        header: Header::new(&app, &own, Tab::Denials).await?,
        denials: denials.into_iter().map(view).collect(),
        endpoint: app.endpoint.to_string(),
    };
    render(StatusCode::OK, &page)
}
