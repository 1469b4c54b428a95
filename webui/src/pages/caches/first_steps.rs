//! What follows a new token: save it, connect with it, and see the first connection. The only page that shows a token's secret.

use std::sync::Arc;

use askama::Template;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use store::now;

use super::{Header, OwnCache, Tab, path_of};
use crate::http::reject::PageError;
use crate::http::session::SignedIn;
use crate::layout::{Layout, render};
use crate::pages::tokens;
use crate::state::AppState;
use crate::view::date::ago;
use crate::view::denials::DenialView;
use crate::view::revealed_token::RevealedToken;
use crate::view::snippets::catalogue::Kind;
use crate::view::snippets::{Snippet, Way};

#[derive(Template)]
#[template(path = "caches/first_steps.html")]
struct Page<'a> {
    layout: Layout,
    header: Header,
    endpoint: String,
    has_tls: bool,
    revealed: &'a RevealedToken,
    /// One for each language and framework.
    snippets: Vec<Snippet>,
}

/// Whether a token is in use (JSON).
#[derive(Serialize)]
pub(crate) struct FirstUse {
    /// `waiting`, `connected` or `denied`.
    state: &'static str,
    text: String,
    /// What helps, if it was denied.
    fix: String,
}

/// The page with a token that was just created.
pub(crate) async fn page(
    app: &AppState,
    own: &OwnCache,
    revealed: &RevealedToken,
) -> Result<Response, PageError> {
    let has_tls = app.config.ca_certificate.is_some();
    let page = Page {
        layout: Layout::signed_in(&own.me),
        header: Header::new(app, own, Tab::Tokens).await?,
        endpoint: app.endpoint.to_string(),
        has_tls,
        revealed,
        snippets: Snippet::of_each_group(&app.endpoint, &revealed.credentials, has_tls),
    };
    render(StatusCode::OK, &page)
}

/// `GET /tokens/{id}/first-use`: polled while the page waits for the first connection.
pub(crate) async fn first_use(
    State(app): State<Arc<AppState>>,
    me: SignedIn,
    Path(id): Path<String>,
) -> Result<Json<FirstUse>, PageError> {
    let (id, token) = tokens::find(&app, &me, &id).await?;
    if let Some(at) = token.last_used_at {
        let from = token.last_used_from.map(|source| format!(" from {source}")).unwrap_or_default();
        let text = format!("Connected{from}, {}.", ago(now().since(at)));
        return Ok(Json(FirstUse { state: "connected", text, fix: String::new() }));
    }
    let denied = app.store.denials_of(id.as_str()).await?.into_iter().next();
    Ok(Json(match denied.map(|denial| DenialView::new(denial, &token.name)) {
        Some(denial) => {
            let text = format!("Denied: {}. {}, {}.", denial.summary, denial.origin, denial.when);
            FirstUse { state: "denied", text, fix: denial.fix.to_owned() }
        }
        None => FirstUse { state: "waiting", text: String::new(), fix: String::new() },
    }))
}

impl Page<'_> {
    fn next_path(&self) -> String {
        path_of(&self.header.cache_id, Tab::Tokens)
    }
}
