//! `GET /api/v1/openapi.json`: the document that describes the API (OpenAPI 3.1), made from the code.

use std::sync::LazyLock;

use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use serde_json::Value;
use utoipa::OpenApi as _;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{ComponentsBuilder, Info, OpenApi, Server};

use super::Operations;

const DESCRIPTION: &str = "Manage your caches, their tokens and certificates, and webhooks. Send an API key as `Authorization: Bearer mgk_...`; \
    keys are made on /account/api-keys, each with scopes. Bodies are JSON objects of at most 16 KiB; fields and parameters that \
    aren't known are refused. Lists come in pages: send `next_cursor` as `cursor` to get the next one. Creations take an \
    `Idempotency-Key`, changes an `If-Match`. `RateLimit` tells how many requests a key has left.";

static TEXT: LazyLock<String> = LazyLock::new(|| document().to_json().unwrap_or_default());

/// Shows the document that describes the API
#[utoipa::path(get, path = "/openapi.json", tag = "Document", operation_id = "getDocument", security(()),
    responses((status = 200, description = "This document (OpenAPI 3.1)", body = Object)))]
pub(super) async fn show() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], TEXT.as_str()).into_response()
}

/// The document as a value.
pub(crate) fn value() -> Value {
    serde_json::from_str(&TEXT).unwrap_or_default()
}

fn document() -> OpenApi {
    let mut document = Operations::openapi();
    let mut info = Info::new("memgate API", "1");
    info.description = Some(DESCRIPTION.to_owned());
    document.info = info;
    document.servers = Some(vec![Server::new("/api/v1")]);
    let components = document.components.take().unwrap_or_else(|| ComponentsBuilder::new().build());
    let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    document.components =
        Some(ComponentsBuilder::from(components).security_scheme("api_key", scheme).build());
    document
}
