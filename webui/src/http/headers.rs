//! Security headers, on every response including errors.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{self, HeaderName};
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;

use crate::state::AppState;

const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; \
                                       connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
const SECURITY_HEADERS: [(HeaderName, &str); 7] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
];
/// `Referrer-Policy` of a response whose own address is secret. Others have forms, which some browsers send without an origin then.
pub(crate) const NO_REFERRER: &str = "no-referrer";
/// Two years, the value that browsers' preload lists recommend.
const STRICT_TRANSPORT_SECURITY: &str = "max-age=63072000";

/// Middleware. Responses without `Cache-Control` also get `no-store`.
pub(crate) async fn add_security_headers(
    State(app): State<Arc<AppState>>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = next.run(request).await;
    add(response.headers_mut(), app.config.is_https());
    response
}

fn add(headers: &mut HeaderMap, https: bool) {
    let keeps_address = headers.get(header::REFERRER_POLICY).is_some_and(|policy| policy == NO_REFERRER);
    for (name, value) in SECURITY_HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if keeps_address {
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static(NO_REFERRER));
    }
    if https {
        headers
            .insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static(STRICT_TRANSPORT_SECURITY));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}
