//! CSRF protection: forms count only from our own pages. Checks the browser's `Sec-Fetch-Site` or `Origin`
//! header, and the CSRF token in the form.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Form;
use axum::extract::rejection::FormRejection;
use axum::extract::{FromRequest, FromRequestParts, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use daemon::http::Local;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use subtle::ConstantTimeEq as _;

use super::reject::PageError;
use super::session::{SignedIn, Visitor};
use crate::state::AppState;

/// Bytes of a form; none of ours is larger.
pub(crate) const BODY_MAX: usize = 16 * 1024;
/// Middleware that rejects unsafe requests from other sites. Browsers without either header are too old to
/// matter; for other clients the form's CSRF token decides. The `Host` header decides nothing: behind a name that
/// an attacker points to this server (DNS rebinding), it is the attacker's.
pub(crate) async fn require_same_origin(
    State(app): State<Arc<AppState>>,
    request: Request,
    next: Next,
) -> Response {
    let local = request.extensions().get::<Local>().map(|local| local.0);
    if request.method().is_safe() || is_same_origin(request.headers(), app.config.base_url.as_deref(), local)
    {
        return next.run(request).await;
    }
    app.metrics.count_limited("cross_origin");
    PageError::CrossOrigin.into_response()
}

/// Browsers send `Sec-Fetch-Site` to `https://` and to this machine only, where no foreign name can lead. Without it,
/// the page's origin has to be one that is known: `base_url`, or the address that the connection came to.
fn is_same_origin(headers: &HeaderMap, base_url: Option<&str>, local: Option<SocketAddr>) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return site == "same-origin" || site == "none";
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let Ok(origin) = origin.to_str() else { return false };
    base_url == Some(origin) || local.is_some_and(|local| is_origin_of(origin, local))
}

/// Whether an origin is that of a listener without TLS, by its address.
fn is_origin_of(origin: &str, local: SocketAddr) -> bool {
    let Some(authority) = origin.strip_prefix("http://") else { return false };
    let (address, port) = (local.ip().to_canonical(), local.port());
    // A browser leaves port 80 out.
    let is_own = |host: &str| authority == format!("{host}:{port}") || (port == 80 && authority == host);
    let host = match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    };
    is_own(&host) || (address.is_loopback() && is_own("localhost"))
}

/// Sender of a form: a visitor or a signed-in user.
pub(crate) trait FormSender {
    fn csrf_token(&self) -> &str;
    /// The error if the form has another CSRF token.
    fn on_bad_csrf(&self) -> PageError {
        PageError::BadCsrfToken
    }
}

impl FormSender for SignedIn {
    fn csrf_token(&self) -> &str {
        &self.session.form_token
    }
}

impl FormSender for Visitor {
    fn csrf_token(&self) -> &str {
        &self.csrf_token
    }

    /// A sign-in form that is sent twice carries the visitor's old token the second time: the first one has
    /// signed them in.
    fn on_bad_csrf(&self) -> PageError {
        if self.me.is_some() { PageError::AlreadySignedIn } else { PageError::BadCsrfToken }
    }
}

/// Extractor: fields of a form whose CSRF token is that of its sender.
#[derive(Debug)]
pub(crate) struct CsrfForm<S, T> {
    pub(crate) sender: S,
    pub(crate) fields: T,
}

/// Fields of a form that is only a button.
#[derive(Debug, Deserialize)]
pub(crate) struct NoFields {}

#[derive(Deserialize)]
struct FormWithToken<T> {
    #[serde(default)]
    csrf_token: String,
    #[serde(flatten)]
    fields: T,
}

impl<S, T> FromRequest<Arc<AppState>> for CsrfForm<S, T>
where
    S: FormSender + FromRequestParts<Arc<AppState>, Rejection = PageError> + Send,
    T: DeserializeOwned,
{
    type Rejection = PageError;

    async fn from_request(request: Request, app: &Arc<AppState>) -> Result<Self, PageError> {
        let (mut parts, body) = request.into_parts();
        let sender = S::from_request_parts(&mut parts, app).await?;
        if content_length(&parts.headers) > BODY_MAX {
            return Err(PageError::TooLarge);
        }
        let form = Form::<FormWithToken<T>>::from_request(Request::from_parts(parts, body), app);
        let Form(form) = form.await.map_err(|rejection: FormRejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => PageError::TooLarge,
            _ => PageError::Malformed,
        })?;
        let matches: bool = form.csrf_token.as_bytes().ct_eq(sender.csrf_token().as_bytes()).into();
        if matches { Ok(Self { sender, fields: form.fields }) } else { Err(sender.on_bad_csrf()) }
    }
}

/// The `Content-Length`, or 0 without one: such a body is cut at [`BODY_MAX`] as it is read.
fn content_length(headers: &HeaderMap) -> usize {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    length.map_or(0, |length| length.parse().unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    // V-12.
    #[test]
    fn other_origins_are_rejected_whatever_the_host() {
        let cases: &[(&[(&str, &str)], bool)] = &[
            (&[("sec-fetch-site", "same-origin")], true),
            (&[("sec-fetch-site", "none")], true),
            (&[("sec-fetch-site", "same-site")], false),
            (&[("sec-fetch-site", "cross-site"), ("origin", "http://127.0.0.1:8080")], false),
            (&[("origin", "http://127.0.0.1:8080")], true),
            (&[("origin", "https://cache.example.com")], true),
            (&[("origin", "http://cache.example.com")], false),
            (&[("origin", "https://127.0.0.1:8080")], false),
            (&[("origin", "http://127.0.0.1:8081")], false),
            (&[("origin", "http://127.0.0.1:8080.evil.example")], false),
            (&[("origin", "http://evil.example:8080")], false),
            (&[("origin", "null")], false),
            (&[], true),
        ];
        let local = "127.0.0.1:8080".parse().ok();
        for (sent, expected) in cases {
            for host in ["127.0.0.1:8080", "127.0.0.1:8081", "cache.example.com", "evil.example:8080"] {
                let mut headers = HeaderMap::new();
                headers.insert("host", host.parse().unwrap());
                for (name, value) in *sent {
                    headers.insert(*name, value.parse().unwrap());
                }
                let is_same = is_same_origin(&headers, Some("https://cache.example.com"), local);
                assert_eq!(is_same, *expected, "{sent:?} to {host}");
            }
        }
    }

    #[test]
    fn origin_of_a_listener() {
        for (origin, local, expected) in [
            ("http://192.0.2.1", "192.0.2.1:80", true),
            ("http://192.0.2.1", "[::ffff:192.0.2.1]:80", true),
            ("http://192.0.2.1:8080", "[::ffff:192.0.2.1]:8080", true),
            ("http://[2001:db8::1]", "[2001:db8::1]:80", true),
            ("http://[2001:db8::1]:8080", "[2001:db8::1]:8080", true),
            ("http://localhost:8080", "127.0.0.1:8080", true),
            ("http://192.0.2.1", "192.0.2.1:8080", false),
            ("http://localhost:8080", "192.0.2.1:8080", false),
            ("http://localhost:8080", "127.0.0.1:8081", false),
        ] {
            assert_eq!(is_origin_of(origin, local.parse().unwrap()), expected, "{origin} {local}");
        }
    }
}
