//! Tokens of a cache, and the form for a new one.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use store::{Leak, TokenRow};

use super::{Header, OwnCache, Tab};
use crate::forms::permissions::{self, LIFETIMES, PermissionForm};
use crate::http::reject::PageError;
use crate::layout::{Layout, render};
use crate::state::AppState;
use crate::view::date::day;
use crate::view::token::{inactive_reason, last_used};

/// Revoked and expired tokens on the page.
const INACTIVE_TOKENS_MAX: i64 = 20;

#[derive(Template)]
#[template(path = "caches/tokens.html")]
struct Page<'a> {
    layout: Layout,
    header: Header,
    csrf_token: &'a str,
    active: Vec<TokenView>,
    inactive: Vec<TokenView>,
    lifetimes: &'a [(&'a str, &'a str)],
    form: &'a NewTokenForm,
    /// Whether a token was revoked just now.
    revoked: bool,
}

/// A token in a list.
struct TokenView {
    id: String,
    name: String,
    created: String,
    last_used: String,
    permissions: Vec<String>,
    /// Whether another one replaces it, and it still works.
    is_replaced: bool,
    /// Why it is inactive; `None` for an active token.
    inactive_reason: Option<String>,
}

/// The form for a new token: its values, an error message for the name, and whether any of the permissions is invalid.
#[derive(Default)]
pub(in crate::pages) struct NewTokenForm {
    pub(in crate::pages) name: String,
    pub(in crate::pages) permissions: PermissionForm,
    pub(in crate::pages) name_error: Option<String>,
    pub(in crate::pages) shows_permission_errors: bool,
}

#[derive(Deserialize)]
pub(crate) struct Params {
    revoked: Option<String>,
}

pub(crate) async fn show(
    State(app): State<Arc<AppState>>,
    own: OwnCache,
    params: Query<Params>,
) -> Result<Response, PageError> {
    page(&app, &own, &NewTokenForm::default(), params.revoked.is_some()).await
}

/// The page with the form as it was sent, and its errors.
pub(in crate::pages) async fn with_rejected_form(
    app: &AppState,
    own: &OwnCache,
    status: StatusCode,
    form: &NewTokenForm,
) -> Result<Response, PageError> {
    let mut response = page(app, own, form, false).await?;
    *response.status_mut() = status;
    Ok(response)
}

async fn page(
    app: &AppState,
    own: &OwnCache,
    form: &NewTokenForm,
    revoked: bool,
) -> Result<Response, PageError> {
    let leaks = app.store.leaks_of(&own.me.user.id).await?;
    let listed = app.store.list_tokens(&own.cache.id, INACTIVE_TOKENS_MAX).await?;
    let rows = listed.active.into_iter().chain(listed.inactive);
    let tokens = rows.map(|token| TokenView::new(token, &leaks));
    let (active, inactive): (Vec<_>, Vec<_>) = tokens.partition(|token| token.inactive_reason.is_none());
    let page = Page {
        layout: Layout::signed_in(&own.me),
        header: Header::new(app, own, Tab::Tokens).await?,
        csrf_token: &own.me.session.form_token,
        active,
        inactive,
        lifetimes: &LIFETIMES,
        form,
        revoked,
    };
    render(StatusCode::OK, &page)
}

impl TokenView {
    fn new(row: TokenRow, leaks: &[Leak]) -> Self {
        let inactive_reason = inactive_reason(&row, leaks);
        Self {
            last_used: last_used(&row),
            permissions: permissions::summary(&row.permissions),
            is_replaced: row.successor.is_some(),
            id: row.id,
            name: row.name,
            created: day(row.created_at),
            inactive_reason,
        }
    }
}
