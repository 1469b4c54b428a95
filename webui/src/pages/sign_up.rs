//! Sign-up. Checks the fields, then the rate limit, hashes the password and writes one transaction.
//!
//! The response to the POST itself shows the first token, so that no copy of the secret has to be kept and
//! any instance of the web UI can answer.

use std::sync::Arc;
use std::time::Duration;

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
use crate::rate_limit::RateLimiter;
use crate::state::{AppState, RateLimits};
use crate::view::date::retry_in;
use crate::view::revealed_token::RevealedToken;

/// Name of the token that every new account gets.
const FIRST_TOKEN: &str = "First token";
/// When to try again if there is no room for accounts: it takes an operator, or that another account is deleted.
const ACCOUNTS_RETRY_BACKOFF: Duration = Duration::from_secs(60 * 60);

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
    if let Err(limited) = require_room(&app, client_ip).await? {
        return limited.page(&app, visitor, &fields.email);
    }
    // Hashed before the store is asked, so that a taken address takes as long as a free one.
    let hash = app.passwords.hash(app.password_attempts.requester(client_ip.source()), password).await?;
    let reservation = match Reservation::new(&app.rate_limits) {
        Ok(reservation) => reservation,
        Err(limited) => return limited.page(&app, visitor, &fields.email),
    };
    let token = NewToken::generate(&app.token_key, FIRST_TOKEN);
    let new = NewUser {
        email: email.as_str(),
        password_hash: Some(&hash),
        plan: &app.config.plan,
        is_admin: false,
    };
    let store = app.store.acting_as("visitor");
    let user = match store.sign_up_within(&new, &token, app.config.limits.accounts_max()).await {
        Ok(user) => user,
        // Concurrent sign-ups have reached the limit.
        Err(StoreError::LimitReached(_)) => return SignUpLimit::Accounts.page(&app, visitor, &fields.email),
        Err(StoreError::AlreadyExists(_)) => {
            app.metrics.count_sign_up("taken");
            let taken = "This address already has an account. Sign in, or use another address.";
            let errors = Errors { email: Some(taken.to_owned()), ..Errors::default() };
            return page(StatusCode::CONFLICT, visitor, &fields.email, errors);
        }
        Err(error) => return Err(error.into()),
    };
    reservation.keep();
    app.metrics.count_sign_up("success");
    app.password_attempts.record_sign_up(&user.email, client_ip.source());
    let (session, cookie) = session::start(&app, &user.id, visitor.me.as_ref()).await?;
    let me = SignedIn { user, session, leaks: Vec::new() };
    let cache_name = CacheName::default();
    let revealed = RevealedToken::new(&token, FIRST_TOKEN, cache_name.as_str(), "/cache".to_owned());
    let mut response = cache::with_new_token(&app, &me, &revealed).await?;
    set_cookie(response.headers_mut(), Some(cookie));
    Ok(response)
}

/// Why nobody can sign up now.
#[derive(Debug, Clone, Copy)]
enum SignUpLimit {
    /// Of the client, with the time to wait.
    Source(Duration),
    /// Of the client's network, with the time to wait.
    Network(Duration),
    /// Of all accounts created, with the time to wait.
    Total(Duration),
    /// There are as many accounts as the operator allows.
    Accounts,
}

/// Checks the limits that don't depend on the fields, and counts a sign-up of the client and of its network. In total
/// only accounts that are created count, so that addresses that are taken don't close sign-up for everyone.
async fn require_room(app: &AppState, client_ip: ClientIp) -> Result<Result<(), SignUpLimit>, PageError> {
    if let Some(max) = app.config.limits.accounts_max()
        && app.store.count_users().await? >= max
    {
        return Ok(Err(SignUpLimit::Accounts));
    }
    let limits = &app.rate_limits;
    if let Err(wait) = limits.sign_ups.acquire(client_ip) {
        return Ok(Err(SignUpLimit::Source(wait)));
    }
    if let Err(wait) = limits.network_sign_ups.acquire(client_ip.source().network()) {
        return Ok(Err(SignUpLimit::Network(wait)));
    }
    let total = limits.sign_ups_in_total.as_ref().map_or(Ok(()), |limit| limit.check(()));
    Ok(total.map_err(SignUpLimit::Total))
}

/// An account that counts in total. Unless kept, it is taken back, also when the browser disconnects.
struct Reservation<'a>(Option<&'a RateLimiter>);

impl<'a> Reservation<'a> {
    fn new(limits: &'a RateLimits) -> Result<Self, SignUpLimit> {
        let limit = limits.sign_ups_in_total.as_ref();
        limit.map_or(Ok(()), |limit| limit.acquire(())).map_err(SignUpLimit::Total)?;
        Ok(Self(limit))
    }

    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if let Some(limit) = self.0 {
            limit.release(());
        }
    }
}

impl SignUpLimit {
    /// The form again, with the reason; and the reason for the operator.
    fn page(self, app: &AppState, visitor: Visitor, email: &str) -> Result<Response, PageError> {
        let (status, cause, wait) = match self {
            Self::Source(wait) => (StatusCode::TOO_MANY_REQUESTS, "sign_up_source", wait),
            Self::Network(wait) => (StatusCode::TOO_MANY_REQUESTS, "sign_up_network", wait),
            Self::Total(wait) => (StatusCode::SERVICE_UNAVAILABLE, "sign_up_total", wait),
            Self::Accounts => (StatusCode::SERVICE_UNAVAILABLE, "accounts", ACCOUNTS_RETRY_BACKOFF),
        };
        let message = match self {
            Self::Source(_) | Self::Network(_) => {
                format!("Too many sign-ups from your network. Try again {}.", retry_in(wait))
            }
            Self::Total(_) => format!("Too many people are signing up. Try again {}.", retry_in(wait)),
            Self::Accounts => "This service has no room for new accounts. Ask its operator.".to_owned(),
        };
        if matches!(self, Self::Accounts) {
            tracing::warn!("sign-up refused: webui.limits.accounts is reached");
        }
        app.metrics.count_sign_up("limited");
        app.metrics.count_limited(cause);
        let errors = Errors { form: Some(message), ..Errors::default() };
        let mut response = page(status, visitor, email, errors)?;
        set_retry_after(response.headers_mut(), wait);
        Ok(response)
    }
}

fn page(status: StatusCode, visitor: Visitor, email: &str, errors: Errors) -> Result<Response, PageError> {
    let layout = Layout::for_visitor(&visitor);
    let page = Page { layout, csrf_token: &visitor.csrf_token, email, errors };
    let mut response = render(status, &page)?;
    set_cookie(response.headers_mut(), visitor.new_cookie);
    Ok(response)
}
