//! Another e-mail address: asked for with the current password, and confirmed with a link that is sent to it. Until then
//! nothing changes. Whether somebody else has the address isn't told here, but to that address by mail.

use std::sync::Arc;

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use identity::Email;
use serde::Deserialize;
use store::StoreError;

use super::{has_second_factor, verify_current};
use crate::http::client_ip::ClientIp;
use crate::http::csrf::CsrfForm;
use crate::http::reject::PageError;
use crate::http::session::SignedIn;
use crate::layout::{Layout, render};
use crate::mail::Mail;
use crate::state::AppState;
use crate::view::contact::Contact;

#[derive(Template)]
#[template(path = "account/email.html")]
struct Page<'a> {
    layout: Layout,
    csrf_token: &'a str,
    current_email: &'a str,
    new_email: &'a str,
    errors: Errors,
    asks_code: bool,
    has_mail: bool,
    is_server_away: bool,
    /// After a link was sent.
    sent: bool,
    contact: Option<Contact>,
}

/// Error messages by field.
#[derive(Default)]
struct Errors {
    new_email: Option<String>,
    password: Option<String>,
    code: Option<String>,
}

#[derive(Default, Deserialize)]
pub(crate) struct Params {
    sent: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct Fields {
    #[serde(default)]
    new_email: String,
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
    let view = View { sent: params.sent.is_some(), ..View::default() };
    page(&app, StatusCode::OK, &me, view).await
}

pub(crate) async fn submit(
    State(app): State<Arc<AppState>>,
    client_ip: ClientIp,
    CsrfForm { sender: me, fields }: CsrfForm<SignedIn, Fields>,
) -> Result<Response, PageError> {
    let Some(mail) = &app.mail else { return page(&app, StatusCode::FORBIDDEN, &me, View::default()).await };
    let reject =
        |status, errors| page(&app, status, &me, View { new_email: &fields.new_email, errors, sent: false });
    let of_email = |error: String| Errors { new_email: Some(error), ..Errors::default() };
    let new_email = match Email::parse(&fields.new_email) {
        Ok(email) if email.as_str() == me.user.email => {
            let error = "This is the address that your account has. Enter another one.".to_owned();
            return reject(StatusCode::UNPROCESSABLE_ENTITY, of_email(error)).await;
        }
        Ok(email) => email,
        Err(error) => return reject(StatusCode::UNPROCESSABLE_ENTITY, of_email(error.to_string())).await,
    };
    let verified = verify_current(&app, &me, client_ip, fields.password.clone(), &fields.code).await?;
    if let Err(rejection) = verified {
        let (password, code) = rejection.messages();
        let errors = Errors { password, code, ..Errors::default() };
        return Ok(rejection.add_headers(reject(rejection.status(), errors).await?));
    }
    match me.store(&app).send_email_link(&me.user.id, new_email.as_str(), mail.limits()).await {
        Ok(()) => mail.send_soon(),
        Err(StoreError::LimitReached(_)) => {
            app.metrics.count_limited("mails");
            let error = "Too many mails were sent lately. Try again in an hour.".to_owned();
            return reject(StatusCode::TOO_MANY_REQUESTS, of_email(error)).await;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(Redirect::to("/account/email?sent").into_response())
}

/// What depends on the request before the page.
#[derive(Default)]
struct View<'a> {
    new_email: &'a str,
    errors: Errors,
    sent: bool,
}

async fn page(
    app: &AppState,
    status: StatusCode,
    me: &SignedIn,
    View { new_email, errors, sent }: View<'_>,
) -> Result<Response, PageError> {
    let page = Page {
        layout: Layout::signed_in(me),
        csrf_token: &me.session.form_token,
        current_email: &me.user.email,
        new_email,
        errors,
        asks_code: has_second_factor(app, &me.user.id).await?,
        has_mail: app.mail.is_some(),
        is_server_away: app.mail.as_ref().is_some_and(Mail::is_server_away),
        sent,
        contact: app.config.contact.as_deref().map(Contact::new),
    };
    render(status, &page)
}
