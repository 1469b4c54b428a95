//! The pages: one file per page, and the table of their routes.
//!
//! A new page is one file here, one template of the same name, and one line in [`routes`].

mod account;
mod admin;
mod api_reference;
mod ca_certificate;
mod caches;
mod code_check;
mod confirm_email;
mod error;
mod forgot_password;
mod home;
mod leak_reports;
mod links;
mod no_cache;
mod password_check;
mod reset_password;
mod sign_in;
mod sign_up;
mod tokens;

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{any, get, post};
use axum::{Extension, Router};
use tokio_util::sync::CancellationToken;

use self::caches::operations;
use crate::api;
use crate::http::reject::PageError;
use crate::http::{assets, csrf, headers};
use crate::state::AppState;

/// Every route. `stop` ends the event streams.
pub(crate) fn routes(app: Arc<AppState>, stop: CancellationToken) -> Router {
    Router::new()
        .route("/", get(home::show))
        .route("/sign-up", get(sign_up::show).post(sign_up::submit))
        .route("/sign-up/confirm", get(sign_up::confirm::show).post(sign_up::confirm::submit))
        .route("/sign-in", get(sign_in::show).post(sign_in::submit))
        .route("/sign-in/code", get(sign_in::code::show).post(sign_in::code::submit))
        .route("/sign-out", post(sign_in::sign_out))
        .route("/forgot-password", get(forgot_password::show).post(forgot_password::submit))
        .route("/links/{code}", get(links::follow))
        .route("/reset-password", get(reset_password::show).post(reset_password::submit))
        .route("/confirm-email", get(confirm_email::show).post(confirm_email::submit))
        .merge(account_routes())
        .route("/caches", get(caches::list::show).post(caches::create::submit))
        .route("/caches/{cache}", get(caches::overview::show))
        .route("/caches/{cache}/state", get(caches::overview::state))
        .route("/caches/{cache}/figures", get(caches::overview::figures))
        .route("/caches/{cache}/events", get(caches::events::stream))
        .route("/caches/{cache}/connect", get(caches::connect::show))
        // A new token is shown in the response to the POST; a later GET of the same address shows the list.
        .route("/caches/{cache}/tokens", get(caches::tokens::show).post(tokens::create::submit))
        .route("/caches/{cache}/connections", get(caches::connections::show))
        .route("/caches/{cache}/connections/close", post(caches::connections::close))
        .route("/caches/{cache}/denials", get(caches::denials::show))
        .route("/caches/{cache}/activity", get(caches::activity::show))
        .route("/caches/{cache}/settings", get(caches::settings::show))
        .route("/caches/{cache}/restart", get(operations::confirm).post(operations::submit))
        .route("/caches/{cache}/flush", get(operations::confirm).post(operations::submit))
        .route("/caches/{cache}/suspend", get(operations::confirm).post(operations::submit))
        .route("/caches/{cache}/resume", get(operations::confirm).post(operations::submit))
        .route("/caches/{cache}/resize", get(operations::confirm).post(operations::resize))
        .route("/caches/{cache}/sleep", post(caches::sleep::submit))
        .route("/caches/{cache}/delete", get(caches::delete::show).post(caches::delete::submit))
        .route("/caches/{cache}/usage", get(caches::usage::show))
        .route("/caches/{cache}/usage.csv", get(caches::usage::download))
        .route("/api", get(api_reference::show))
        .route("/ca.pem", get(ca_certificate::download))
        .route("/tokens/{id}/first-use", get(caches::first_steps::first_use))
        .route("/tokens/{id}", get(tokens::show::show))
        .route("/tokens/{id}/edit", get(tokens::edit::show).post(tokens::edit::submit))
        .route("/tokens/{id}/rotate", get(tokens::rotate::show).post(tokens::rotate::submit))
        .route("/tokens/{id}/revoke", get(tokens::revoke::show).post(tokens::revoke::submit))
        .route(
            "/tokens/{id}/certificates",
            get(tokens::certificates::show).post(tokens::certificates::submit),
        )
        .route("/tokens/{id}/certificates/revoke", post(tokens::certificates::revoke))
        .route("/tokens/{id}/dismiss-leak", post(leak_reports::dismiss))
        .route(
            "/leaked-tokens",
            post(leak_reports::submit).layer(DefaultBodyLimit::max(leak_reports::BODY_MAX)),
        )
        .nest("/admin", admin::routes(app.clone()))
        .route("/assets/{name}", get(assets::serve))
        .route("/favicon.ico", get(assets::favicon))
        .route("/robots.txt", get(assets::robots))
        .fallback(|| async { PageError::NotFound })
        .method_not_allowed_fallback(|| async { PageError::MethodNotAllowed })
        .layer(DefaultBodyLimit::max(csrf::BODY_MAX))
        .layer(Extension(stop))
        .layer(middleware::from_fn_with_state(app.clone(), csrf::require_same_origin))
        .layer(middleware::from_fn_with_state(app.clone(), error::add_navigation))
        // Forms of other sites can do nothing there: it doesn't know cookies.
        .route("/api/v1/", any(api::not_found))
        .nest("/api/v1", api::routes(&app))
        .layer(middleware::from_fn_with_state(app.clone(), headers::add_security_headers))
        .layer(middleware::from_fn_with_state(app.clone(), record_response))
        .with_state(app)
}

