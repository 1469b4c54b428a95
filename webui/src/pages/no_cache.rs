//! What the pages of a cache show to a user who has none.

use askama::Template;
use axum::http::StatusCode;
use axum::response::Response;

use crate::http::reject::PageError;
use crate::http::session::SignedIn;
use crate::layout::{Layout, render};

#[derive(Template)]
#[template(path = "no_cache.html")]
struct Page {
    layout: Layout,
}

/// The page that says how to get a cache.
///
/// # Errors
///
/// [`PageError::Internal`] if the template fails.
pub(super) fn page(me: &SignedIn, status: StatusCode) -> Result<Response, PageError> {
    render(status, &Page { layout: Layout::signed_in(me) })
}
