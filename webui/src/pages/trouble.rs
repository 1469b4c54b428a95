//! What may be said when something goes wrong: an allow-list. Causes go to the log.

use std::time::Duration;

use askama::Template;
use axum::http::header::HeaderName;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use store::StoreError;

use super::{Frame, render, retry_after};

/// Why a page can't be shown.
#[derive(Debug)]
pub(crate) enum Trouble {
    NotFound,
    MethodNotAllowed,
    /// Another site's page sent it.
    CrossOrigin,
    /// The form's token isn't its sender's.
    StaleForm,
    TooLarge,
    Unreadable,
    TooManyStreams,
    /// Too many looks lately, or orders; how long to wait.
    TooOften(Duration),
    /// Too many passwords at a time.
    Busy,
    StoreAway,
    DiskFull,
    Internal,
    /// Not trouble, but not the page either: sign in, then come back.
    SignInFirst(String),
    AlreadySignedIn,
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, cause = ?std::error::Error::source(&error).map(ToString::to_string), "store");
        match error {
            StoreError::DiskFull(_) => Self::DiskFull,
            StoreError::Unavailable(_) => Self::StoreAway,
            _ => Self::Internal,
        }
    }
}

#[derive(Template)]
#[template(path = "trouble.html")]
struct Page {
    frame: Frame,
    code: u16,
    title: &'static str,
    detail: &'static str,
    /// Where to go from here: a label and an address.
    way: (&'static str, &'static str),
}

const HOME: (&str, &str) = ("Go to the first page", "/");
const CACHE: (&str, &str) = ("Go to your cache", "/cache");
const RETRY: (HeaderName, &str) = (header::RETRY_AFTER, "5");

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        match &self {
            Self::SignInFirst(next) => return Redirect::to(&format!("/sign-in?next={next}")).into_response(),
            Self::AlreadySignedIn => return Redirect::to("/cache").into_response(),
            _ => {}
        }
        let (status, title, detail, way) = self.words();
        let page = Page { frame: Frame::for_nobody(), code: status.as_u16(), title, detail, way };
        let mut response = render(status, &page).unwrap_or_else(|_| (status, title).into_response());
        match self {
            Self::TooOften(wait) => {
                retry_after(response.headers_mut(), wait);
                response
            }
            Self::StoreAway | Self::DiskFull | Self::Busy => ([RETRY], response).into_response(),
            _ => response,
        }
    }
}

impl Trouble {
    fn words(&self) -> (StatusCode, &'static str, &'static str, (&'static str, &'static str)) {
        match self {
            Self::NotFound | Self::SignInFirst(_) | Self::AlreadySignedIn => {
                (StatusCode::NOT_FOUND, "Nothing here", "This page doesn't exist, or it isn't yours.", HOME)
            }
            Self::MethodNotAllowed => (
                StatusCode::METHOD_NOT_ALLOWED,
                "Not that way",
                "This address can't be opened like this. Use the buttons on our pages.",
                HOME,
            ),
            Self::CrossOrigin => (
                StatusCode::FORBIDDEN,
                "That came from another site",
                "Another site's page sent this form, so nothing was changed. Use the form on our own page.",
                HOME,
            ),
            Self::StaleForm => (
                StatusCode::FORBIDDEN,
                "This form is out of date",
                "Nothing was changed. Go back, reload the page and send the form again; cookies must be allowed.",
                CACHE,
            ),
            Self::TooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "That was too much",
                "The form was larger than 16 KB, so nothing was changed. Go back and make it shorter.",
                CACHE,
            ),
            Self::Unreadable => (
                StatusCode::BAD_REQUEST,
                "We couldn't read that",
                "The form came incomplete, so nothing was changed. Go back and send it again.",
                CACHE,
            ),
            Self::TooManyStreams => (
                StatusCode::TOO_MANY_REQUESTS,
                "Too many pages",
                "Too many pages follow your cache. Close one of them.",
                CACHE,
            ),
            Self::TooOften(_) => (
                StatusCode::TOO_MANY_REQUESTS,
                "Too often",
                "You did that many times lately, so nothing was done now. Try again in a minute.",
                CACHE,
            ),
            Self::Busy | Self::StoreAway | Self::DiskFull | Self::Internal => self.our_fault(),
        }
    }

    fn our_fault(&self) -> (StatusCode, &'static str, &'static str, (&'static str, &'static str)) {
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        match self {
            Self::Busy => (
                unavailable,
                "Too busy right now",
                "Many people are signing in at this moment. Wait a few seconds and try again.",
                HOME,
            ),
            Self::StoreAway => (
                unavailable,
                "Your account can't be reached right now",
                "Nothing is lost, and caches keep working meanwhile. Try again in a moment.",
                CACHE,
            ),
            Self::DiskFull => (
                unavailable,
                "We can't save now",
                "The disk of this service is full, so nothing was changed. Caches keep working; \
                 tell the operator, and try again later.",
                CACHE,
            ),
            _ => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "Something broke on our side",
                "It has been noted. Try again; if it stays, tell the operator of this service.",
                CACHE,
            ),
        }
    }
}
