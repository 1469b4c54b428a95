//! Another choice of what a token may do. What it has now is in the form.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use store::{StoreError, TokenRow, UserState, now};

use super::{Frame, Trouble, render, retry_after, token, tokens};
use crate::csrf::Submitted;
use crate::date::day;
use crate::permissions::{Limits, lifetimes};
use crate::session::SignedIn;
use crate::web::Web;

#[derive(Template)]
#[template(path = "change.html")]
struct Page<'a> {
    frame: Frame,
    form_token: &'a str,
    id: &'a str,
    name: &'a str,
    made: String,
    /// How it ended, if it has: then there is no form.
    over: Option<String>,
    lifetimes: Vec<(&'static str, String)>,
    limits: &'a Limits,
    wrong_limits: Option<String>,
}

pub(crate) async fn show(
    State(web): State<Arc<Web>>,
    me: SignedIn,
    Path(id): Path<String>,
) -> Result<Response, Trouble> {
    let (_, token) = tokens::held(&web, &me, &id).await?;
    page(&web, &me, &token, StatusCode::OK, (&Limits::of(&token.permissions), None)).await
}

pub(crate) async fn submit(
    State(web): State<Arc<Web>>,
    Path(id): Path<String>,
    Submitted { sender: me, fields: limits }: Submitted<SignedIn, Limits>,
) -> Result<Response, Trouble> {
    let (id, token) = tokens::held(&web, &me, &id).await?;
    if !limits.is_whole() {
        return Err(Trouble::Unreadable);
    }
    let refuse = async |status, wrong: String| page(&web, &me, &token, status, (&limits, Some(wrong))).await;
    if me.user.state == UserState::Suspended {
        return refuse(StatusCode::FORBIDDEN, tokens::SUSPENDED.into()).await;
    }
    let change = match limits.change(now()) {
        Ok(change) => change,
        Err(wrong) => return refuse(StatusCode::UNPROCESSABLE_ENTITY, wrong).await,
    };
    if let Err((wait, wrong)) = tokens::take_one(&web, &me) {
        let mut response = refuse(StatusCode::TOO_MANY_REQUESTS, wrong).await?;
        retry_after(response.headers_mut(), wait);
        return Ok(response);
    }
    match me.store(&web).update_permissions(&id, change).await {
        Ok(_) => Ok(Redirect::to(&format!("/tokens/{id}")).into_response()),
        // It may have ended after we looked.
        Err(StoreError::NotFound(_)) => {
            let (_, token) = tokens::held(&web, &me, id.as_str()).await?;
            page(&web, &me, &token, StatusCode::OK, (&limits, None)).await
        }
        Err(error) => Err(error.into()),
    }
}

/// With the form, or with how the token has ended, which no status that was meant for the form changes.
async fn page(
    web: &Web,
    me: &SignedIn,
    token: &TokenRow,
    status: StatusCode,
    (limits, wrong_limits): (&Limits, Option<String>),
) -> Result<Response, Trouble> {
    let over = token::over(token, &web.store.leaks_of(&me.user.id).await?);
    let status = if over.is_some() { StatusCode::GONE } else { status };
    let page = Page {
        frame: Frame::of(me),
        form_token: &me.session.form_token,
        id: &token.id,
        name: &token.name,
        made: day(token.created_at),
        over,
        lifetimes: lifetimes(token.permissions.expires_at),
        limits,
        wrong_limits,
    };
    render(status, &page)
}
