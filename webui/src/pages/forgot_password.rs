//! Forgotten password: asks for a link by mail. The answer, and its time, are the same whether or not there is such an
//! account: nothing is looked up before it (`mail_sender/visitors.rs`).

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use identity::Email;
use serde::Deserialize;

use crate::http::client_ip::ClientIp;
use crate::http::csrf::CsrfForm;
use crate::http::reject::PageError;
use crate::http::session::Visitor;
use crate::layout::{Layout, render, set_cookie, set_retry_after};
use crate::mail::{Mail, Request};
use crate::state::AppState;
use crate::view::contact::Contact;
use crate::view::date::retry_in;

#[derive(Template)]
#[template(path = "forgot_password.html")]
struct Page<'a> {
    layout: Layout,
    csrf_token: &'a str,
    email: &'a str,
    error: Option<String>,
    /// Whether mail can be sent at all.
    has_mail: bool,
    /// Whether it has to wait for the mail server.
    is_server_away: bool,
    /// After a link was asked for.
    sent: bool,
    contact: Option<Contact>,
}

#[derive(Default, Deserialize)]
pub(crate) struct Params {
    sent: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct Fields {
    #[serde(default)]
    email: String,
}

pub(crate) async fn show(
    State(app): State<Arc<AppState>>,
    visitor: Visitor,
    params: Result<Query<Params>, QueryRejection>,
) -> Result<Response, PageError> {
    let Query(params) = params.unwrap_or_default();
    let view = View { sent: params.sent.is_some(), ..View::default() };
    page(&app, StatusCode::OK, visitor, view)
}

pub(crate) async fn submit(
    State(app): State<Arc<AppState>>,
    client_ip: ClientIp,
    CsrfForm { sender: visitor, fields }: CsrfForm<Visitor, Fields>,
) -> Result<Response, PageError> {
    let Some(mail) = &app.mail else {
        return page(&app, StatusCode::FORBIDDEN, visitor, View::default());
    };
    let reject = |status, error| {
        let view = View { email: &fields.email, error: Some(error), sent: false };
        page(&app, status, visitor, view)
    };
    let email = match Email::parse(&fields.email) {
        Ok(email) => email,
        Err(error) => return reject(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()),
    };
    match ask(&app, mail, client_ip, Request::ResetPassword(email.as_str().to_owned())).await? {
        Ok(()) => Ok(Redirect::to("/forgot-password?sent").into_response()),
        Err(wait) => {
            let error = format!("Too many requests. Try again {}.", retry_in(wait));
            let mut response = reject(StatusCode::TOO_MANY_REQUESTS, error)?;
            set_retry_after(response.headers_mut(), wait);
            Ok(response)
        }
    }
}

/// Passes a visitor's request for mail on, within the limits. Whatever it asks for, the steps are the same.
///
/// # Errors
///
/// [`PageError::Busy`] if too many wait; [`PageError`] if the store is away. Else the time to wait if a limit is reached.
pub(super) async fn ask(
    app: &AppState,
    mail: &Mail,
    client_ip: ClientIp,
    request: Request,
) -> Result<Result<(), Duration>, PageError> {
    let limits = &app.rate_limits;
    if let Err((_, wait)) = limits.mail_requests.acquire(client_ip.source()) {
        app.metrics.count_limited("mail_requests_source");
        return Ok(Err(wait));
    }
    if let Err(wait) = limits.mail_requests_in_total.acquire(()) {
        app.metrics.count_limited("mail_requests_total");
        return Ok(Err(wait));
    }
    app.store.ping().await?;
    if mail.ask(request) {
        Ok(Ok(()))
    } else {
        app.metrics.count_limited("mail_requests_waiting");
        Err(PageError::Busy)
    }
}

/// What depends on the request before the page.
#[derive(Default)]
struct View<'a> {
    email: &'a str,
    error: Option<String>,
    sent: bool,
}

fn page(
    app: &AppState,
    status: StatusCode,
    visitor: Visitor,
    View { email, error, sent }: View<'_>,
) -> Result<Response, PageError> {
    let page = Page {
        layout: Layout::for_visitor(&visitor),
        csrf_token: &visitor.csrf_token,
        email,
        error,
        has_mail: app.mail.is_some(),
        is_server_away: app.mail.as_ref().is_some_and(Mail::is_server_away),
        sent,
        contact: app.config.contact.as_deref().map(Contact::new),
    };
    let mut response = render(status, &page)?;
    set_cookie(response.headers_mut(), visitor.new_cookie);
    Ok(response)
}
