//! Home page.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use crate::http::reject::PageError;
use crate::http::session::Visitor;
use crate::layout::{Layout, render};
use crate::state::AppState;

#[derive(Template)]
#[template(path = "home.html")]
struct Page<'a> {
    layout: Layout,
    endpoint: &'a str,
}

pub(crate) async fn show(State(app): State<Arc<AppState>>, visitor: Visitor) -> Result<Response, PageError> {
    let endpoint = app.endpoint.to_string();
    render(StatusCode::OK, &Page { layout: Layout::for_visitor(&visitor), endpoint: &endpoint })
}
