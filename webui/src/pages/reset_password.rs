//! Sets a new password with a link that was sent by mail. All sessions end, and the owner is told.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use identity::Password;
use serde::Deserialize;
use store::{AccountLink, LinkKind, NewPassword, StoreError};

use super::{links, password_check};
use crate::http::client_ip::ClientIp;
use crate::http::csrf::CsrfForm;
use crate::http::reject::PageError;
use crate::http::session::{self, FollowedLink, Visitor};
use crate::layout::{Layout, render, set_cookie};
use crate::state::AppState;

#[derive(Template)]
#[template(path = "reset_password.html")]
struct Page<'a> {
    layout: Layout,
    csrf_token: &'a str,
    email: &'a str,
    error: Option<String>,
    revoke_tokens: bool,
}

#[derive(Deserialize)]
pub(crate) struct Fields {
    #[serde(default)]
    new_password: String,
    revoke_tokens: Option<String>,
}

pub(crate) async fn show(
    State(app): State<Arc<AppState>>,
    visitor: Visitor,
    link: FollowedLink,
) -> Result<Response, PageError> {
    match links::followed(&app, &link, LinkKind::ResetPassword).await? {
        Some(link) => page(StatusCode::OK, visitor, &link, None, false),
        None => links::ended(&visitor),
    }
}

pub(crate) async fn submit(
    State(app): State<Arc<AppState>>,
    client_ip: ClientIp,
    link: FollowedLink,
    CsrfForm { sender: visitor, fields }: CsrfForm<Visitor, Fields>,
) -> Result<Response, PageError> {
    let link = links::followed(&app, &link, LinkKind::ResetPassword).await?;
    let (Some(link), Some(mail)) = (link, &app.mail) else { return links::ended(&visitor) };
    let revoke_tokens = fields.revoke_tokens.is_some();
    let password = match Password::parse(fields.new_password) {
        Ok(password) => password,
        Err(error) => {
            let error = Some(error.to_string());
            return page(StatusCode::UNPROCESSABLE_ENTITY, visitor, &link, error, revoke_tokens);
        }
    };
    let user_id = link.user_id.as_deref().unwrap_or_default();
    password_check::acquire_use(&app, user_id).map_err(PageError::RateLimited)?;
    let hash = app.passwords.hash(app.password_attempts.requester(client_ip.source()), password).await?;
    let new = NewPassword { hash: &hash, replaces: None, revoke_tokens };
    let store = app.store.acting_as_user(user_id);
    match store.reset_password(&link.id, &new, mail.limits()).await {
        Ok(_) => mail.send_soon(),
        // Another request has used the link meanwhile.
        Err(StoreError::NotFound(_)) => return links::ended(&visitor),
        Err(error) => return Err(error.into()),
    }
    let mut response = Redirect::to("/sign-in?reset").into_response();
    set_cookie(response.headers_mut(), Some(session::expired_link_cookie(&app)));
    Ok(response)
}

fn page(
    status: StatusCode,
    visitor: Visitor,
    link: &AccountLink,
    error: Option<String>,
    revoke_tokens: bool,
) -> Result<Response, PageError> {
    let layout = Layout::for_visitor(&visitor);
    let page = Page { layout, csrf_token: &visitor.csrf_token, email: &link.email, error, revoke_tokens };
    let mut response = render(status, &page)?;
    set_cookie(response.headers_mut(), visitor.new_cookie);
    Ok(response)
}
