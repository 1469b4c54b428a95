//! Second factor: set up with a code of the user's device, switched off with the password and a code; recovery codes are shown
//! once.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Redirect, Response};
use serde::Deserialize;
use store::{MailKind, NewMail, SecondFactor, StoreError, now};

use super::{PasswordRejection, has_second_factor, verify_current};
use crate::http::client_ip::ClientIp;
use crate::http::csrf::{CsrfForm, NoFields};
use crate::http::reject::PageError;
use crate::http::session::SignedIn;
use crate::layout::{Layout, render};
use crate::state::AppState;
use crate::totp::{self, CodeSecret};
use crate::view::date::minute_of;

const PATH: &str = "/account/second-factor";

#[derive(Template)]
#[template(path = "account/second_factor.html")]
struct Page<'a> {
    layout: Layout,
    csrf_token: &'a str,
    email: &'a str,
    /// Since when it is on.
    since: Option<String>,
    recovery_codes_left: i64,
    /// While it is set up: the secret as text.
    secret: Option<String>,
    /// Recovery codes, right after they were made.
    new_codes: Vec<String>,
    /// Whether it was switched on just now.
    is_switched_on: bool,
    errors: Errors,
}

/// Error messages by field, of the form that was sent.
#[derive(Default)]
struct Errors {
    password: Option<String>,
    code: Option<String>,
    /// Whether the form is the one for new recovery codes.
    of_codes: bool,
}

#[derive(Deserialize)]
pub(crate) struct Fields {
    #[serde(default)]
    password: String,
    #[serde(default)]
    code: String,
}

pub(crate) async fn show(State(app): State<Arc<AppState>>, me: SignedIn) -> Result<Response, PageError> {
    page(&app, StatusCode::OK, &me, View::default()).await
}

/// Begins to set one up.
pub(crate) async fn begin(
    State(app): State<Arc<AppState>>,
    client_ip: ClientIp,
    CsrfForm { sender: me, fields }: CsrfForm<SignedIn, Fields>,
) -> Result<Response, PageError> {
    if let Err(rejection) = verify_current(&app, &me, client_ip, fields.password, &fields.code).await? {
        return rejected(&app, &me, rejection, false).await;
    }
    match app.store.begin_second_factor(&me.user.id, &me.session.id_hash).await {
        // Another page has switched it on.
        Ok(()) | Err(StoreError::AlreadyExists(_)) => Ok(Redirect::to(PATH).into_response()),
        Err(error) => Err(error.into()),
    }
}

/// The picture that a device reads, while one is set up.
pub(crate) async fn qr_code(State(app): State<Arc<AppState>>, me: SignedIn) -> Result<Response, PageError> {
    let factor = unconfirmed(&app, &me).await?.ok_or(PageError::NotFound)?;
    let image = CodeSecret::new(&app, &me.user.id, &factor.seed).qr_code(&me.user.email);
    let image = image.ok_or(PageError::NotFound)?;
    let headers = [(header::CONTENT_TYPE, "image/svg+xml"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, image).into_response())
}

/// Switches it on with a code of the device, ends all other sessions, and shows the recovery codes.
pub(crate) async fn confirm(
    State(app): State<Arc<AppState>>,
    CsrfForm { sender: me, fields }: CsrfForm<SignedIn, Fields>,
) -> Result<Response, PageError> {
    let Some(factor) = unconfirmed(&app, &me).await? else {
        return Ok(Redirect::to(PATH).into_response());
    };
    if let Err(wait) = app.rate_limits.codes.acquire(&me.user.id) {
        app.metrics.count_limited("codes");
        return rejected(&app, &me, PasswordRejection::RateLimited(wait), false).await;
    }
    let digits: String = fields.code.chars().filter(|c| !c.is_whitespace()).collect();
    let Some(step) = CodeSecret::new(&app, &me.user.id, &factor.seed).step(&digits, now()) else {
        return rejected(&app, &me, PasswordRejection::WrongCode, false).await;
    };
    app.rate_limits.codes.release(&me.user.id);
    let codes = totp::new_recovery_codes();
    let hashes = totp::hashes(&app, &me.user.id, &codes);
    let confirmed = me.store(&app).confirm_second_factor(&me.user.id, &factor.seed, step, &hashes).await;
    match confirmed {
        Ok(()) => tell(&app, &me, MailKind::SecondFactorOn).await,
        Err(StoreError::NotFound(_)) => return Ok(Redirect::to(PATH).into_response()),
        Err(error) => return Err(error.into()),
    }
    let view = View { new_codes: codes, is_switched_on: true, ..View::default() };
    page(&app, StatusCode::OK, &me, view).await
}

