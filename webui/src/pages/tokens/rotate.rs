//! Rotates a token: creates a new one with the same name and permissions, and lets the old one expire.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use store::{TokenRow, now};

use super::find_unrevoked;
use crate::actions::{self, ActionError};
use crate::http::csrf::CsrfForm;
use crate::http::reject::PageError;
use crate::http::session::SignedIn;
use crate::layout::{Layout, render};
use crate::pages::caches::{OwnCache, Tab, first_steps, path_of};
use crate::state::AppState;
use crate::view::date::day;
use crate::view::revealed_token::RevealedToken;

/// Choices for the old token's expiry: the value that is sent, and its label.
const GRACE_PERIODS: [(&str, &str); 4] =
    [("0s", "at once"), ("1h", "in an hour"), ("24h", "in a day"), ("7d", "in a week")];

#[derive(Template)]
#[template(path = "tokens/rotate.html")]
struct Page<'a> {
    layout: Layout,
    csrf_token: &'a str,
    id: &'a str,
    name: &'a str,
    created: String,
    tokens_path: String,
    grace_periods: &'a [(&'a str, &'a str)],
    error: Option<&'a str>,
}

#[derive(Deserialize)]
pub(crate) struct Fields {
    #[serde(default)]
    grace: String,
}

pub(crate) async fn show(
    State(app): State<Arc<AppState>>,
    me: SignedIn,
    Path(id): Path<String>,
) -> Result<Response, PageError> {
    let (_, token) = find_unrevoked(&app, &me, &id).await?;
    if !token.is_active(now()) || token.successor.is_some() {
        return Err(PageError::NotFound);
    }
    page(&me, &token, StatusCode::OK, None)
}

fn page(
    me: &SignedIn,
    token: &TokenRow,
    status: StatusCode,
    error: Option<&str>,
) -> Result<Response, PageError> {
    let page = Page {
        layout: Layout::signed_in(me),
        csrf_token: &me.session.form_token,
        id: &token.id,
        name: &token.name,
        created: day(token.created_at),
        tokens_path: path_of(&token.cache_id, Tab::Tokens),
        grace_periods: &GRACE_PERIODS,
        error,
    };
    render(status, &page)
}

pub(crate) async fn submit(
    State(app): State<Arc<AppState>>,
    Path(id): Path<String>,
    CsrfForm { sender: me, fields }: CsrfForm<SignedIn, Fields>,
) -> Result<Response, PageError> {
    let (_, token) = find_unrevoked(&app, &me, &id).await?;
    if !GRACE_PERIODS.iter().any(|(value, _)| *value == fields.grace) {
        return Err(PageError::Malformed);
    }
    let grace = store::parse_duration(&fields.grace).map_err(|_| PageError::Malformed)?;
    let own = OwnCache::find(&app, me, &token.cache_id).await?;
    match actions::tokens::rotate(&app, &own.me.user, &own.cache, &token, grace).await {
        Ok((new, _)) => {
            let revealed = RevealedToken::new(&new, &token.name, &own.cache.name);
            first_steps::page(&app, &own, &revealed).await
        }
        Err(ActionError::Refused(refusal)) => {
            let mut response = page(&own.me, &token, refusal.status(), Some(&refusal.message))?;
            refusal.add_to(&mut response);
            Ok(response)
        }
        Err(ActionError::Failed(error)) => Err(error),
    }
}
