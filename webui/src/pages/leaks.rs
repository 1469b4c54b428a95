//! Where secret scanners report tokens that they found in public. No session has a part in it: whoever has
//! the whole token may revoke it, and is told nothing that a login wouldn't tell.
//!
//! The form is that of GitHub's secret scanning partner programme: a JSON array of `{token, type, url,
//! source}`. One such object alone will do as well, and so will a form with these fields. Signatures aren't
//! asked for: the token itself is the proof.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest as _, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use store::{Found, Leak, StoreError, Token, TokenId};

use super::{Trouble, retry_after};
use crate::csrf::{NoFields, Submitted};
use crate::date::day;
use crate::session::SignedIn;
use crate::source::Source;
use crate::web::Web;

/// A report: some hundred tokens.
pub(super) const MOST_BODY: usize = 64 * 1024;
/// How long a report may take to come.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Tokens in one report; the rest is for the next.
const MOST_TOKENS: usize = 200;
/// No answer comes earlier, so that the clock doesn't tell whether a token was good: revoking one takes a few
/// milliseconds more than finding nothing.
const ANSWER_AFTER: Duration = Duration::from_millis(250);

/// A token found somewhere. What else is said of it, its type above all, is of no use here.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Report {
    token: String,
    url: Option<String>,
    source: Option<String>,
}

/// What a page says about a token that was found.
#[derive(Debug)]
pub(super) struct Notice {
    pub(super) token: String,
    pub(super) name: String,
    pub(super) place: String,
    pub(super) day: String,
}

impl Notice {
    pub(super) fn of(leak: &Leak) -> Self {
        let (token, name) = (leak.token_id.clone(), leak.name.clone());
        Self { token, name, place: leak.url.clone(), day: day(leak.at) }
    }
}

/// How a token that was found has ended.
pub(super) fn in_words(leak: &Leak) -> String {
    let place = if leak.url.is_empty() { String::new() } else { format!(" at {}", leak.url) };
    format!("found in public{place}, revoked {}", day(leak.at))
}

pub(crate) async fn report(
    State(web): State<Arc<Web>>,
    source: Source,
    request: Request,
) -> Result<Response, Trouble> {
    let answer_at = tokio::time::Instant::now() + ANSWER_AFTER;
    if let Err(wait) = web.leak_reports.take(source) {
        let words = Json(json!({ "error": "too many reports: try again later" }));
        let mut response = (StatusCode::TOO_MANY_REQUESTS, words).into_response();
        retry_after(response.headers_mut(), wait);
        return Ok(response);
    }
    let headers = request.headers().clone();
    let body = tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, &web)).await;
    let body = body.map_err(|_| Trouble::Unreadable)?.map_err(|rejection: BytesRejection| match rejection
        .status()
    {
        StatusCode::PAYLOAD_TOO_LARGE => Trouble::TooLarge,
        _ => Trouble::Unreadable,
    })?;
    let reports = read(&headers, &body)?;
    if reports.len() > MOST_TOKENS {
        return Err(Trouble::TooLarge);
    }
    let done = take_in(&web, source, &reports).await;
    tokio::time::sleep_until(answer_at).await;
    done?;
    Ok(Json(json!({ "received": reports.len() })).into_response())
}

fn read(headers: &HeaderMap, body: &[u8]) -> Result<Vec<Report>, Trouble> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    match kind {
        "application/json" => objects(body),
        "application/x-www-form-urlencoded" => Ok(vec![form(body)?]),
        _ => Err(Trouble::Unreadable),
    }
}

fn objects(body: &[u8]) -> Result<Vec<Report>, Trouble> {
    let objects = match serde_json::from_slice(body) {
        Ok(Value::Array(objects)) => objects,
        Ok(object @ Value::Object(_)) => vec![object],
        _ => return Err(Trouble::Unreadable),
    };
    let read = |object: Value| {
        // An array would be read as one, by the order of the fields.
        let object = object.is_object().then_some(object).ok_or(Trouble::Unreadable)?;
        serde_json::from_value(object).map_err(|_| Trouble::Unreadable)
    };
    objects.into_iter().map(read).collect()
}

fn form(body: &[u8]) -> Result<Report, Trouble> {
    let uri = std::str::from_utf8(body).ok().and_then(|body| format!("/?{body}").parse().ok());
    let uri: axum::http::Uri = uri.ok_or(Trouble::Unreadable)?;
    let query = axum::extract::Query::try_from_uri(&uri).map_err(|_| Trouble::Unreadable)?;
    Ok(query.0)
}

/// Revokes what is ours. What was typed is never logged, nor which of it was good, but for the audit log.
async fn take_in(web: &Web, source: Source, reports: &[Report]) -> Result<(), Trouble> {
    let store = web.store.acting_as(&format!("reporter {source}"));
    for report in reports {
        let Ok(token) = Token::parse(report.token.trim()) else { continue };
        let said = |text: &Option<String>| text.clone().unwrap_or_default();
        let found = Found::new(&token, &said(&report.url), &said(&report.source));
        if store.report_leak(&web.token_key, &token, &found).await? {
            web.metrics.leaked_tokens.inc();
        }
    }
    Ok(())
}

pub(crate) async fn dismiss(
    State(web): State<Arc<Web>>,
    Path(id): Path<String>,
    Submitted { sender: me, .. }: Submitted<SignedIn, NoFields>,
) -> Result<Response, Trouble> {
    let id = TokenId::parse(&id).ok_or(Trouble::NotFound)?;
    // Only one's own are listed.
    if !me.leaks.iter().any(|leak| leak.token_id == id.as_str()) {
        return Err(Trouble::NotFound);
    }
    match me.store(&web).dismiss_leak(&id).await {
        // Dismissed in another tab meanwhile: that is what was asked for.
        Ok(()) | Err(StoreError::NotFound(_)) => Ok(Redirect::to("/cache").into_response()),
        Err(error) => Err(error.into()),
    }
}