/// Makes new recovery codes; the former ones end.
pub(crate) async fn replace_codes(
    State(app): State<Arc<AppState>>,
    client_ip: ClientIp,
    CsrfForm { sender: me, fields }: CsrfForm<SignedIn, Fields>,
) -> Result<Response, PageError> {
    if !has_second_factor(&app, &me.user.id).await? {
        return Ok(Redirect::to(PATH).into_response());
    }
    if let Err(rejection) = verify_current(&app, &me, client_ip, fields.password, &fields.code).await? {
        return rejected(&app, &me, rejection, true).await;
    }
    let codes = totp::new_recovery_codes();
    me.store(&app).replace_recovery_codes(&me.user.id, &totp::hashes(&app, &me.user.id, &codes)).await?;
    page(&app, StatusCode::OK, &me, View { new_codes: codes, ..View::default() }).await
}

/// Switches it off.
pub(crate) async fn remove(
    State(app): State<Arc<AppState>>,
    client_ip: ClientIp,
    CsrfForm { sender: me, fields }: CsrfForm<SignedIn, Fields>,
) -> Result<Response, PageError> {
    if let Err(rejection) = verify_current(&app, &me, client_ip, fields.password, &fields.code).await? {
        return rejected(&app, &me, rejection, false).await;
    }
    if me.store(&app).remove_second_factor(&me.user.id).await? {
        tell(&app, &me, MailKind::SecondFactorOff).await;
    }
    Ok(Redirect::to(PATH).into_response())
}

/// Ends a set-up that wasn't finished.
pub(crate) async fn cancel(
    State(app): State<Arc<AppState>>,
    CsrfForm { sender: me, .. }: CsrfForm<SignedIn, NoFields>,
) -> Result<Response, PageError> {
    if !has_second_factor(&app, &me.user.id).await? {
        app.store.cancel_second_factor(&me.user.id).await?;
    }
    Ok(Redirect::to(PATH).into_response())
}

/// The second factor that this session sets up: others are shown no secret, and switch nothing on.
async fn unconfirmed(app: &AppState, me: &SignedIn) -> Result<Option<SecondFactor>, PageError> {
    let factor = app.store.second_factor(&me.user.id).await?;
    Ok(factor.filter(|factor| factor.is_set_up_by(&me.session.id_hash, now())))
}

async fn tell(app: &AppState, me: &SignedIn, kind: MailKind) {
    let Some(mail) = &app.mail else { return };
    let notice = NewMail { kind, user_id: Some(&me.user.id), recipient: &me.user.email, link_id: None };
    mail.tell(&app.store, &notice).await;
}

/// The page again, with what is wrong beside its field.
async fn rejected(
    app: &AppState,
    me: &SignedIn,
    rejection: PasswordRejection,
    of_codes: bool,
) -> Result<Response, PageError> {
    let (password, code) = rejection.messages();
    let errors = Errors { password, code, of_codes };
    let response = page(app, rejection.status(), me, View { errors, ..View::default() }).await?;
    Ok(rejection.add_headers(response))
}

/// What depends on the request before the page.
#[derive(Default)]
struct View {
    new_codes: Vec<String>,
    is_switched_on: bool,
    errors: Errors,
}

async fn page(
    app: &AppState,
    status: StatusCode,
    me: &SignedIn,
    View { new_codes, is_switched_on, errors }: View,
) -> Result<Response, PageError> {
    let factor = app.store.second_factor(&me.user.id).await?;
    let secret = |factor: &SecondFactor| CodeSecret::new(app, &me.user.id, &factor.seed).text();
    let page = Page {
        layout: Layout::signed_in(me),
        csrf_token: &me.session.form_token,
        email: &me.user.email,
        since: factor.as_ref().and_then(|factor| factor.confirmed_at).map(minute_of),
        recovery_codes_left: factor.as_ref().map_or(0, |factor| factor.recovery_codes),
        secret: factor.as_ref().filter(|factor| factor.is_set_up_by(&me.session.id_hash, now())).map(secret),
        new_codes,
        is_switched_on,
        errors,
    };
    render(status, &page)
}
