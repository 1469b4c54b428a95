//! What clients trust to speak TLS with the endpoint. Anybody may have it.

use std::path::Path;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;

use super::Trouble;
use crate::web::Web;

/// Room for a bundle of some dozen certificates.
const MOST_BYTES: u64 = 64 * 1024;
const HEADERS: [(header::HeaderName, &str); 2] = [
    (header::CONTENT_TYPE, "application/x-pem-file"),
    (header::CONTENT_DISPOSITION, "attachment; filename=\"memgate-ca.pem\""),
];

/// The file as it is now: it may have been renewed.
pub(crate) async fn serve(State(web): State<Arc<Web>>) -> Result<Response, Trouble> {
    let path = web.config.ca_certificate.as_deref().ok_or(Trouble::NotFound)?;
    let text = read(path).await.map_err(|error| {
        tracing::error!(%error, path = %path.display(), "can't read webui.ca_certificate");
        Trouble::Internal
    })?;
    if !is_public(&text) {
        tracing::error!(path = %path.display(), "webui.ca_certificate isn't certificates alone: it is kept back");
        return Err(Trouble::Internal);
    }
    Ok((HEADERS, text).into_response())
}

async fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    File::open(path).await?.take(MOST_BYTES + 1).read_to_string(&mut text).await?;
    Ok(text)
}

/// Certificates, whole, and nothing that was put beside them by mistake: such as the key.
fn is_public(text: &str) -> bool {
    let fits = u64::try_from(text.len()).is_ok_and(|length| length <= MOST_BYTES);
    let mut begun = text.split("-----BEGIN ").skip(1).peekable();
    fits && begun.peek().is_some() && begun.all(|rest| rest.starts_with("CERTIFICATE-----"))
}
