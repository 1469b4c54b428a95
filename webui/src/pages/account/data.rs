//! Download of what the service has of a user: one JSON document, without secrets.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use serde_json::json;
use store::{NOTIFICATIONS_PER_USER_MAX, SessionRow};

use crate::http::reject::PageError;
use crate::http::session::SignedIn;
use crate::state::AppState;

/// Entries of the audit log, the newest. Each has 3 KiB at most.
const AUDIT_ENTRIES_MAX: i64 = 1_000;
const DISPOSITION: &str = "attachment; filename=\"memgate-account.json\"";

/// `GET /account/data.json`
pub(crate) async fn download(State(app): State<Arc<AppState>>, me: SignedIn) -> Result<Response, PageError> {
    let (user, limits) = (&me.user, &app.rate_limits);
    limits.data_downloads.acquire(&user.id).map_err(|wait| {
        app.metrics.count_limited("data_downloads");
        PageError::RateLimited(wait)
    })?;
    // Each holds some megabytes.
    let Ok(_turn) = app.data_downloads_at_once.try_acquire() else {
        app.metrics.count_limited("data_downloads_at_once");
        return Err(PageError::Busy);
    };
    let store = &app.store;
    let factor = store.second_factor(&user.id).await?.and_then(|factor| factor.confirmed_at);
    let sessions = store.sessions_of(&user.id, app.config.session_idle(), app.config.session_age()).await?;
    let document = json!({
        "format": "memgate account, version 1; times are milliseconds since 1970-01-01 00:00 UTC",
        "account": {
            "id": user.id,
            "email": user.email,
            "plan": user.plan,
            "state": user.state,
            "created_at": user.created_at,
            "second_factor_since": factor,
        },
        "caches": store.caches_of(&user.id).await?,
        "tokens": store.tokens_of_user(&user.id).await?,
        "api_keys": store.api_keys_of(&user.id).await?,
        "notifications": store.notifications_of(&user.id, None, NOTIFICATIONS_PER_USER_MAX).await?,
        "notifications_by_mail": store.mail_kinds_of(&user.id).await?,
        "webhooks": store.webhooks_of(&user.id).await?,
        "leaked_tokens": store.leaks_of(&user.id).await?,
        "sessions": sessions.iter().map(session).collect::<Vec<_>>(),
        "audit_entries": store.audit_by_user(&user.id, i64::MAX, AUDIT_ENTRIES_MAX).await?,
    });
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CONTENT_DISPOSITION, DISPOSITION)];
    Ok((headers, document.to_string()).into_response())
}

/// Without the hash of its cookie.
fn session(session: &SessionRow) -> serde_json::Value {
    json!({
        "source": session.source,
        "user_agent": session.user_agent,
        "created_at": session.created_at,
        "last_seen_at": session.last_seen_at,
    })
}
