//! Token page: its permissions, which proxies have applied its last change, and recent denials.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use store::{Propagation, Proxy, now};

use super::find;
use crate::forms::permissions;
use crate::http::reject::PageError;
use crate::http::session::SignedIn;
use crate::layout::{Layout, render};
use crate::pages::caches::{Tab, path_of};
use crate::state::AppState;
use crate::view::date::{ago, day};
use crate::view::denials::DenialView;
use crate::view::token::{inactive_reason, last_used};

#[derive(Template)]
#[template(path = "tokens/show.html")]
struct Page<'a> {
    layout: Layout,
    id: &'a str,
    name: &'a str,
    created: String,
    last_used: String,
    /// Why it is inactive; `None` for an active token.
    inactive_reason: Option<String>,
    permissions: Vec<String>,
    can_rotate: bool,
    successor: Option<&'a str>,
    denials: Vec<DenialView>,
    propagation: Propagation,
    tokens_path: String,
    /// Whether its permissions were changed just now.
    saved: bool,
}

#[derive(Deserialize)]
pub(crate) struct Params {
    saved: Option<String>,
}

pub(crate) async fn show(
    State(app): State<Arc<AppState>>,
    me: SignedIn,
    Path(id): Path<String>,
    params: Query<Params>,
) -> Result<Response, PageError> {
    let (id, token) = find(&app, &me, &id).await?;
    let denials = app.store.denials_of(&token.id).await?;
    let propagation = app.store.propagation(&id).await?;
    let inactive_reason = inactive_reason(&token, &app.store.leaks_of(&me.user.id).await?);
    let page = Page {
        layout: Layout::signed_in(&me),
        id: &token.id,
        name: &token.name,
        created: day(token.created_at),
        last_used: last_used(&token),
        can_rotate: inactive_reason.is_none() && token.successor.is_none(),
        inactive_reason,
        permissions: permissions::summary(&token.permissions),
        successor: token.successor.as_deref(),
        denials: denials.into_iter().map(|denial| DenialView::new(denial, &token.name)).collect(),
        propagation,
        saved: params.saved.is_some(),
        tokens_path: path_of(&token.cache_id, Tab::Tokens),
    };
    render(StatusCode::OK, &page)
}

impl Page<'_> {
    /// When a proxy last reported to the store.
    fn last_seen(&self, proxy: &Proxy) -> String {
        ago(now().since(proxy.seen_at))
    }
}
