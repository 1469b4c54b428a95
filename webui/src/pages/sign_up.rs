//! Sign-up: with e-mail address and password at once; or, if addresses are confirmed, with the address, and then with a link
//! that is sent to it. Nothing exists before that link is used, so that nobody takes memory with addresses of others.

pub(super) mod confirm;
mod create;

use std::sync::Arc;

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use identity::{Email, InputError, Password};
use serde::Deserialize;

use self::create::{NewAccount, SignUpRejection, create, show_first_token};
use super::caches::CACHES;
use super::forgot_password::ask;
use crate::config::SignUp;
use crate::http::client_ip::ClientIp;
use crate::http::csrf::CsrfForm;
use crate::http::reject::PageError;
use crate::http::session::{SessionSource, Visitor};
use crate::layout::{Layout, render, set_cookie, set_retry_after};
use crate::mail::{Mail, Request};
use crate::state::AppState;
use crate::view::contact::Contact;
use crate::view::date::retry_in;

#[derive(Template)]
#[template(path = "sign_up.html")]
struct Page<'a> {
    layout: Layout,
    csrf_token: &'a str,
    email: &'a str,
    errors: Errors,
    /// Whether visitors may create accounts.
    is_open: bool,
    /// Whether the address is confirmed before a password is asked for.
    confirms: bool,
    /// Domains whose addresses may sign up; empty for all.
    domains: &'a [String],
    /// After a link was asked for.
    sent: bool,
    is_server_away: bool,
    contact: Option<Contact>,
}

/// Error messages by field.
#[derive(Default)]
struct Errors {
    email: Option<String>,
    password: Option<String>,
    form: Option<String>,
}

#[derive(Default, Deserialize)]
pub(crate) struct Params {
    sent: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct Fields {
    #[serde(default)]
    email: String,
    #[serde(default)]
    password: String,
}

pub(crate) async fn show(
    State(app): State<Arc<AppState>>,
    visitor: Visitor,
    params: Result<Query<Params>, QueryRejection>,
) -> Result<Response, PageError> {
    if visitor.me.is_some() {
        return Ok(Redirect::to(CACHES).into_response());
    }
    let sent = params.is_ok_and(|params| params.sent.is_some());
    page(&app, StatusCode::OK, visitor, View { sent, ..View::default() })
}

pub(crate) async fn submit(
    State(app): State<Arc<AppState>>,
    client_ip: ClientIp,
    from: SessionSource,
    CsrfForm { sender: visitor, fields }: CsrfForm<Visitor, Fields>,
) -> Result<Response, PageError> {
    let typed = fields.email.as_str();
    let reject =
        |status, visitor, errors| page(&app, status, visitor, View { email: typed, errors, sent: false });
    if app.config.sign_up == SignUp::Closed {
        return reject(StatusCode::FORBIDDEN, visitor, Errors::default());
    }
    let email = parse_email(&app, typed);
    if app.config.confirm_email {
        let (email, mail) = match (email, &app.mail) {
            (Ok(email), Some(mail)) => (email, mail),
            (email, _) => {
                let errors = Errors { email: email.err(), ..Errors::default() };
                return reject(StatusCode::UNPROCESSABLE_ENTITY, visitor, errors);
            }
        };
        return match ask(&app, mail, client_ip, Request::SignUp(email.as_str().to_owned())).await? {
            Ok(()) => Ok(Redirect::to("/sign-up?sent").into_response()),
            Err(wait) => {
                let error = format!("Too many requests. Try again {}.", retry_in(wait));
                let errors = Errors { form: Some(error), ..Errors::default() };
                let mut response = reject(StatusCode::TOO_MANY_REQUESTS, visitor, errors)?;
                set_retry_after(response.headers_mut(), wait);
                Ok(response)
            }
        };
    }
    let (email, password) = match (email, Password::parse(fields.password)) {
        (Ok(email), Ok(password)) => (email, password),
        (email, password) => {
            let password = password.err().map(|error| error.to_string());
            let errors = Errors { email: email.err(), password, form: None };
            return reject(StatusCode::UNPROCESSABLE_ENTITY, visitor, errors);
        }
    };
    match create(&app, NewAccount { email: &email, password, link_id: None, client_ip }).await? {
        Ok(created) => show_first_token(&app, created, &from, &visitor).await,
        Err(SignUpRejection::Denied(denial)) => {
            let (status, message, wait) = denial.tell(&app);
            let errors = Errors { form: Some(message), ..Errors::default() };
            let mut response = reject(status, visitor, errors)?;
            set_retry_after(response.headers_mut(), wait);
            Ok(response)
        }
        Err(SignUpRejection::Taken | SignUpRejection::LinkEnded) => {
            let taken = "This address already has an account. Sign in, or use another address.";
            let errors = Errors { email: Some(taken.to_owned()), ..Errors::default() };
            reject(StatusCode::CONFLICT, visitor, errors)
        }
    }
}

/// An address that may sign up, or what to tell who has typed it.
fn parse_email(app: &AppState, typed: &str) -> Result<Email, String> {
    let email = Email::parse(typed).map_err(|error: InputError| error.to_string())?;
    if app.config.admits(&email) {
        return Ok(email);
    }
    Err(format!("This address may not sign up here. Use one at {}.", app.config.sign_up_domains.join(" or ")))
}

/// What depends on the request before the page.
#[derive(Default)]
struct View<'a> {
    email: &'a str,
    errors: Errors,
    sent: bool,
}

/// The page; without its form if only the operator creates accounts.
fn page(
    app: &AppState,
    status: StatusCode,
    visitor: Visitor,
    View { email, errors, sent }: View<'_>,
) -> Result<Response, PageError> {
    let config = &app.config;
    let page = Page {
        layout: Layout::for_visitor(&visitor),
        csrf_token: &visitor.csrf_token,
        email,
        errors,
        is_open: config.sign_up != SignUp::Closed,
        confirms: config.confirm_email,
        domains: if config.sign_up == SignUp::Domains { &config.sign_up_domains } else { &[] },
        sent,
        is_server_away: app.mail.as_ref().is_some_and(Mail::is_server_away),
        contact: config.contact.as_deref().map(Contact::new),
    };
    let mut response = render(status, &page)?;
    set_cookie(response.headers_mut(), visitor.new_cookie);
    Ok(response)
}
