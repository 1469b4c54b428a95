//! Account page: change the password, see and end sessions, delete the account. Password and deletion ask for the current
//! password.

pub(super) mod api_keys;
pub(super) mod data;
pub(super) mod email;
pub(super) mod notifications;
pub(super) mod second_factor;
pub(super) mod webhooks;

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
use store::{MailKind, NewMail, NewPassword, StoreError, User, UserState};

use super::code_check::{self, CodeCheck, has_second_factor};
use super::password_check;
use crate::actions::SUSPENDED;
use crate::http::client_ip::ClientIp;
use crate::http::csrf::{CsrfForm, NoFields};
use crate::http::reject::PageError;
use crate::http::session::{self, SessionSource, SignedIn};
use crate::layout::{Layout, render, set_cookie, set_retry_after};
use crate::password::{Account, Priority, Requester};
use crate::state::AppState;
use crate::view::date::retry_in;
use crate::view::session::SessionView;

/// The last administrator never disappears by the web UI.
const ADMIN_STAYS: &str = "You are an administrator. Let an operator take that from your account first (memgate user update --admin no).";

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
    /// Whether changes need a code of the second factor, too.
    asks_code: bool,
    sessions: Vec<SessionView>,
    /// After others were ended.
    ended: bool,
}

/// Error messages by field.
#[derive(Default)]
struct Errors {
    current_password: Option<String>,
    new_password: Option<String>,
    /// Of the form for another password.
    code: Option<String>,
    delete: Option<String>,
    delete_code: Option<String>,
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
    #[serde(default)]
    code: String,
}

#[derive(Deserialize)]
pub(crate) struct Delete {
    #[serde(default)]
    password: String,
    #[serde(default)]
    code: String,
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
        let (current_password, code) = rejection.messages();
        let errors = Errors { current_password, code, ..Errors::default() };
        let view = PageState { revoke_tokens, errors, ..PageState::default() };
        Ok(rejection.add_headers(page(&app, rejection.status(), &me, view).await?))
    };
    let verified = verify_current(&app, &me, client_ip, fields.current_password, &fields.code).await?;
    let current_hash = match verified {
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
    tell_of_password(&app, &me.user).await;
    let (_, cookie) = session::start(&app, &me.user.id, &from, None).await?;
    let mut response = Redirect::to(&format!("/account?changed={revoked}")).into_response();
    set_cookie(response.headers_mut(), Some(cookie));
    Ok(response)
}

/// Tells a user by mail that the password was changed.
pub(super) async fn tell_of_password(app: &AppState, user: &User) {
    let Some(mail) = &app.mail else { return };
    let notice = NewMail {
        kind: MailKind::PasswordChanged,
        user_id: Some(&user.id),
        recipient: &user.email,
        link_id: None,
    };
    mail.tell(&app.store, &notice).await;
}

pub(crate) async fn delete(
    State(app): State<Arc<AppState>>,
    client_ip: ClientIp,
    CsrfForm { sender: me, fields }: CsrfForm<SignedIn, Delete>,
) -> Result<Response, PageError> {
    // A suspended user would be back at once with the same address.
    let refused = [(me.user.is_admin, ADMIN_STAYS), (me.user.state == UserState::Suspended, SUSPENDED)];
    if let Some((_, why)) = refused.into_iter().find(|(refused, _)| *refused) {
        let errors = Errors { delete: Some(why.to_owned()), ..Errors::default() };
        let view = PageState { errors, ..PageState::default() };
        return page(&app, StatusCode::CONFLICT, &me, view).await;
    }
    if let Err(rejection) = verify_current(&app, &me, client_ip, fields.password, &fields.code).await? {
        let (delete, delete_code) = rejection.messages();
        let errors = Errors { delete, delete_code, ..Errors::default() };
        let view = PageState { errors, ..PageState::default() };
        return Ok(rejection.add_headers(page(&app, rejection.status(), &me, view).await?));
    }
    me.store(&app).delete_user(&me.user.id).await?;
    let mut response = Redirect::to("/sign-in?deleted").into_response();
    set_cookie(response.headers_mut(), Some(session::expired_cookie(&app)));
    Ok(response)
}

/// Why the current password wasn't accepted.
pub(super) enum PasswordRejection {
    Wrong,
    /// The code of the second factor.
    WrongCode,
    RateLimited(Duration),
}

/// The hash of the user's password, if `password` matches it and `code` is one of the second factor, if there is one. Attempts
/// share the limits of sign-ins, so that an unattended browser isn't an easier target than the sign-in page.
pub(super) async fn verify_current(
    app: &AppState,
    me: &SignedIn,
    client_ip: ClientIp,
    password: String,
    code: &str,
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
    let Some(Account { hash, .. }) = account else { return Ok(Err(PasswordRejection::Wrong)) };
    Ok(verify_code(app, &me.user, code).await?.map(|()| hash))
}

/// Uses a code of the user's second factor up, if there is one.
async fn verify_code(
    app: &AppState,
    user: &User,
    code: &str,
) -> Result<Result<(), PasswordRejection>, PageError> {
    if !has_second_factor(app, &user.id).await? {
        return Ok(Ok(()));
    }
    Ok(match code_check::check(app, user, code).await? {
        CodeCheck::Right => Ok(()),
        CodeCheck::Wrong => Err(PasswordRejection::WrongCode),
        CodeCheck::RateLimited(wait) => Err(PasswordRejection::RateLimited(wait)),
    })
}

impl PasswordRejection {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Wrong | Self::WrongCode => StatusCode::UNAUTHORIZED,
            Self::RateLimited(_) => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    pub(super) fn message(&self) -> String {
        match self {
            Self::Wrong => "Wrong password. Check it and try again.".to_owned(),
            Self::WrongCode => {
                "Wrong code, or one that was used already. Wait for the next code and enter that.".to_owned()
            }
            Self::RateLimited(wait) => format!("Too many attempts. Try again {}.", retry_in(*wait)),
        }
    }

    /// The message, beside the password or the code.
    fn messages(&self) -> (Option<String>, Option<String>) {
        match self {
            Self::WrongCode => (None, Some(self.message())),
            Self::Wrong | Self::RateLimited(_) => (Some(self.message()), None),
        }
    }

    /// The time to wait, if there were too many attempts.
    pub(super) fn wait(&self) -> Option<Duration> {
        match self {
            Self::Wrong | Self::WrongCode => None,
            Self::RateLimited(wait) => Some(*wait),
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
        asks_code: has_second_factor(app, &me.user.id).await?,
        sessions: sessions
            .into_iter()
            .map(|session| SessionView::new(session, &me.session.id_hash))
            .collect(),
        ended: view.ended,
    };
    render(status, &page)
}
