//! Gives a user a random password, which the response shows, and nothing later.

use askama::Template;
use axum::http::StatusCode;
use axum::response::Response;
use identity::password;
use store::{NewPassword, StoreError};

use crate::http::client_ip::ClientIp;
use crate::http::reject::PageError;
use crate::layout::{Layout, render};
use crate::pages::account;
use crate::pages::admin::Tab;
use crate::pages::admin::user_path;
use crate::pages::admin::users::OneUser;
use crate::password::{Priority, Requester};
use crate::state::AppState;

/// No `Debug`: that would print the password.
#[derive(Template)]
#[template(path = "admin/users/new_password.html")]
struct Page<'a> {
    layout: Layout,
    tab: Tab,
    email: &'a str,
    path: String,
    password: &'a str,
    tokens_revoked: usize,
}

pub(super) async fn reset(
    app: &AppState,
    OneUser { admin, user, .. }: &OneUser,
    client_ip: ClientIp,
    revoke_tokens: bool,
) -> Result<Response, PageError> {
    let generated = password::generate();
    let requester = Requester { source: client_ip.source(), priority: Priority::Known };
    let shown = generated.reveal().to_owned();
    let hash = app.passwords.hash(requester, generated).await?;
    let new = NewPassword { hash: &hash, replaces: None, revoke_tokens };
    let tokens_revoked = match admin.store(app).change_password(&user.id, &new).await {
        Ok(revoked) => revoked,
        // The account was deleted meanwhile.
        Err(StoreError::NotFound(_)) => return Err(PageError::NotFound),
        Err(error) => return Err(error.into()),
    };
    account::tell_of_password(app, user).await;
    let page = Page {
        layout: Layout::signed_in(&admin.me),
        tab: Tab::Users,
        email: &user.email,
        path: user_path(&user.id),
        password: &shown,
        tokens_revoked,
    };
    render(StatusCode::OK, &page)
}
