//! How to connect: code for each language, with the endpoint filled in.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::{Header, OwnCache, Tab};
use crate::http::reject::PageError;
use crate::layout::{Layout, render};
use crate::state::AppState;
use crate::view::snippets::{self, Credentials, Snippet, Tls};

#[derive(Template)]
#[template(path = "caches/connect.html")]
struct Page {
    layout: Layout,
    header: Header,
    endpoint: String,
    has_tls: bool,
    snippets: [Snippet; 5],
}

pub(crate) async fn show(State(app): State<Arc<AppState>>, own: OwnCache) -> Result<Response, PageError> {
    let page = Page {
        layout: Layout::signed_in(&own.me),
        header: Header::new(&app, &own, Tab::Connect).await?,
        endpoint: app.endpoint.to_string(),
        has_tls: app.config.ca_certificate.is_some(),
        snippets: snippets::all(&app.endpoint, &Credentials::placeholders()),
    };
    render(StatusCode::OK, &page)
}
