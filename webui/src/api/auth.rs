//! Who sends a request: the user of the API key in its `Authorization` header. Cookies are ignored, so that no
//! other site's page can send a request in a user's name.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use store::{ApiKey, ApiKeyId, ApiKeyRow, ApiScope, User, UserState, now};

use super::problem::{Kind, Problem};
use crate::http::client_ip::ClientIp;
use crate::state::AppState;

/// How often a key's last use is written to the store.
const TOUCH_INTERVAL: Duration = Duration::from_secs(60);

/// A scope that a request needs.
pub(super) trait RequiredScope {
    const SCOPE: ApiScope;
}

/// Needs the scope `read`.
#[derive(Debug)]
pub(super) struct Read;
/// Needs the scope `tokens`.
#[derive(Debug)]
pub(super) struct Tokens;
/// Needs the scope `caches`.
#[derive(Debug)]
pub(super) struct Caches;
/// Needs the scope `webhooks`.
#[derive(Debug)]
pub(super) struct Webhooks;
/// Needs the scope `metrics`.
#[derive(Debug)]
pub(super) struct Metrics;

impl RequiredScope for Read {
    const SCOPE: ApiScope = ApiScope::Read;
}

impl RequiredScope for Tokens {
    const SCOPE: ApiScope = ApiScope::Tokens;
}

impl RequiredScope for Caches {
    const SCOPE: ApiScope = ApiScope::Caches;
}

impl RequiredScope for Webhooks {
    const SCOPE: ApiScope = ApiScope::Webhooks;
}

impl RequiredScope for Metrics {
    const SCOPE: ApiScope = ApiScope::Metrics;
}

/// Extractor: the sender of a request, whose key has the scope `S`.
#[derive(Debug)]
pub(super) struct Principal<S> {
    pub(super) user: User,
    pub(super) key: ApiKeyRow,
    scope: PhantomData<S>,
}

/// A request's user and key, as [`require_key`] has found them.
#[derive(Debug, Clone)]
struct Authenticated {
    user: User,
    key: ApiKeyRow,
}

impl<S: RequiredScope> FromRequestParts<Arc<AppState>> for Principal<S> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<AppState>) -> Result<Self, Problem> {
        let found = parts.extensions.get::<Authenticated>().cloned();
        let Authenticated { user, key } = found.ok_or_else(no_key)?;
        if !key.scopes.contains(S::SCOPE) {
            let name = S::SCOPE.name();
            let detail =
                format!("This needs the scope `{name}`. Create an API key with it on /account/api-keys.");
            return Err(Problem::new(Kind::MissingScope, detail));
        }
        Ok(Self { user, key, scope: PhantomData })
    }
}

/// Middleware: requires a valid key, limits requests, and tells how many are left.
pub(super) async fn require_key(
    State(app): State<Arc<AppState>>,
    client_ip: ClientIp,
    mut request: Request,
    next: Next,
) -> Response {
    let found = match authenticate(&app, client_ip, request.headers()).await {
        Ok(found) => found,
        Err(problem) => return problem.into_response(),
    };
    let (id, limited) = (found.key.id.clone(), acquire(&app, &found));
    let mut response = match limited {
        Ok(()) => {
            request.extensions_mut().insert(found);
            next.run(request).await
        }
        Err(wait) => Problem::rate_limited(wait).into_response(),
    };
    add_rate_limit(&app, &id, response.headers_mut());
    response
}

async fn authenticate(
    app: &AppState,
    client_ip: ClientIp,
    headers: &HeaderMap,
) -> Result<Authenticated, Problem> {
    let sent = headers.get(header::AUTHORIZATION).ok_or_else(no_key)?;
    let attempts = &app.api_key_attempts;
    let limited = |wait| {
        app.metrics.count_limited("api_keys");
        Problem::new(Kind::RateLimited, "Too many requests with API keys that aren't valid. Check the key.")
            .with_retry_after(wait)
    };
    let Some(shown) = bearer(sent) else {
        attempts.acquire(client_ip.source()).map_err(limited)?;
        let detail = "This isn't an API key. Send one as `Authorization: Bearer mgk_...`; keys are made on \
                      /account/api-keys.";
        return Err(Problem::new(Kind::InvalidKey, detail));
    };
    // A key that was right lately isn't kept out by what others behind the same address send.
    if !attempts.is_proven(&shown) {
        attempts.acquire(client_ip.source()).map_err(limited)?;
    }
    let invalid = |detail: &str| Problem::new(Kind::InvalidKey, detail);
    let key = app.store.verify_api_key(&app.token_key, &shown).await?;
    let key = key.ok_or_else(|| {
        attempts.forget(&shown);
        invalid("This API key isn't known. Create another one on /account/api-keys.")
    })?;
    if !key.is_active(now()) {
        attempts.forget(&shown);
        return Err(invalid(
            "This API key was revoked or has expired. Create another one on /account/api-keys.",
        ));
    }
    let user = app.store.user(&key.user_id).await?.filter(|user| user.state == UserState::Active);
    let user = user.ok_or_else(|| {
        attempts.forget(&shown);
        invalid("The account of this API key is suspended. Ask the operator of this service.")
    })?;
    attempts.record_success(&shown, client_ip.source());
    touch(app, &key, &shown.id()).await;
    Ok(Authenticated { user, key })
}

/// The key of a header `Authorization: Bearer mgk_...`.
fn bearer(sent: &HeaderValue) -> Option<ApiKey> {
    let (scheme, key) = sent.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    ApiKey::parse(key.trim()).ok()
}

fn no_key() -> Problem {
    let detail = "Send an API key as `Authorization: Bearer mgk_...`; keys are made on /account/api-keys. Cookies don't count.";
    Problem::new(Kind::InvalidKey, detail)
}

/// Counts a request of the key and of its user.
fn acquire(app: &AppState, found: &Authenticated) -> Result<(), Duration> {
    let limits = &app.rate_limits;
    let acquired = limits.api_requests.acquire(&found.key.id);
    acquired
        .and_then(|()| limits.api_user_requests.acquire(&found.user.id))
        .inspect_err(|_| app.metrics.count_limited("api_requests"))
}

/// The headers of draft-ietf-httpapi-ratelimit-headers: how many requests the key may make, and has left.
fn add_rate_limit(app: &AppState, key_id: &str, headers: &mut HeaderMap) {
    let limiter = &app.rate_limits.api_requests;
    let (max, window) = limiter.quota();
    let (left, resets_in) = limiter.left(key_id);
    let policy = format!("\"requests\";q={max};w={}", window.as_secs());
    let state = format!("\"requests\";r={left};t={}", resets_in.as_secs() + 1);
    for (name, value) in [("ratelimit-policy", policy), ("ratelimit", state)] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
}

/// Records that a key is in use. A failure is logged only, so that requests that read still work when the disk is full.
async fn touch(app: &AppState, key: &ApiKeyRow, id: &ApiKeyId) {
    let is_recorded = key.last_used_at.is_some_and(|used| now().since(used) < TOUCH_INTERVAL);
    if !is_recorded && let Err(error) = app.store.touch_api_key(id).await {
        tracing::warn!(%error, "failed to record the use of an API key");
    }
}
