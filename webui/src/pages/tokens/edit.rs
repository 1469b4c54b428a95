//! Edits a token's permissions. The form is filled in with the current ones.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use store::{TokenChange, TokenRow, UserState, now};

use super::find;
use crate::actions::{self, ActionError, SUSPENDED};
use crate::forms::permissions::{PermissionForm, lifetimes};
use crate::http::csrf::CsrfForm;
use crate::http::reject::PageError;
use crate::http::session::SignedIn;
use crate::layout::{Layout, render};
use crate::state::AppState;
use crate::view::date::day;
use crate::view::token::inactive_reason;

#[derive(Template)]
#[template(path = "tokens/edit.html")]
struct Page<'a> {
    layout: Layout,
    csrf_token: &'a str,
    id: &'a str,
    name: &'a str,
    created: String,
    /// Why it is inactive, which replaces the form; `None` for an active token.
    inactive_reason: Option<String>,
    lifetimes: Vec<(&'static str, String)>,
    form: &'a PermissionForm,
    /// Whether the fields' values were refused.
    shows_errors: bool,
    form_error: Option<String>,
}

pub(crate) async fn show(
    State(app): State<Arc<AppState>>,
    me: SignedIn,
    Path(id): Path<String>,
) -> Result<Response, PageError> {
    let (_, token) = find(&app, &me, &id).await?;
    let form = PermissionForm::from_permissions(&token.permissions);
    page(&app, &me, &token, StatusCode::OK, (&form, None)).await
}

pub(crate) async fn submit(
    State(app): State<Arc<AppState>>,
    Path(id): Path<String>,
    CsrfForm { sender: me, fields: form }: CsrfForm<SignedIn, PermissionForm>,
) -> Result<Response, PageError> {
    let (id, token) = find(&app, &me, &id).await?;
    if !form.is_complete() {
        return Err(PageError::Malformed);
    }
    let reject = async |status, error: String| page(&app, &me, &token, status, (&form, Some(error))).await;
    if me.user.state == UserState::Suspended {
        return reject(StatusCode::FORBIDDEN, SUSPENDED.into()).await;
    }
    let Ok(change) = form.change(now()) else {
        return page(&app, &me, &token, StatusCode::UNPROCESSABLE_ENTITY, (&form, None)).await;
    };
    let change = |_: &TokenRow, new: &mut TokenChange| {
        change(&mut new.permissions);
        true
    };
    match actions::tokens::change(&app, &me.user, &id, change).await {
        Ok(_) => Ok(Redirect::to(&format!("/tokens/{id}?saved")).into_response()),
        Err(ActionError::Refused(refusal)) => {
            let mut response = reject(refusal.status(), refusal.message.clone()).await?;
            refusal.add_to(&mut response);
            Ok(response)
        }
        // The token was revoked or expired after the check.
        Err(ActionError::Failed(PageError::NotFound)) => {
            let (_, token) = find(&app, &me, id.as_str()).await?;
            page(&app, &me, &token, StatusCode::OK, (&form, None)).await
        }
        Err(ActionError::Failed(error)) => Err(error),
    }
}

/// The page with the form; for an inactive token, with the reason and status 410 instead.
async fn page(
    app: &AppState,
    me: &SignedIn,
    token: &TokenRow,
    status: StatusCode,
    (form, form_error): (&PermissionForm, Option<String>),
) -> Result<Response, PageError> {
    let inactive_reason = inactive_reason(token, &app.store.leaks_of(&me.user.id).await?);
    let status = if inactive_reason.is_some() { StatusCode::GONE } else { status };
    let page = Page {
        layout: Layout::signed_in(me),
        csrf_token: &me.session.form_token,
        id: &token.id,
        name: &token.name,
        created: day(token.created_at),
        inactive_reason,
        lifetimes: lifetimes(token.permissions.expires_at),
        form,
        shows_errors: status == StatusCode::UNPROCESSABLE_ENTITY,
        form_error,
    };
    render(status, &page)
}
