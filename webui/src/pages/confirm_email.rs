//! Confirms a new e-mail address with the link that was sent to it.

use std::sync::Arc;

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use serde::Deserialize;
use store::{LinkKind, StoreError};

use super::links;
use crate::http::csrf::{CsrfForm, NoFields};
use crate::http::reject::PageError;
use crate::http::session::{self, FollowedLink, Visitor};
use crate::layout::{Layout, render, set_cookie};
use crate::state::AppState;

#[derive(Template)]
#[template(path = "confirm_email.html")]
struct Page<'a> {
    layout: Layout,
    csrf_token: &'a str,
    /// The new address; `None` once it is confirmed.
    email: Option<&'a str>,
}

#[derive(Default, Deserialize)]
pub(crate) struct Params {
    done: Option<String>,
}

pub(crate) async fn show(
    State(app): State<Arc<AppState>>,
    visitor: Visitor,
    link: FollowedLink,
    params: Result<Query<Params>, QueryRejection>,
) -> Result<Response, PageError> {
    if params.is_ok_and(|params| params.done.is_some()) {
        return page(visitor, None);
    }
    match links::followed(&app, &link, LinkKind::ChangeEmail).await? {
        Some(link) => page(visitor, Some(&link.email)),
        None => links::ended(&visitor),
    }
}

pub(crate) async fn submit(
    State(app): State<Arc<AppState>>,
    link: FollowedLink,
    CsrfForm { sender: visitor, .. }: CsrfForm<Visitor, NoFields>,
) -> Result<Response, PageError> {
    let link = links::followed(&app, &link, LinkKind::ChangeEmail).await?;
    let (Some(link), Some(mail)) = (link, &app.mail) else { return links::ended(&visitor) };
    let user_id = link.user_id.as_deref().unwrap_or_default();
    match app.store.acting_as_user(user_id).change_email(&link.id, mail.limits()).await {
        Ok(_) => mail.send_soon(),
        // It was used, or somebody else has taken the address since it was sent.
        Err(StoreError::NotFound(_) | StoreError::AlreadyExists(_)) => return links::ended(&visitor),
        Err(error) => return Err(error.into()),
    }
    let mut response = Redirect::to("/confirm-email?done").into_response();
    set_cookie(response.headers_mut(), Some(session::expired_link_cookie(&app)));
    Ok(response)
}

fn page(visitor: Visitor, email: Option<&str>) -> Result<Response, PageError> {
    let page = Page { layout: Layout::for_visitor(&visitor), csrf_token: &visitor.csrf_token, email };
    let mut response = render(StatusCode::OK, &page)?;
    set_cookie(response.headers_mut(), visitor.new_cookie);
    Ok(response)
}