fn account_routes() -> Router<Arc<AppState>> {
    Router::new()
        .route("/account", get(account::show))
        .route("/account/data.json", get(account::data::download))
        .route("/account/second-factor", get(account::second_factor::show))
        .route("/account/second-factor/qr.svg", get(account::second_factor::qr_code))
        .route("/account/second-factor/begin", post(account::second_factor::begin))
        .route("/account/second-factor/confirm", post(account::second_factor::confirm))
        .route("/account/second-factor/cancel", post(account::second_factor::cancel))
        .route("/account/second-factor/codes", post(account::second_factor::replace_codes))
        .route("/account/second-factor/remove", post(account::second_factor::remove))
        .route("/account/email", get(account::email::show).post(account::email::submit))
        .route("/account/password", post(account::change_password))
        .route("/account/delete", post(account::delete))
        .route("/account/sessions/end-others", post(account::end_other_sessions))
        .route("/account/api-keys", get(account::api_keys::show).post(account::api_keys::create))
        .route("/account/api-keys/{id}/revoke", post(account::api_keys::revoke))
        .route(
            "/account/notifications",
            get(account::notifications::show).post(account::notifications::submit),
        )
        .route("/account/webhooks", get(account::webhooks::list).post(account::webhooks::create))
        .route("/account/webhooks/{id}", get(account::webhooks::show_one))
        .route("/account/webhooks/{id}/edit", post(account::webhooks::edit))
        .route("/account/webhooks/{id}/rotate", post(account::webhooks::rotate))
        .route("/account/webhooks/{id}/enable", post(account::webhooks::enable))
        .route("/account/webhooks/{id}/disable", post(account::webhooks::disable))
        .route("/account/webhooks/{id}/delete", post(account::webhooks::delete))
        .route("/account/webhooks/{id}/test", post(account::webhooks::test))
        .route("/account/webhooks/{id}/deliveries/{delivery}/send-again", post(account::webhooks::send_again))
}

/// Logs and counts a response. The logged path is the route's pattern, never the requested path.
async fn record_response(
    State(app): State<Arc<AppState>>,
    path: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let (method, started) = (request.method().clone(), Instant::now());
    let response = next.run(request).await;
    let status = response.status().as_u16();
    let elapsed = started.elapsed();
    app.metrics.count_response(status, elapsed);
    let path = path.as_ref().map_or("-", MatchedPath::as_str);
    tracing::debug!(%method, path, status, ?elapsed, "response");
    response
}
