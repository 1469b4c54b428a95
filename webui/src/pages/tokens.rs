//! Pages of a token. Tokens of other users are answered like tokens that don't exist.

pub(super) mod certificates;
pub(super) mod create;
pub(super) mod edit;
pub(super) mod revoke;
pub(super) mod rotate;
pub(super) mod show;

use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;
use store::{TokenId, TokenRow, UserState};

use super::caches::{OwnCache, SUSPENDED};
use crate::http::reject::PageError;
use crate::http::session::SignedIn;
use crate::layout::set_retry_after;
use crate::state::AppState;
use crate::view::date::retry_in;

/// The user's token with this id, active or not.
pub(super) async fn find(app: &AppState, me: &SignedIn, id: &str) -> Result<(TokenId, TokenRow), PageError> {
    let id = TokenId::parse(id).ok_or(PageError::NotFound)?;
    let token = app.store.token(&id).await?.ok_or(PageError::NotFound)?;
    if token.user_id == me.user.id { Ok((id, token)) } else { Err(PageError::NotFound) }
}

/// The user's token with this id, unless it was revoked.
async fn find_unrevoked(app: &AppState, me: &SignedIn, id: &str) -> Result<(TokenId, TokenRow), PageError> {
    let (id, token) = find(app, me, id).await?;
    if token.revoked_at.is_none() { Ok((id, token)) } else { Err(PageError::NotFound) }
}

/// Counts a change against the user's rate limit.
///
/// # Errors
///
/// The time to wait, and the message about it.
fn acquire_change(app: &AppState, me: &SignedIn) -> Result<(), (Duration, String)> {
    app.rate_limits.token_changes.acquire(&me.user.id).map_err(|wait| {
        app.metrics.count_limited("token_changes");
        (wait, format!("You created or changed too many tokens. Try again {}.", retry_in(wait)))
    })
}

/// Why a cache gets no other token now.
struct NewTokenRefusal {
    status: StatusCode,
    message: String,
    /// When it may.
    retry_after: Option<Duration>,
}

impl NewTokenRefusal {
    fn add_to(&self, response: &mut Response) {
        if let Some(wait) = self.retry_after {
            set_retry_after(response.headers_mut(), wait);
        }
    }
}

/// Checks whether a cache may have another token. If so, counts it against the user's rate limit.
async fn check_new_token(app: &AppState, own: &OwnCache) -> Result<Result<(), NewTokenRefusal>, PageError> {
    let refuse = |status, message, retry_after| Ok(Err(NewTokenRefusal { status, message, retry_after }));
    if own.me.user.state == UserState::Suspended {
        return refuse(StatusCode::FORBIDDEN, SUSPENDED.to_owned(), None);
    }
    let max = app.config.limits.tokens_at_once;
    if app.store.count_active_tokens(&own.cache.id).await? >= max {
        return refuse(StatusCode::CONFLICT, limit_reached(&own.cache.name, max), None);
    }
    match acquire_change(app, &own.me) {
        Ok(()) => Ok(Ok(())),
        Err((wait, message)) => refuse(StatusCode::TOO_MANY_REQUESTS, message, Some(wait)),
    }
}

fn limit_reached(cache_name: &str, max: usize) -> String {
    format!("Cache {cache_name} has reached the limit of {max} tokens. Revoke one that isn't in use.")
}
