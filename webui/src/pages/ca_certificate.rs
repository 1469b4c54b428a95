//! `GET /ca.pem`: the certificates that clients trust to speak TLS with the endpoint. Public.

use std::path::Path;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;

use crate::http::reject::PageError;
use crate::state::AppState;

/// Bytes of the file: enough for a bundle of some dozen certificates.
const FILE_MAX: u64 = 64 * 1024;
const HEADERS: [(header::HeaderName, &str); 2] = [
    (header::CONTENT_TYPE, "application/x-pem-file"),
    (header::CONTENT_DISPOSITION, "attachment; filename=\"memgate-ca.pem\""),
];

/// Reads the file for each request, since it may have been renewed.
pub(crate) async fn download(State(app): State<Arc<AppState>>) -> Result<Response, PageError> {
    let path = app.config.ca_certificate.as_deref().ok_or(PageError::NotFound)?;
    let pem = read(path).await.map_err(|error| {
        tracing::error!(%error, path = %path.display(), "failed to read webui.ca_certificate");
        PageError::Internal
    })?;
    if !has_only_certificates(&pem) {
        tracing::error!(path = %path.display(), "webui.ca_certificate contains more than certificates: not served");
        return Err(PageError::Internal);
    }
    Ok((HEADERS, pem).into_response())
}

async fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    File::open(path).await?.take(FILE_MAX + 1).read_to_string(&mut text).await?;
    Ok(text)
}

/// Guards against serving a private key that was put into the same file.
fn has_only_certificates(pem: &str) -> bool {
    let fits = u64::try_from(pem.len()).is_ok_and(|length| length <= FILE_MAX);
    let mut sections = pem.split("-----BEGIN ").skip(1).peekable();
    fits && sections.peek().is_some() && sections.all(|section| section.starts_with("CERTIFICATE-----"))
}
