//! Sign-up. Checks the fields, then the rate limit, hashes the password and writes one transaction.
//!
//! The response to the POST itself shows the first token, so that no copy of the secret has to be kept and
//! any instance of the web UI can answer.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use identity::{Email, Password};
use serde::Deserialize;
use store::{CacheName, NewToken, NewUser, StoreError};

use super::cache;
use crate::http::client_ip::ClientIp;
use crate::http::csrf::CsrfForm;
use crate::http::reject::PageError;
use crate::http::session::{self, SignedIn, Visitor};
use crate::layout::{Layout, render, set_cookie, set_retry_after};
use crate::state::AppState;
use crate::view::date::retry_in;
use crate::view::revealed_token::RevealedToken;

/// Name of the token that every new account gets.
const FIRST_TOKEN: &str = "First token";

#[derive(Template)]
#[template(path = "sign_up.html")]
struct Page<'a> {
    layout: Layout,
    csrf_token: &'a str,
    email: &'a str,
    errors: Errors,
}

/// Error messages by field.
#[derive(Default)]
struct Errors {
    email: Option<String>,
    password: Option<String>,
    form: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct Fields {
    #[serde(default)]
    email: String,
    #[serde(default)]
    password: String,
}

pub(crate) async fn show(visitor: Visitor) -> Result<Response, PageError> {
    if visitor.me.is_some() {
        return Ok(Redirect::to("/cache").into_response());
    }
    page(StatusCode::OK, visitor, "", Errors::default())
}

pub(crate) async fn submit(
    State(app): State<Arc<AppState>>,
    client_ip: ClientIp,
    CsrfForm { sender: visitor, fields }: CsrfForm<Visitor, Fields>,
) -> Result<Response, PageError> {
    let (email, password) = match (Email::parse(&fields.email), Password::parse(fields.password)) {
        (Ok(email), Ok(password)) => (email, password),
        (email, password) => {
            let message = |error: identity::InputError| error.to_string();
            let errors =
                Errors { email: email.err().map(message), password: password.err().map(message), form: None };
            return page(StatusCode::UNPROCESSABLE_ENTITY, visitor, &fields.email, errors);
        }
    };
    // The form has to tell that an address is taken, so the limit keeps it from being used to find accounts.
    if let Err(wait) = app.rate_limits.sign_ups.acquire(client_ip) {
        app.metrics.count_sign_up("limited");
        let message = format!("Too many sign-ups from your network. Try again {}.", retry_in(wait));
        let errors = Errors { form: Some(message), ..Errors::default() };
        let mut response = page(StatusCode::TOO_MANY_REQUESTS, visitor, &fields.email, errors)?;
        set_retry_after(response.headers_mut(), wait);
        return Ok(response);
    }
    // Hashed before the store is asked, so that a taken address takes as long as a free one.
    let hash = app.passwords.hash(password).await?;
    let token = NewToken::generate(&app.token_key, FIRST_TOKEN);
    let new = NewUser {
        email: email.as_str(),
        password_hash: Some(&hash),
        plan: &app.config.plan,
        is_admin: false,
    };
    let user = match app.store.acting_as("visitor").sign_up(&new, &token).await {
        Ok(user) => user,
        Err(StoreError::AlreadyExists(_)) => {
            app.metrics.count_sign_up("taken");
            let taken = "This address already has an account. Sign in, or use another address.";
            let errors = Errors { email: Some(taken.to_owned()), ..Errors::default() };
            return page(StatusCode::CONFLICT, visitor, &fields.email, errors);
        }
        Err(error) => return Err(error.into()),
    };
    app.metrics.count_sign_up("success");
    let (session, cookie) = session::start(&app, &user.id, visitor.me.as_ref()).await?;
    let me = SignedIn { user, session, leaks: Vec::new() };
    let cache_name = CacheName::default();
    let revealed = RevealedToken::new(&token, FIRST_TOKEN, cache_name.as_str(), "/cache".to_owned());
    let mut response = cache::with_new_token(&app, &me, &revealed).await?;
    set_cookie(response.headers_mut(), Some(cookie));
    Ok(response)
}

fn page(status: StatusCode, visitor: Visitor, email: &str, errors: Errors) -> Result<Response, PageError> {
    let layout = Layout::for_visitor(&visitor);
    let page = Page { layout, csrf_token: &visitor.csrf_token, email, errors };
    let mut response = render(status, &page)?;
    set_cookie(response.headers_mut(), visitor.new_cookie);
    Ok(response)
}
