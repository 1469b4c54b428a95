//! Error pages: the only texts about failures that browsers see.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Request, State};
use axum::http::header::HeaderName;
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};

use crate::http::reject::PageError;
use crate::http::session::{self, RequestedBy};
use crate::layout::{Layout, render, set_retry_after};
use crate::state::AppState;

#[derive(Template)]
#[template(path = "error.html")]
struct Page {
    layout: Layout,
    code: u16,
    title: &'static str,
    detail: &'static str,
    link: Link,
}

/// Where the page's button leads.
#[derive(Debug, Clone, Copy)]
struct Link {
    label: &'static str,
    path: &'static str,
}

/// Status, title, text and button of an error page.
type Text = (StatusCode, &'static str, &'static str, Link);

const HOME: Link = Link { label: "Go to the home page", path: "/" };
const CACHE: Link = Link { label: "Go to your cache", path: "/caches" };
/// For errors that pass soon.
const RETRY_AFTER: (HeaderName, &str) = (header::RETRY_AFTER, "5");

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        match &self {
            Self::SignInRequired(next) => {
                return Redirect::to(&format!("/sign-in?next={next}")).into_response();
            }
            Self::AlreadySignedIn => return Redirect::to("/caches").into_response(),
            _ => {}
        }
        let (status, title, detail, link) = text(&self);
        let shown = ShownError { status, title, detail, link };
        let mut response = shown.page(Layout::signed_out());
        response.extensions_mut().insert(shown);
        match self {
            Self::RateLimited(wait) => {
                set_retry_after(response.headers_mut(), wait);
                response
            }
            Self::StoreUnavailable | Self::DiskFull | Self::Busy | Self::TooManyStreams => {
                ([RETRY_AFTER], response).into_response()
            }
            _ => response,
        }
    }
}

/// What an error page says, kept with the response.
#[derive(Debug, Clone, Copy)]
struct ShownError {
    status: StatusCode,
    title: &'static str,
    detail: &'static str,
    link: Link,
}

impl ShownError {
    fn page(self, layout: Layout) -> Response {
        let Self { status, title, detail, link } = self;
        let page = Page { layout, code: status.as_u16(), title, detail, link };
        render(status, &page).unwrap_or_else(|_| (status, title).into_response())
    }
}

/// Middleware: an error page of a signed-in user has their navigation. One that says that something is overloaded or away
/// costs no look-up. The page's own extractor has recorded the use of the session.
pub(crate) async fn add_navigation(
    State(app): State<Arc<AppState>>,
    request: Request,
    next: Next,
) -> Response {
    let headers = request.headers().clone();
    let response = next.run(request).await;
    let shown = response.extensions().get::<ShownError>().copied();
    let Some(shown) =
        shown.filter(|it| it.status.is_client_error() && it.status != StatusCode::TOO_MANY_REQUESTS)
    else {
        return response;
    };
    match session::find(&app, &headers, RequestedBy::OpenPage).await {
        Ok(Some(me)) => shown.page(Layout::signed_in(&me)),
        _ => response,
    }
}

fn text(error: &PageError) -> Text {
    match error {
        PageError::NotFound | PageError::SignInRequired(_) | PageError::AlreadySignedIn => {
            (StatusCode::NOT_FOUND, "Page not found", "This page doesn't exist, or it isn't yours.", HOME)
        }
        PageError::MethodNotAllowed => (
            StatusCode::METHOD_NOT_ALLOWED,
            "Method not allowed",
            "This address can't be opened directly. Use the buttons on our pages.",
            HOME,
        ),
        PageError::CrossOrigin => (
            StatusCode::FORBIDDEN,
            "Request from another site",
            "Another site's page sent this form, so nothing was changed. Use the form on our own page. \
             If it is our own page, the operator of this service has to set webui.base_url to its address.",
            HOME,
        ),
        PageError::BadCsrfToken => (
            StatusCode::FORBIDDEN,
            "This form is out of date",
            "Nothing was changed. Go back, reload the page and send the form again. Cookies must be allowed.",
            CACHE,
        ),
        PageError::TooLarge => (
            StatusCode::PAYLOAD_TOO_LARGE,
            "Request too large",
            "The form was larger than 16 KB, so nothing was changed. Go back and make it shorter.",
            CACHE,
        ),
        PageError::Malformed => (
            StatusCode::BAD_REQUEST,
            "Invalid request",
            "The form was incomplete, so nothing was changed. Go back and send it again.",
            CACHE,
        ),
        PageError::TooManyStreams => (
            StatusCode::TOO_MANY_REQUESTS,
            "Too many open pages",
            "Too many open pages show your cache. Close one of them.",
            CACHE,
        ),
        PageError::RateLimited(_) => (
            StatusCode::TOO_MANY_REQUESTS,
            "Too many requests",
            "You did this too often, so nothing was changed. Try again in a minute.",
            CACHE,
        ),
        PageError::Busy | PageError::StoreUnavailable | PageError::DiskFull | PageError::Internal => {
            server_error_text(error)
        }
    }
}

fn server_error_text(error: &PageError) -> Text {
    let unavailable = StatusCode::SERVICE_UNAVAILABLE;
    match error {
        PageError::Busy => (
            unavailable,
            "Too busy",
            "Too many people are signing in right now. Wait a few seconds and try again.",
            HOME,
        ),
        PageError::StoreUnavailable => (
            unavailable,
            "Temporarily unavailable",
            "Your account can't be loaded right now. Nothing is lost, and caches keep working. Try again soon.",
            CACHE,
        ),
        PageError::DiskFull => (
            unavailable,
            "Changes can't be saved",
            "The disk of this service is full, so nothing was changed. Caches keep working. \
             Tell the operator, and try again later.",
            CACHE,
        ),
        _ => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "Internal error",
            "The error was logged. Try again; if it happens again, tell the operator of this service.",
            CACHE,
        ),
    }
}
