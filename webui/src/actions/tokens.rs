//! A user's tokens and their certificates: found, created, changed, rotated, certified.

use std::time::Duration;

use identity::certificate::{IssueError, IssuedCertificate};
use identity::{CertificateName, TokenName};
use store::{
    Cache, Fingerprint, NewToken, Permissions, StoreError, TokenChange, TokenId, TokenRow, User, UserState,
    now,
};

use super::{ActionError, Cause, Refusal, acting};
use crate::http::reject::PageError;
use crate::state::AppState;
use crate::view::date::retry_in;

/// The user's token with this id, active or not.
///
/// # Errors
///
/// [`PageError::NotFound`] if there is none, or another user has it.
pub(crate) async fn find(app: &AppState, user: &User, id: &str) -> Result<(TokenId, TokenRow), PageError> {
    let id = TokenId::parse(id).ok_or(PageError::NotFound)?;
    let token = app.store.token(&id).await?.ok_or(PageError::NotFound)?;
    if token.user_id == user.id { Ok((id, token)) } else { Err(PageError::NotFound) }
}

/// Creates a token of a cache. Show it only after this has returned.
///
/// # Errors
///
/// Why it isn't created.
pub(crate) async fn create(
    app: &AppState,
    user: &User,
    cache: &Cache,
    name: &TokenName,
    permissions: Permissions,
) -> Result<NewToken, ActionError> {
    check_new(app, user, cache).await?;
    let token = NewToken::generate(&app.token_key, name.as_str()).limited_to(permissions);
    let max = app.config.limits.tokens_at_once;
    match acting(app, user).create_token_within(&cache.id, &token, max).await {
        Ok(()) => Ok(token),
        // Concurrent requests have reached the limit.
        Err(StoreError::LimitReached(_)) => Err(limit_reached(cache, max).into()),
        // The cache was deleted meanwhile.
        Err(StoreError::NotFound(_)) => Err(PageError::NotFound.into()),
        Err(error) => Err(error.into()),
    }
}

/// Rotates a token: creates another one with the same name and permissions, and lets the old one expire after `grace`.
/// Returns both. Show the new one only after this has returned.
///
/// # Errors
///
/// Why it isn't rotated; [`PageError::NotFound`] if it isn't active, or was rotated before.
pub(crate) async fn rotate(
    app: &AppState,
    user: &User,
    cache: &Cache,
    token: &TokenRow,
    grace: Duration,
) -> Result<(NewToken, TokenRow), ActionError> {
    let id = TokenId::parse(&token.id).ok_or(PageError::NotFound)?;
    check_new(app, user, cache).await?;
    let new = NewToken::generate(&app.token_key, &token.name);
    match acting(app, user).rotate_token(&id, new, now().saturating_add(grace)).await {
        Ok(rotated) => Ok(rotated),
        Err(StoreError::NotFound(_) | StoreError::AlreadyExists(_)) => Err(PageError::NotFound.into()),
        Err(error) => Err(error.into()),
    }
}

/// Revokes a token. No limit: nothing is easier to do once too often, or worse to wait for.
pub(crate) async fn revoke(app: &AppState, user: &User, id: &TokenId) -> Result<(), PageError> {
    Ok(acting(app, user).revoke_token(id).await?)
}

/// Revokes a certificate of a token, which stays; nothing is done if it has ended. No limit, as for tokens.
pub(crate) async fn revoke_certificate(
    app: &AppState,
    user: &User,
    id: &TokenId,
    fingerprint: Fingerprint,
) -> Result<(), PageError> {
    match acting(app, user).revoke_certificate(id, fingerprint).await {
        Ok(()) | Err(StoreError::NotFound(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Changes a token: `change` gets it as it is, and says whether to write what it has changed; `None` if not.
///
/// # Errors
///
/// Why it isn't changed; [`PageError::NotFound`] if it isn't active.
pub(crate) async fn change(
    app: &AppState,
    user: &User,
    id: &TokenId,
    change: impl FnOnce(&TokenRow, &mut TokenChange) -> bool,
) -> Result<Option<TokenRow>, ActionError> {
    if user.state == UserState::Suspended {
        return Err(Refusal::suspended().into());
    }
    acquire_change(app, user)?;
    match acting(app, user).change_token(id, change).await {
        Ok(changed) => Ok(changed),
        // The token was revoked or expired after the check.
        Err(StoreError::NotFound(_)) => Err(PageError::NotFound.into()),
        Err(error) => Err(error.into()),
    }
}

/// Issues a certificate for an active token, for the key of a request (PEM) or for a new one. Show it only after this has
/// returned.
///
/// # Errors
///
/// Why it isn't issued; [`PageError::NotFound`] if the token isn't active any more.
pub(crate) async fn certify(
    app: &AppState,
    user: &User,
    token: &TokenRow,
    request: Option<&str>,
    name: &CertificateName,
) -> Result<IssuedCertificate, ActionError> {
    let id = TokenId::parse(&token.id).ok_or(PageError::NotFound)?;
    if user.state == UserState::Suspended {
        return Err(Refusal::suspended().into());
    }
    acquire_change(app, user)?;
    let issued = match IssuedCertificate::new(id, token.permissions.expires_at, request) {
        Ok(issued) => issued,
        Err(IssueError::InvalidRequest(_)) => {
            let error = "Invalid certificate request. Paste one in PEM with a new key: RSA with at least 2048 bits, \
                         P-256, P-384 or Ed25519.";
            return Err(Refusal::new(Cause::Invalid("request"), error).into());
        }
        Err(IssueError::Failed(error)) => {
            tracing::error!(%error, "failed to issue a certificate");
            return Err(PageError::Internal.into());
        }
    };
    match acting(app, user).add_certificate(&id, issued.fingerprint, issued.not_after, name.as_str()).await {
        Ok(()) => Ok(issued),
        Err(StoreError::LimitReached(_)) => {
            let error =
                "This token has reached its limit of certificates. Revoke one, or create another token.";
            Err(Refusal::new(Cause::LimitReached, error).into())
        }
        // The token was revoked or expired after the check.
        Err(StoreError::NotFound(_)) => Err(PageError::NotFound.into()),
        Err(error) => Err(error.into()),
    }
}

/// Counts a change against the user's rate limit.
///
/// # Errors
///
/// That there were too many.
pub(crate) fn acquire_change(app: &AppState, user: &User) -> Result<(), Refusal> {
    app.rate_limits.token_changes.acquire(&user.id).map_err(|wait| {
        app.metrics.count_limited("token_changes");
        let message = format!("You created or changed too many tokens. Try again {}.", retry_in(wait));
        Refusal::new(Cause::RateLimited(wait), message)
    })
}

/// Checks whether a cache may have another token. If so, counts it against the user's rate limit.
async fn check_new(app: &AppState, user: &User, cache: &Cache) -> Result<(), ActionError> {
    if user.state == UserState::Suspended {
        return Err(Refusal::suspended().into());
    }
    let max = app.config.limits.tokens_at_once;
    if app.store.count_active_tokens(&cache.id).await? >= max {
        return Err(limit_reached(cache, max).into());
    }
    Ok(acquire_change(app, user)?)
}

fn limit_reached(cache: &Cache, max: usize) -> Refusal {
    let name = &cache.name;
    let message =
        format!("Cache {name} has reached the limit of {max} tokens. Revoke one that isn't in use.");
    Refusal::new(Cause::LimitReached, message)
}
