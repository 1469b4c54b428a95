//! Changes only from our own pages: by where the browser says it comes from, and by the form's token.

use std::sync::Arc;
use std::time::Duration;

use axum::Form;
use axum::extract::rejection::FormRejection;
use axum::extract::{FromRequest, FromRequestParts, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use subtle::ConstantTimeEq as _;

use crate::pages::Trouble;
use crate::session::{SignedIn, Visitor};
use crate::web::Web;

/// A body: none of our forms holds more.
pub(crate) const MOST_BODY: usize = 16 * 1024;
/// How long a body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Refuses what another site's page sends. Without either header it isn't a browser of this decade; the
/// form's token decides then.
pub(crate) async fn same_origin_only(State(web): State<Arc<Web>>, request: Request, next: Next) -> Response {
    if request.method().is_safe() || is_ours(request.headers(), web.config.base_url.as_deref()) {
        next.run(request).await
    } else {
        Trouble::CrossOrigin.into_response()
    }
}

fn is_ours(headers: &HeaderMap, base_url: Option<&str>) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return site == "same-origin" || site == "none";
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let Ok(origin) = origin.to_str() else { return false };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let authority = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    base_url == Some(origin) || (authority.is_some() && authority == host)
}

/// Somebody with a form token.
pub(crate) trait HasForms {
    fn form_token(&self) -> &str;
    /// What to answer when a form comes with another token.
    fn stale(&self) -> Trouble {
        Trouble::StaleForm
    }
}

impl HasForms for SignedIn {
    fn form_token(&self) -> &str {
        &self.session.form_token
    }
}

impl HasForms for Visitor {
    fn form_token(&self) -> &str {
        &self.form_token
    }

    /// A stranger's form sent again after it has signed its sender in: nothing is left to do.
    fn stale(&self) -> Trouble {
        if self.me.is_some() { Trouble::AlreadySignedIn } else { Trouble::StaleForm }
    }
}

/// A form's fields, its token checked against its sender's.
#[derive(Debug)]
pub(crate) struct Submitted<S, T> {
    pub(crate) sender: S,
    pub(crate) fields: T,
}

/// The fields of a form that has none.
#[derive(Debug, Deserialize)]
pub(crate) struct NoFields {}

#[derive(Deserialize)]
struct WithToken<T> {
    #[serde(default)]
    form_token: String,
    #[serde(flatten)]
    fields: T,
}

impl<S, T> FromRequest<Arc<Web>> for Submitted<S, T>
where
    S: HasForms + FromRequestParts<Arc<Web>, Rejection = Trouble> + Send,
    T: DeserializeOwned,
{
    type Rejection = Trouble;

    async fn from_request(request: Request, web: &Arc<Web>) -> Result<Self, Trouble> {
        let (mut parts, body) = request.into_parts();
        let sender = S::from_request_parts(&mut parts, web).await?;
        if declared(&parts.headers) > MOST_BODY {
            return Err(Trouble::TooLarge);
        }
        let form = Form::<WithToken<T>>::from_request(Request::from_parts(parts, body), web);
        let form = tokio::time::timeout(BODY_TIMEOUT, form).await.map_err(|_| Trouble::Unreadable)?;
        let Form(form) = form.map_err(|rejection: FormRejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Trouble::TooLarge,
            _ => Trouble::Unreadable,
        })?;
        let same: bool = form.form_token.as_bytes().ct_eq(sender.form_token().as_bytes()).into();
        if same { Ok(Self { sender, fields: form.fields }) } else { Err(sender.stale()) }
    }
}

/// The body's length as its head says; one that says none is cut at [`MOST_BODY`] as it comes.
fn declared(headers: &HeaderMap) -> usize {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    length.map_or(0, |length| length.parse().unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins() {
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
        for (sent, ours) in cases {
            let mut headers = HeaderMap::new();
            headers.insert("host", "127.0.0.1:8080".parse().unwrap());
            for (name, value) in *sent {
                headers.insert(*name, value.parse().unwrap());
            }
            assert_eq!(is_ours(&headers, Some("https://cache.example.com")), *ours, "{sent:?}");
        }
    }
}
