//! CSRF protection: forms count only from our own pages. Checks the browser's `Sec-Fetch-Site` or `Origin`
//! header, and the CSRF token in the form.

use std::sync::Arc;
use std::time::Duration;

use axum::Form;
use axum::extract::rejection::FormRejection;
use axum::extract::{FromRequest, FromRequestParts, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use subtle::ConstantTimeEq as _;

use super::reject::PageError;
use super::session::{SignedIn, Visitor};
use crate::state::AppState;

/// Bytes of a form; none of ours is larger.
pub(crate) const BODY_MAX: usize = 16 * 1024;
/// Time limit for reading a form.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Middleware that rejects unsafe requests from other sites. Browsers without either header are too old to
/// matter; for other clients the form's CSRF token decides.
pub(crate) async fn require_same_origin(
    State(app): State<Arc<AppState>>,
    request: Request,
    next: Next,
) -> Response {
    if request.method().is_safe() || is_same_origin(request.headers(), app.config.base_url.as_deref()) {
        next.run(request).await
    } else {
        PageError::CrossOrigin.into_response()
    }
}

fn is_same_origin(headers: &HeaderMap, base_url: Option<&str>) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return site == "same-origin" || site == "none";
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let Ok(origin) = origin.to_str() else { return false };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let authority = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    base_url == Some(origin) || (authority.is_some() && authority == host)
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
        let form = tokio::time::timeout(BODY_TIMEOUT, form).await.map_err(|_| PageError::Malformed)?;
        let Form(form) = form.map_err(|rejection: FormRejection| match rejection.status() {
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

    #[test]
    fn other_origins_are_rejected() {
        let cases: &[(&[(&str, &str)], bool)] = &[
            (&[("sec-fetch-site", "same-origin")], true),
            (&[("sec-fetch-site", "none")], true),
            (&[("sec-fetch-site", "same-site")], false),
            (&[("sec-fetch-site", "cross-site"), ("origin", "http://127.0.0.1:8080")], false),
            (&[("origin", "http://127.0.0.1:8080")], true),
            (&[("origin", "https://cache.example.com")], true),
            (&[("origin", "http://cache.example.com")], false),
            (&[("origin", "http://127.0.0.1:8081")], false),
            (&[("origin", "http://127.0.0.1:8080.evil.example")], false),
            (&[("origin", "null")], false),
            (&[], true),
        ];
        for (sent, expected) in cases {
            let mut headers = HeaderMap::new();
            headers.insert("host", "127.0.0.1:8080".parse().unwrap());
            for (name, value) in *sent {
                headers.insert(*name, value.parse().unwrap());
            }
            assert_eq!(is_same_origin(&headers, Some("https://cache.example.com")), *expected, "{sent:?}");
        }
    }
}
