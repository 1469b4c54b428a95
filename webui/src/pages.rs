//! The pages: which address leads where, and what all of them have around them.

mod account;
mod authority;
mod cache;
mod certify;
mod change;
mod connections;
mod home;
mod leaks;
mod rotate;
mod sign_in;
mod sign_up;
mod token;
mod tokens;
mod trouble;

use std::sync::Arc;
use std::time::Instant;

use askama::Template;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use tokio_util::sync::CancellationToken;

pub(crate) use cache::StateView;
pub(crate) use trouble::Trouble;

use crate::session::{SignedIn, Visitor};
use crate::web::Web;
use crate::{assets, csrf, headers, live};

/// Every address that answers. `stop` ends the streams.
pub(crate) fn routes(web: Arc<Web>, stop: CancellationToken) -> Router {
    Router::new()
        .route("/", get(home::show))
        .route("/sign-up", get(sign_up::show).post(sign_up::submit))
        .route("/sign-in", get(sign_in::show).post(sign_in::submit))
        .route("/sign-out", post(sign_in::out))
        .route("/account", get(account::show))
        .route("/account/password", post(account::change_password))
        .route("/account/delete", post(account::delete))
        .route("/cache", get(cache::show))
        .route("/cache/state", get(cache::state))
        .route("/cache/live", get(live::stream))
        .route("/ca.pem", get(authority::serve))
        .route("/connections", get(connections::show))
        .route("/connections/end", post(connections::end))
        // A token's page is the answer to its POST; whoever comes back to the address sees the list.
        .route("/tokens", get(|| async { Redirect::to("/cache") }).post(tokens::create))
        .route("/tokens/{id}", get(token::show))
        .route("/tokens/{id}/revoke", get(tokens::confirm).post(tokens::revoke))
        .route("/tokens/{id}/rotate", get(rotate::confirm).post(rotate::submit))
        .route("/tokens/{id}/certificate", get(certify::show).post(certify::submit))
        .route("/tokens/{id}/change", get(change::show).post(change::submit))
        .route("/tokens/{id}/leak/dismiss", post(leaks::dismiss))
        .route("/leaked-tokens", post(leaks::report).layer(DefaultBodyLimit::max(leaks::MOST_BODY)))
        .route("/assets/{name}", get(assets::serve))
        .fallback(|| async { Trouble::NotFound })
        .method_not_allowed_fallback(|| async { Trouble::MethodNotAllowed })
        .layer(DefaultBodyLimit::max(csrf::MOST_BODY))
        .layer(Extension(stop))
        .layer(middleware::from_fn_with_state(web.clone(), csrf::same_origin_only))
        .layer(middleware::from_fn_with_state(web.clone(), headers::on_every_answer))
        .layer(middleware::from_fn_with_state(web.clone(), observe))
        .with_state(web)
}

/// One line and one count an answer. The path is the route's, never what was sent.
async fn observe(
    State(web): State<Arc<Web>>,
    path: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let (method, began) = (request.method().clone(), Instant::now());
    let response = next.run(request).await;
    let status = response.status().as_u16();
    web.metrics.answered(status);
    let path = path.as_ref().map_or("-", MatchedPath::as_str);
    tracing::debug!(%method, path, status, elapsed = ?began.elapsed(), "answered");
    response
}

/// What is around every page: who is signed in, and where the assets are.
#[derive(Debug)]
struct Frame {
    /// The e-mail address and the form token of who is signed in.
    me: Option<(String, String)>,
    /// What is said on every page until it is dismissed.
    notices: Vec<leaks::Notice>,
    style: String,
    script: String,
    icon: String,
}

impl Frame {
    fn for_nobody() -> Self {
        let [style, script, icon] = ["style.css", "live.js", "icon.svg"].map(assets::url);
        Self { me: None, notices: Vec::new(), style, script, icon }
    }

    fn of(me: &SignedIn) -> Self {
        let notices = me.leaks.iter().map(leaks::Notice::of).collect();
        let me = Some((me.user.email.clone(), me.session.form_token.clone()));
        Self { me, notices, ..Self::for_nobody() }
    }

    fn around(visitor: &Visitor) -> Self {
        visitor.me.as_ref().map_or_else(Self::for_nobody, Self::of)
    }
}

fn render(status: StatusCode, page: &impl Template) -> Result<Response, Trouble> {
    let text = page.render().map_err(|error| {
        tracing::error!(%error, "can't render a page");
        Trouble::Internal
    })?;
    Ok((status, Html(text)).into_response())
}

fn set_cookie(headers: &mut HeaderMap, cookie: Option<HeaderValue>) {
    if let Some(cookie) = cookie {
        headers.append(header::SET_COOKIE, cookie);
    }
}

fn retry_after(headers: &mut HeaderMap, wait: std::time::Duration) {
    headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1));
}

/// "in 40 seconds", "in 12 minutes".
fn in_words(wait: std::time::Duration) -> String {
    match wait.as_secs() + 1 {
        1 => "in a second".into(),
        seconds @ 2..=90 => format!("in {seconds} seconds"),
        seconds => format!("in {} minutes", seconds.div_ceil(60)),
    }
}
