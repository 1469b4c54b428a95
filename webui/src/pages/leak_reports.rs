//! `POST /leaked-tokens`: secret scanners report tokens that they found in public, and the tokens are revoked.
//! Needs no session. The response tells nothing that a login attempt wouldn't.
//!
//! The format is that of GitHub's secret scanning partner program: a JSON array of `{token, type, url,
//! source}`. A single object, or a form with these fields, is accepted too. Signatures aren't checked: the
//! token itself is the proof.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest as _, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Redirect, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use store::{LeakReport, StoreError, Token, TokenId};

use crate::http::client_ip::ClientIp;
use crate::http::csrf::{CsrfForm, NoFields};
use crate::http::reject::PageError;
use crate::http::session::SignedIn;
use crate::layout::set_retry_after;
use crate::state::AppState;

/// Bytes of a report: some hundred tokens.
pub(super) const BODY_MAX: usize = 64 * 1024;
/// Tokens in one report.
const TOKENS_MAX: usize = 200;
/// Minimum response time. It hides whether a token was valid: revoking one takes a few milliseconds longer.
const RESPONSE_TIME_MIN: Duration = Duration::from_millis(250);

/// A token that was found in public. Other fields, such as its type, are ignored.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Report {
    token: String,
    url: Option<String>,
    source: Option<String>,
}

pub(crate) async fn submit(
    State(app): State<Arc<AppState>>,
    client_ip: ClientIp,
    request: Request,
) -> Result<Response, PageError> {
    let respond_at = tokio::time::Instant::now() + RESPONSE_TIME_MIN;
    if let Err((cause, wait)) = acquire_report(&app, client_ip) {
        app.metrics.count_limited(cause);
        let error = Json(json!({ "error": "too many reports: try again later" }));
        let mut response = (StatusCode::TOO_MANY_REQUESTS, error).into_response();
        set_retry_after(response.headers_mut(), wait);
        return Ok(response);
    }
    let headers = request.headers().clone();
    let body = Bytes::from_request(request, &app).await;
    let body = body.map_err(|rejection: BytesRejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => PageError::TooLarge,
        _ => PageError::Malformed,
    })?;
    let reports = parse(&headers, &body)?;
    if reports.len() > TOKENS_MAX {
        return Err(PageError::TooLarge);
    }
    let revoked = match app.leak_reports_at_once.acquire().await {
        Ok(_permit) => revoke(&app, client_ip, &reports).await,
        Err(_) => Err(PageError::Internal),
    };
    tokio::time::sleep_until(respond_at).await;
    revoked?;
    Ok(Json(json!({ "received": reports.len() })).into_response())
}

/// Dismisses the notice about a leaked token.
pub(crate) async fn dismiss(
    State(app): State<Arc<AppState>>,
    Path(id): Path<String>,
    CsrfForm { sender: me, .. }: CsrfForm<SignedIn, NoFields>,
) -> Result<Response, PageError> {
    let id = TokenId::parse(&id).ok_or(PageError::NotFound)?;
    // The session lists only leaks of its own user.
    if !me.leaks.iter().any(|leak| leak.token_id == id.as_str()) {
        return Err(PageError::NotFound);
    }
    match me.store(&app).dismiss_leak(&id).await {
        // A concurrent request may have dismissed it.
        Ok(()) | Err(StoreError::NotFound(_)) => Ok(Redirect::to("/cache").into_response()),
        Err(error) => Err(error.into()),
    }
}

/// Counts a report of the client and of its network.
///
/// # Errors
///
/// The limit that is reached, and the time to wait.
fn acquire_report(app: &AppState, client_ip: ClientIp) -> Result<(), (&'static str, Duration)> {
    let limits = &app.rate_limits;
    limits.leak_reports.acquire(client_ip).map_err(|wait| ("leak_reports_source", wait))?;
    limits
        .network_leak_reports
        .acquire(client_ip.source().network())
        .map_err(|wait| ("leak_reports_network", wait))
}

fn parse(headers: &HeaderMap, body: &[u8]) -> Result<Vec<Report>, PageError> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    match content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim() {
        "application/json" => parse_json(body),
        "application/x-www-form-urlencoded" => Ok(vec![parse_form(body)?]),
        _ => Err(PageError::Malformed),
    }
}

fn parse_json(body: &[u8]) -> Result<Vec<Report>, PageError> {
    let objects = match serde_json::from_slice(body) {
        Ok(Value::Array(objects)) => objects,
        Ok(object @ Value::Object(_)) => vec![object],
        _ => return Err(PageError::Malformed),
    };
    let report = |object: Value| {
        // serde would also accept an array, with the fields by position.
        let object = object.is_object().then_some(object).ok_or(PageError::Malformed)?;
        serde_json::from_value(object).map_err(|_| PageError::Malformed)
    };
    objects.into_iter().map(report).collect()
}

fn parse_form(body: &[u8]) -> Result<Report, PageError> {
    let uri = std::str::from_utf8(body).ok().and_then(|body| format!("/?{body}").parse().ok());
    let uri: axum::http::Uri = uri.ok_or(PageError::Malformed)?;
    let query = axum::extract::Query::try_from_uri(&uri).map_err(|_| PageError::Malformed)?;
    Ok(query.0)
}

/// Revokes the tokens that exist. Only the audit log learns which ones; reported text is never logged.
async fn revoke(app: &AppState, client_ip: ClientIp, reports: &[Report]) -> Result<(), PageError> {
    let store = app.store.acting_as(&format!("reporter {client_ip}"));
    for report in reports {
        let Ok(token) = Token::parse(report.token.trim()) else { continue };
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let found = LeakReport::new(&token, &text(&report.url), &text(&report.source));
        if store.report_leak(&app.token_key, &token, &found).await? {
            app.metrics.leaked_tokens.inc();
        }
    }
    Ok(())
}
