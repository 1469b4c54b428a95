//! Account page: change the password, see and end sessions, delete the account. Password and deletion ask for the current
//! password.

pub(super) mod api_keys;

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use identity::Password;
use serde::Deserialize;
use store::{NewPassword, StoreError};

use super::password_check;
use crate::http::client_ip::ClientIp;
use crate::http::csrf::{CsrfForm, NoFields};
use crate::http::reject::PageError;
use crate::http::session::{self, SessionSource, SignedIn};
use crate::layout::{Layout, render, set_cookie, set_retry_after};
use crate::password::{Account, Priority, Requester};
use crate::state::AppState;
use crate::view::date::retry_in;
use crate::view::session::SessionView;

#[derive(Template)]
#[template(path = "account.html")]
struct Page<'a> {
    layout: Layout,
    csrf_token: &'a str,
    email: &'a str,
    /// After a change of the password: how many tokens it revoked.
    changed: Option<u32>,
    revoke_tokens: bool,
    errors: Errors,
    sessions: Vec<SessionView>,
    /// After others were ended.
    ended: bool,
}

/// Error messages by field.
#[derive(Default)]
struct Errors {
    current_password: Option<String>,
    new_password: Option<String>,
    delete: Option<String>,
}

#[derive(Default, Deserialize)]
pub(crate) struct Params {
    changed: Option<u32>,
    ended: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct ChangePassword {
    #[serde(default)]
    current_password: String,
    #[serde(default)]
    new_password: String,
    revoke_tokens: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct Delete {
    #[serde(default)]
    password: String,
}

pub(crate) async fn show(
    State(app): State<Arc<AppState>>,
    me: SignedIn,
    params: Result<Query<Params>, QueryRejection>,
) -> Result<Response, PageError> {
    let Query(params) = params.unwrap_or_default();
    let view = PageState { changed: params.changed, ended: params.ended.is_some(), ..PageState::default() };
    page(&app, StatusCode::OK, &me, view).await
}

/// Signs the user out everywhere else.
pub(crate) async fn end_other_sessions(
    State(app): State<Arc<AppState>>,
    CsrfForm { sender: me, .. }: CsrfForm<SignedIn, NoFields>,
) -> Result<Response, PageError> {
    me.store(&app).end_other_sessions(&me.user.id, &me.session.id_hash).await?;
    Ok(Redirect::to("/account?ended").into_response())
}

/// Ends all sessions, and starts a new one for this browser.
pub(crate) async fn change_password(
    State(app): State<Arc<AppState>>,
    client_ip: ClientIp,
    from: SessionSource,
    CsrfForm { sender: me, fields }: CsrfForm<SignedIn, ChangePassword>,
) -> Result<Response, PageError> {
    let revoke_tokens = fields.revoke_tokens.is_some();
    let new = match Password::parse(fields.new_password) {
        Ok(new) => new,
        Err(error) => {
            let errors = Errors { new_password: Some(error.to_string()), ..Errors::default() };
            let view = PageState { revoke_tokens, errors, ..PageState::default() };
            return page(&app, StatusCode::UNPROCESSABLE_ENTITY, &me, view).await;
        }
    };
    let reject = async |rejection: PasswordRejection| {
        let errors = Errors { current_password: Some(rejection.message()), ..Errors::default() };
        let view = PageState { revoke_tokens, errors, ..PageState::default() };
        Ok(rejection.add_headers(page(&app, rejection.status(), &me, view).await?))
    };
    let current_hash = match verify_current(&app, &me, client_ip, fields.current_password).await? {
        Ok(hash) => hash,
        Err(rejection) => return reject(rejection).await,
    };
    let hash =
        app.passwords.hash(Requester { source: client_ip.source(), priority: Priority::Known }, new).await?;
    let new = NewPassword { hash: &hash, replaces: Some(&current_hash), revoke_tokens };
    let revoked = match me.store(&app).change_password(&me.user.id, &new).await {
        Ok(revoked) => revoked,
        // A concurrent change has replaced the password that was entered.
        Err(StoreError::NotFound(_)) => return reject(PasswordRejection::Wrong).await,
        Err(error) => return Err(error.into()),
    };
    let (_, cookie) = session::start(&app, &me.user.id, &from, None).await?;
    let mut response = Redirect::to(&format!("/account?changed={revoked}")).into_response();
    set_cookie(response.headers_mut(), Some(cookie));
    Ok(response)
}

pub(crate) async fn delete(
    State(app): State<Arc<AppState>>,
    client_ip: ClientIp,
    CsrfForm { sender: me, fields }: CsrfForm<SignedIn, Delete>,
) -> Result<Response, PageError> {
    if let Err(rejection) = verify_current(&app, &me, client_ip, fields.password).await? {
        let errors = Errors { delete: Some(rejection.message()), ..Errors::default() };
        let view = PageState { errors, ..PageState::default() };
        return Ok(rejection.add_headers(page(&app, rejection.status(), &me, view).await?));
    }
    me.store(&app).delete_user(&me.user.id).await?;
    let mut response = Redirect::to("/sign-in?deleted").into_response();
    set_cookie(response.headers_mut(), Some(session::expired_cookie(&app)));
    Ok(response)
}

/// Why the current password wasn't accepted.
enum PasswordRejection {
    Wrong,
    RateLimited(Duration),
}

/// The hash of the user's password, if `password` matches it. Attempts share the limits of sign-ins, so
/// that an unattended browser isn't an easier target than the sign-in page.
async fn verify_current(
    app: &AppState,
    me: &SignedIn,
    client_ip: ClientIp,
    password: String,
) -> Result<Result<String, PasswordRejection>, PageError> {
    let requester = match password_check::begin(app, &me.user.email, client_ip, true).await {
        Ok(requester) => requester,
        Err(wait) => return Ok(Err(PasswordRejection::RateLimited(wait))),
    };
    let (store, user_id) = (app.store.clone(), me.user.id.clone());
    let find = async move {
        let hash = store.password_hash(&user_id).await?;
        Ok::<_, StoreError>(hash.map(|hash| Account { of: (), hash }))
    };
    let account = app.passwords.verify(requester, password, find, |account| ready(Ok(account))).await??;
    if account.is_some() {
        if let Err(wait) = password_check::acquire_use(app, &me.user.id) {
            return Ok(Err(PasswordRejection::RateLimited(wait)));
        }
        app.password_attempts.record_success(&me.user.email, client_ip.source());
    }
    Ok(account.map(|account| account.hash).ok_or(PasswordRejection::Wrong))
}

impl PasswordRejection {
    fn status(&self) -> StatusCode {
        match self {
            Self::Wrong => StatusCode::UNAUTHORIZED,
            Self::RateLimited(_) => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Wrong => "Wrong password. Check it and try again.".to_owned(),
            Self::RateLimited(wait) => format!("Too many attempts. Try again {}.", retry_in(*wait)),
        }
    }

    fn add_headers(&self, mut response: Response) -> Response {
        if let Self::RateLimited(wait) = self {
            set_retry_after(response.headers_mut(), *wait);
        }
        response
    }
}

/// What depends on the request before the page.
#[derive(Default)]
struct PageState {
    changed: Option<u32>,
    ended: bool,
    revoke_tokens: bool,
    errors: Errors,
}

async fn page(
    app: &AppState,
    status: StatusCode,
    me: &SignedIn,
    view: PageState,
) -> Result<Response, PageError> {
    let (idle, age) = (app.config.session_idle(), app.config.session_age());
    let sessions = app.store.sessions_of(&me.user.id, idle, age).await?;
    let page = Page {
        layout: Layout::signed_in(me),
        csrf_token: &me.session.form_token,
        email: &me.user.email,
        changed: view.changed,
        revoke_tokens: view.revoke_tokens,
        errors: view.errors,
        sessions: sessions
            .into_iter()
            .map(|session| SessionView::new(session, &me.session.id_hash))
            .collect(),
        ended: view.ended,
    };
    render(status, &page)
}
