//! Revokes a token, after a confirmation.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};

use super::find_unrevoked;
use crate::actions;
use crate::http::csrf::{CsrfForm, NoFields};
use crate::http::reject::PageError;
use crate::http::session::SignedIn;
use crate::layout::{Layout, render};
use crate::pages::caches::{Tab, path_of};
use crate::state::AppState;
use crate::view::date::day;

#[derive(Template)]
#[template(path = "tokens/revoke.html")]
struct Page<'a> {
    layout: Layout,
    csrf_token: &'a str,
    id: &'a str,
    name: &'a str,
    created: String,
    tokens_path: String,
}

pub(crate) async fn show(
    State(app): State<Arc<AppState>>,
    me: SignedIn,
    Path(id): Path<String>,
) -> Result<Response, PageError> {
    let (_, token) = find_unrevoked(&app, &me, &id).await?;
    let page = Page {
        layout: Layout::signed_in(&me),
        csrf_token: &me.session.form_token,
        id: &token.id,
        name: &token.name,
        created: day(token.created_at),
        tokens_path: path_of(&token.cache_id, Tab::Tokens),
    };
    render(StatusCode::OK, &page)
}

pub(crate) async fn submit(
    State(app): State<Arc<AppState>>,
    Path(id): Path<String>,
    CsrfForm { sender: me, .. }: CsrfForm<SignedIn, NoFields>,
) -> Result<Response, PageError> {
    let (id, token) = find_unrevoked(&app, &me, &id).await?;
    actions::tokens::revoke(&app, &me.user, &id).await?;
    Ok(Redirect::to(&format!("{}?revoked", path_of(&token.cache_id, Tab::Tokens))).into_response())
}
