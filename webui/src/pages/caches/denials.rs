//! Logins and requests that were denied, with the reason and what helps.

use std::collections::HashMap;
use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use store::TokenId;

use super::{Header, OwnCache, Tab};
use crate::http::reject::PageError;
use crate::layout::{Layout, render};
use crate::state::AppState;
use crate::view::denials::DenialView;

#[derive(Template)]
#[template(path = "caches/denials.html")]
struct Page {
    layout: Layout,
    header: Header,
    denials: Vec<DenialView>,
}

pub(crate) async fn show(State(app): State<Arc<AppState>>, own: OwnCache) -> Result<Response, PageError> {
    let page = Page {
        layout: Layout::signed_in(&own.me),
        header: Header::new(&app, &own, Tab::Denials).await?,
        denials: recent(&app, &own, usize::MAX).await?,
    };
    render(StatusCode::OK, &page)
}

/// The newest denials of a cache, each with its token's name.
pub(super) async fn recent(app: &AppState, own: &OwnCache, max: usize) -> Result<Vec<DenialView>, PageError> {
    let listed = app.store.list_tokens(&own.cache.id, 0).await?.active;
    let mut names: HashMap<String, String> = listed.into_iter().map(|token| (token.id, token.name)).collect();
    let mut denials = Vec::new();
    for denial in app.store.denials_of_cache(&own.cache.id).await?.into_iter().take(max) {
        if !names.contains_key(&denial.token_id) {
            // One that was revoked: it has most denials, and is looked up once.
            let token = match TokenId::parse(&denial.token_id) {
                Some(id) => app.store.token(&id).await?,
                None => None,
            };
            names.insert(denial.token_id.clone(), token.map_or_else(String::new, |token| token.name));
        }
        let name = names.get(&denial.token_id).map_or("", String::as_str);
        denials.push(DenialView::new(denial, name));
    }
    Ok(denials)
}
