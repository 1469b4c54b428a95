//! Stylesheet, script and icon: compiled into the binary, and cached by browsers until they change.

use std::sync::LazyLock;

use axum::extract::{Path, RawQuery};
use axum::http::header;
use axum::response::{IntoResponse as _, Redirect, Response};
use sha2::{Digest as _, Sha256};

use super::reject::PageError;

struct Asset {
    name: &'static str,
    content_type: &'static str,
    text: &'static str,
}

const ASSETS: [Asset; 3] = [
    Asset {
        name: "style.css",
        content_type: "text/css; charset=utf-8",
        text: include_str!("../../assets/style.css"),
    },
    Asset {
        name: "page.js",
        content_type: "text/javascript; charset=utf-8",
        text: include_str!("../../assets/page.js"),
    },
    Asset { name: "icon.svg", content_type: "image/svg+xml", text: include_str!("../../assets/icon.svg") },
];
/// For URLs that carry the current [`VERSION`]: their content never changes.
const CACHE_FOREVER: &str = "public, max-age=31536000, immutable";

/// Hash of all assets together.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let mut hash = Sha256::new();
    for asset in &ASSETS {
        hash.update(asset.text);
    }
    hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
});

/// URL of an asset, with the version as its query.
pub(crate) fn url(name: &str) -> String {
    format!("/assets/{name}?v={}", *VERSION)
}

/// `GET /assets/{name}`
pub(crate) async fn serve(
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, PageError> {
    let asset = ASSETS.iter().find(|asset| asset.name == name).ok_or(PageError::NotFound)?;
    let is_current = query.as_deref().and_then(|query| query.strip_prefix("v=")) == Some(VERSION.as_str());
    let cache_control = if is_current { CACHE_FOREVER } else { "no-cache" };
    let headers = [(header::CONTENT_TYPE, asset.content_type), (header::CACHE_CONTROL, cache_control)];
    Ok((headers, asset.text).into_response())
}

/// `GET /favicon.ico`, which browsers ask for on their own.
pub(crate) async fn favicon() -> Redirect {
    Redirect::permanent(&url("icon.svg"))
}

/// `GET /robots.txt`: only the home page says something to everybody.
pub(crate) async fn robots() -> &'static str {
    "User-agent: *\nAllow: /$\nDisallow: /\n"
}
