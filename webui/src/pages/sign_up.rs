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
use identity::{Email, FIRST_TOKEN_NAME, Password};
use serde::Deserialize;
use store::{CacheName, NewToken, NewUser, SignUpRoom, StoreError};

use super::caches::{CACHES, OwnCache, first_steps};
use crate::http::client_ip::ClientIp;
use crate::http::csrf::CsrfForm;
use crate::http::reject::PageError;
use crate::http::session::{self, SessionSource, SignedIn, Visitor};
use crate::layout::{Layout, render, set_cookie, set_retry_after};
use crate::sign_up_limit::SignUpLimit;
use crate::state::AppState;
use crate::view::date::retry_in;
use crate::view::revealed_token::RevealedToken;

/// When to try again if there is no room for accounts or their caches: it takes an operator, or that another account is deleted.
const ACCOUNTS_RETRY_BACKOFF: Duration = Duration::from_secs(60 * 60);

#[derive(Template)]
#[template(path = "sign_up.html")]
struct Page<'a> {
    layout: Layout,
    csrf_token: &'a str,
    email: &'a str,
    errors: Errors,
    /// Whether visitors may create accounts.
    is_open: bool,
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

pub(crate) async fn show(State(app): State<Arc<AppState>>, visitor: Visitor) -> Result<Response, PageError> {
    if visitor.me.is_some() {
        return Ok(Redirect::to(CACHES).into_response());
    }
    if !app.config.sign_up {
        return closed(StatusCode::OK, visitor);
    }
    page(StatusCode::OK, visitor, "", Errors::default())
}

