//! What happened to a cache: the operations that are kept and the repairs of the last month, in one list by time.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::{Header, OwnCache, Tab};
use crate::http::reject::PageError;
use crate::layout::{Layout, render};
use crate::state::AppState;
use crate::view::activity::{self, Activity};

/// Repairs on the page: all that the store keeps of an instance.
const EVENTS_MAX: i64 = 50;

#[derive(Template)]
#[template(path = "caches/activity.html")]
struct Page {
    layout: Layout,
    header: Header,
    activities: Vec<Activity>,
}

pub(crate) async fn show(State(app): State<Arc<AppState>>, own: OwnCache) -> Result<Response, PageError> {
    let header = Header::new(&app, &own, Tab::Activity).await?;
    let events = app.store.instance_events(&own.instance.id, EVENTS_MAX).await?;
    let page = Page {
        layout: Layout::signed_in(&own.me),
        activities: activity::list(&header.operations, &events, &own.me.user.id),
        header,
    };
    render(StatusCode::OK, &page)
}
