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
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::http::client_ip::ClientIp;
use crate::http::csrf::{CsrfForm, NoFields};
use crate::http::reject::PageError;
use crate::http::session::SignedIn;
use crate::layout::set_retry_after;
use crate::password::{Priority, Requester};
use crate::source_limit::SourceLimit;
use crate::state::AppState;
use crate::wait_limit::WaitLimit;

/// Bytes of a report: some hundred tokens.
pub(super) const BODY_MAX: usize = 64 * 1024;
/// Tokens in one report.
const TOKENS_MAX: usize = 200;
/// Minimum response time. It hides whether a token was valid: revoking one takes a few milliseconds longer.
const RESPONSE_TIME_MIN: Duration = Duration::from_millis(250);

/// How long a report waits until it is looked up.
const WAIT_MAX: Duration = Duration::from_secs(5);

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
        return Ok(refuse(&app, StatusCode::TOO_MANY_REQUESTS, cause, wait));
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
    let requester = Requester { source: client_ip.source(), priority: Priority::Unknown };
    let (permits, waiting) = (&app.leak_reports_at_once, &app.waiting_leak_reports);
    let Some(permit) = permit(permits, waiting, requester, WAIT_MAX).await else {
        return Ok(refuse(&app, StatusCode::SERVICE_UNAVAILABLE, "leak_reports_waiting", WAIT_MAX));
    };
    let revoked = revoke(&app, client_ip, &reports).await;
    drop(permit);
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
        Ok(()) | Err(StoreError::NotFound(_)) => Ok(Redirect::to("/caches").into_response()),
        Err(error) => Err(error.into()),
    }
}

/// Counts a report of the client and of its network.
///
/// # Errors
///
/// The limit that is reached, and the time to wait.
fn acquire_report(app: &AppState, client_ip: ClientIp) -> Result<(), (&'static str, Duration)> {
    app.rate_limits.leak_reports.acquire(client_ip.source()).map_err(|(limit, wait)| match limit {
        SourceLimit::Source => ("leak_reports_source", wait),
        SourceLimit::Network => ("leak_reports_network", wait),
    })
}

/// Waits for a permit to look a report up. `None` if too many wait, or none is free in time.
async fn permit<'a>(
    permits: &'a Semaphore,
    waiting: &WaitLimit,
    requester: Requester,
    wait_max: Duration,
) -> Option<SemaphorePermit<'a>> {
    let permit = tokio::time::timeout(wait_max, permits.acquire());
    waiting.wait(requester, permit).await.ok()?.ok()?.ok()
}

/// The response to a report that isn't looked up, which is counted.
fn refuse(app: &AppState, status: StatusCode, cause: &'static str, wait: Duration) -> Response {
    app.metrics.count_limited(cause);
    let error = Json(json!({ "error": "too many reports: try again later" }));
    let mut response = (status, error).into_response();
    set_retry_after(response.headers_mut(), wait);
    response
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
            app.detect_soon.notify_one();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use daemon::source::Source;
    use tokio::task::JoinSet;

    use super::*;

    fn from(address: [u8; 4]) -> Requester {
        Requester { source: Source::of(address.into()), priority: Priority::Unknown }
    }

    //
    #[tokio::test]
    async fn reports_wait_for_a_bounded_time_and_in_bounded_number() {
        let long = Duration::from_secs(3600);
        let (permits, waiting) = (Arc::new(Semaphore::new(1)), Arc::new(WaitLimit::new(8)));
        let held = permit(&permits, &waiting, from([203, 0, 113, 9]), long).await.unwrap();
        let mut flood = JoinSet::new();
        for host in 0..100 {
            let (permits, waiting) = (permits.clone(), waiting.clone());
            flood.spawn(async move {
                permit(&permits, &waiting, from([198, 51, 100, host]), long).await.is_some()
            });
        }
        for _ in 0..92 {
            assert!(!flood.join_next().await.unwrap().unwrap(), "refused at once");
        }
        let other = permit(&permits, &waiting, from([203, 0, 113, 9]), Duration::from_millis(1)).await;
        assert!(other.is_none(), "refused after a while");
        assert!(!flood.join_next().await.unwrap().unwrap(), "made room for it");
        drop(held);
        assert_eq!(flood.join_all().await, [true; 7]);
    }
}