pub(crate) async fn submit(
    State(app): State<Arc<AppState>>,
    client_ip: ClientIp,
    from: SessionSource,
    CsrfForm { sender: visitor, fields }: CsrfForm<Visitor, Fields>,
) -> Result<Response, PageError> {
    if !app.config.sign_up {
        return closed(StatusCode::FORBIDDEN, visitor);
    }
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
    let users = match require_room(&app, client_ip).await? {
        Ok(users) => users,
        Err(refusal) => return refusal.page(&app, visitor, &fields.email),
    };
    // Hashed before the store is asked, so that a taken address takes as long as a free one.
    let hash = app.passwords.hash(app.password_attempts.requester(client_ip.source()), password).await?;
    let reservation = match app.rate_limits.sign_ups.reserve(client_ip.source()) {
        Ok(reservation) => reservation,
        Err(limit) => return SignUpDenial::Limit(limit).page(&app, visitor, &fields.email),
    };
    let token = NewToken::generate(&app.token_key, FIRST_TOKEN_NAME);
    let new = NewUser {
        email: email.as_str(),
        password_hash: Some(&hash),
        plan: &app.config.plan,
        is_admin: false,
    };
    let store = app.store.acting_as("visitor");
    let region = region(client_ip);
    let user = match store.sign_up_within(&new, &token, &room(&app, region.as_deref())).await {
        Ok(user) => user,
        // Concurrent sign-ups have reached the limit.
        Err(StoreError::LimitReached(of)) => {
            return SignUpDenial::no_room(of).page(&app, visitor, &fields.email);
        }
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
    tell_if_near(&app, users + 1);
    let previous = visitor.me.as_ref().map(|me| &me.session);
    let (session, cookie) = session::start(&app, &user.id, &from, previous).await?;
    let browser_cookie = session::browser_cookie(&app, &user.email);
    let me = SignedIn { user, session, leaks: Vec::new() };
    let cache_name = CacheName::default();
    let revealed = RevealedToken::new(&token, FIRST_TOKEN_NAME, cache_name.as_str());
    let cache = app.store.first_cache_of(&me.user.id).await?.ok_or(PageError::NotFound)?;
    let own = OwnCache::find(&app, me, &cache.id).await?;
    let mut response = first_steps::page(&app, &own, &revealed).await?;
    set_cookie(response.headers_mut(), Some(cookie));
    set_cookie(response.headers_mut(), Some(browser_cookie));
    Ok(response)
}

/// Why nobody can sign up now.
#[derive(Debug, Clone, Copy)]
enum SignUpDenial {
    Limit(SignUpLimit),
    /// There are as many accounts as the operator allows.
    Accounts,
    /// Most of those that there may be are taken, and the client's region has its part of them.
    AccountsOfRegion,
    /// The machine has no memory for another cache.
    Memory,
}

/// Checks the limits that don't depend on the fields, and counts a sign-up of the client and of its network. In total
/// only accounts that are created count, so that addresses that are taken don't close sign-up for everyone. Returns how
/// many accounts there are. The store is asked last: a flood of sign-ups doesn't keep it from answering others.
async fn require_room(app: &AppState, client_ip: ClientIp) -> Result<Result<usize, SignUpDenial>, PageError> {
    let limits = &app.rate_limits.sign_ups;
    let limited = limits.acquire_attempt(client_ip.source());
    // Counts only once the account is created.
    if let Err(limit) = limited.and_then(|()| limits.reserve(client_ip.source()).map(drop)) {
        return Ok(Err(SignUpDenial::Limit(limit)));
    }
    match app.store.check_room(&room(app, region(client_ip).as_deref())).await {
        Ok(users) => Ok(Ok(users)),
        Err(StoreError::LimitReached(of)) => Ok(Err(SignUpDenial::no_room(of))),
        Err(error) => Err(error.into()),
    }
}

fn room<'a>(app: &'a AppState, region: Option<&'a str>) -> SignUpRoom<'a> {
    SignUpRoom {
        users_max: app.config.limits.accounts_max(),
        region,
        memory_of: Some(&app.config.plan),
        link_id: None,
    }
}

fn region(client_ip: ClientIp) -> Option<String> {
    client_ip.source().public_region().map(|region| region.to_string())
}

/// Tells the operator when sign-up is about to close for everyone.
fn tell_if_near(app: &AppState, users: usize) {
    let of_hour = app.rate_limits.sign_ups.created();
    let accounts = app.config.limits.accounts_max().map(|max| (users, max));
    for (limit, state) in [("sign_ups_in_total_per_hour", of_hour), ("accounts", accounts)] {
        let Some((used, max)) = state.filter(|(used, max)| is_near(*used, *max)) else { continue };
        app.metrics.count_near_limit(limit);
        if app.rate_limits.near_limit_warnings.acquire(limit).is_ok() {
            tracing::warn!(
                limit,
                used,
                max,
                "sign-up will close for everyone soon: look at the new accounts, and raise the limit in \
                 [webui.limits] if they are welcome"
            );
        }
    }
}

/// Whether four fifths of a limit are used. A limit may be any number.
fn is_near(used: usize, max: usize) -> bool {
    used.saturating_mul(5) >= max.saturating_mul(4)
}

impl SignUpDenial {
    fn no_room(of: &str) -> Self {
        match of {
            "region" => Self::AccountsOfRegion,
            "memory" => Self::Memory,
            _ => Self::Accounts,
        }
    }

    /// The form again, with the reason; and the reason for the operator.
    fn page(self, app: &AppState, visitor: Visitor, email: &str) -> Result<Response, PageError> {
        use SignUpLimit::{Network, Region, Source, Total};
        let (status, cause, wait) = match self {
            Self::Limit(Source(wait)) => (StatusCode::TOO_MANY_REQUESTS, "sign_up_source", wait),
            Self::Limit(Network(wait)) => (StatusCode::TOO_MANY_REQUESTS, "sign_up_network", wait),
            Self::Limit(Region(wait)) => (StatusCode::TOO_MANY_REQUESTS, "sign_up_region", wait),
            Self::Limit(Total(wait)) => (StatusCode::SERVICE_UNAVAILABLE, "sign_up_total", wait),
            Self::Accounts => (StatusCode::SERVICE_UNAVAILABLE, "accounts", ACCOUNTS_RETRY_BACKOFF),
            Self::AccountsOfRegion => {
                (StatusCode::SERVICE_UNAVAILABLE, "accounts_region", ACCOUNTS_RETRY_BACKOFF)
            }
            Self::Memory => (StatusCode::SERVICE_UNAVAILABLE, "memory", ACCOUNTS_RETRY_BACKOFF),
        };
        let message = match self {
            Self::Limit(Total(_)) => format!("Too many people are signing up. Try again {}.", retry_in(wait)),
            Self::Limit(_) => format!("Too many sign-ups from your network. Try again {}.", retry_in(wait)),
            Self::Accounts => "This service has no room for new accounts. Ask its operator.".to_owned(),
            Self::AccountsOfRegion => {
                "This service has no room for new accounts from your network. Ask its operator.".to_owned()
            }
            Self::Memory => "This service has no memory for another cache now. Ask its operator.".to_owned(),
        };
        match self {
            Self::Accounts => tracing::warn!("sign-up refused: webui.limits.accounts is reached"),
            Self::Memory => tracing::warn!(
                "sign-up refused: the machine has no memory for another cache (`memgate status` shows its room)"
            ),
            Self::Limit(_) | Self::AccountsOfRegion => {}
        }
        app.metrics.count_sign_up("limited");
        app.metrics.count_limited(cause);
        let errors = Errors { form: Some(message), ..Errors::default() };
        let mut response = page(status, visitor, email, errors)?;
        set_retry_after(response.headers_mut(), wait);
        Ok(response)
    }
}

/// The page without its form: only the operator creates accounts.
fn closed(status: StatusCode, visitor: Visitor) -> Result<Response, PageError> {
    render_page(status, visitor, "", Errors::default(), false)
}

fn page(status: StatusCode, visitor: Visitor, email: &str, errors: Errors) -> Result<Response, PageError> {
    render_page(status, visitor, email, errors, true)
}

fn render_page(
    status: StatusCode,
    visitor: Visitor,
    email: &str,
    errors: Errors,
    is_open: bool,
) -> Result<Response, PageError> {
    let layout = Layout::for_visitor(&visitor);
    let page = Page { layout, csrf_token: &visitor.csrf_token, email, errors, is_open };
    let mut response = render(status, &page)?;
    set_cookie(response.headers_mut(), visitor.new_cookie);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_of_any_size_is_compared() {
        for (used, max, near) in [
            (79, 100, false),
            (80, 100, true),
            (1, usize::MAX, false),
            (usize::MAX, usize::MAX, true),
            (0, 0, true),
        ] {
            assert_eq!(is_near(used, max), near, "{used} of {max}");
        }
    }
}
