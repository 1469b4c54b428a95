//! Creates an account: checks the limits, hashes the password and writes one transaction.
//!
//! The response to the POST itself shows the first token, so that no copy of the secret has to be kept and
//! any instance of the web UI can answer.

use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;
use identity::{Email, FIRST_TOKEN_NAME, Password};
use store::{CacheName, NewToken, NewUser, SignUpRoom, StoreError, User};

use crate::http::client_ip::ClientIp;
use crate::http::reject::PageError;
use crate::http::session::{self, SessionSource, SignedIn, Visitor};
use crate::layout::set_cookie;
use crate::pages::caches::{OwnCache, first_steps};
use crate::sign_up_limit::SignUpLimit;
use crate::state::AppState;
use crate::view::date::retry_in;
use crate::view::revealed_token::RevealedToken;

/// When to try again if there is no room for accounts or their caches: it takes an operator, or that another account is deleted.
const ACCOUNTS_RETRY_BACKOFF: Duration = Duration::from_secs(60 * 60);

/// An account to create.
pub(super) struct NewAccount<'a> {
    pub(super) email: &'a Email,
    pub(super) password: Password,
    /// The link that its owner has followed, which is used up.
    pub(super) link_id: Option<&'a str>,
    pub(super) client_ip: ClientIp,
}

/// Why an account isn't created.
pub(super) enum SignUpRejection {
    Denied(SignUpDenial),
    /// The address has an account.
    Taken,
    /// The link isn't valid any more.
    LinkEnded,
}

/// Creates an account with its cache and first token.
pub(super) async fn create(
    app: &AppState,
    new: NewAccount<'_>,
) -> Result<Result<(User, NewToken), SignUpRejection>, PageError> {
    let NewAccount { email, password, link_id, client_ip } = new;
    // The form has to tell that an address is taken, so the limit keeps it from being used to find accounts.
    let users = match require_room(app, client_ip).await? {
        Ok(users) => users,
        Err(denial) => return Ok(Err(SignUpRejection::Denied(denial))),
    };
    // Hashed before the store is asked, so that a taken address takes as long as a free one.
    let hash = app.passwords.hash(app.password_attempts.requester(client_ip.source()), password).await?;
    let reservation = match app.rate_limits.sign_ups.reserve(client_ip.source()) {
        Ok(reservation) => reservation,
        Err(limit) => return Ok(Err(SignUpRejection::Denied(SignUpDenial::Limit(limit)))),
    };
    let token = NewToken::generate(&app.token_key, FIRST_TOKEN_NAME);
    let new = NewUser {
        email: email.as_str(),
        password_hash: Some(&hash),
        plan: &app.config.plan,
        is_admin: false,
    };
    let region = region(client_ip);
    let room = SignUpRoom { link_id, ..room(app, region.as_deref()) };
    match app.store.acting_as("visitor").sign_up_within(&new, &token, &room).await {
        Ok(user) => {
            reservation.keep();
            app.metrics.count_sign_up("success");
            tell_if_near(app, users + 1);
            Ok(Ok((user, token)))
        }
        // Concurrent sign-ups have reached the limit.
        Err(StoreError::LimitReached(of)) => Ok(Err(SignUpRejection::Denied(SignUpDenial::no_room(of)))),
        Err(StoreError::AlreadyExists(_)) => {
            app.metrics.count_sign_up("taken");
            Ok(Err(SignUpRejection::Taken))
        }
        Err(StoreError::NotFound("link")) => Ok(Err(SignUpRejection::LinkEnded)),
        Err(error) => Err(error.into()),
    }
}

/// Signs a new user in and shows the first token.
pub(super) async fn show_first_token(
    app: &AppState,
    (user, token): (User, NewToken),
    from: &SessionSource,
    visitor: &Visitor,
) -> Result<Response, PageError> {
    let previous = visitor.me.as_ref().map(|me| &me.session);
    let (session, cookie) = session::start(app, &user.id, from, previous).await?;
    let browser_cookie = session::browser_cookie(app, &user.email);
    let me = SignedIn { user, session, leaks: Vec::new() };
    let cache_name = CacheName::default();
    let revealed = RevealedToken::new(&token, FIRST_TOKEN_NAME, cache_name.as_str());
    let cache = app.store.first_cache_of(&me.user.id).await?.ok_or(PageError::NotFound)?;
    let own = OwnCache::find(app, me, &cache.id).await?;
    let mut response = first_steps::page(app, &own, &revealed).await?;
    set_cookie(response.headers_mut(), Some(cookie));
    set_cookie(response.headers_mut(), Some(browser_cookie));
    Ok(response)
}

/// Why nobody can sign up now.
#[derive(Debug, Clone, Copy)]
pub(super) enum SignUpDenial {
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

    /// Tells the operator the reason. Returns what users are told: status, message, and when to try again.
    pub(super) fn tell(self, app: &AppState) -> (StatusCode, String, Duration) {
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
        (status, message, wait)
    }
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
