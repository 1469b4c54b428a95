//! The health endpoint, for operators, balancers and `memgate status`.
//!
//! | path | 200 means | for |
//! |---|---|---|
//! | `/healthz` | alive: the process and its loops make progress | supervisors |
//! | `/readyz` | able to work, whatever it is warned of | load balancers |
//! | `/storez` | the store can be read and written | alerts |
//! | `/status` | always: all of it, as JSON | `memgate status`, scripts |
//! | `/metrics` | always: metrics for Prometheus | monitoring |
//!
//! The first line of the first three is the answer, the second says which process gives it.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;

use super::{Health, ProcessInfo, Report, STORE, STORE_WRITES};
use crate::Shutdown;
use crate::http::{self, ConnectionLimits};
use crate::metrics::MetricsText;

/// Binds the health port and serves it, in a task of `shutdown`, until the shutdown begins. Its few connections can't
/// use up the role's file descriptors.
///
/// # Errors
/// If the address can't be bound.
pub async fn serve(address: SocketAddr, health: &Health, shutdown: &Shutdown) -> io::Result<()> {
    serve_on(TcpListener::bind(address).await?, health, shutdown);
    Ok(())
}

/// The same on a listener.
pub fn serve_on(listener: TcpListener, health: &Health, shutdown: &Shutdown) {
    let connections = health.0.connections.clone();
    let routes = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/storez", get(storez))
        .route("/status", get(async |State(health): State<Health>| Json(health.report())))
        .route("/metrics", get(encode_metrics))
        .with_state(health.clone());
    let until = shutdown.clone();
    shutdown.spawn(async move {
        http::serve(listener, routes, ConnectionLimits::for_operators(), connections, &until).await;
    });
}

async fn healthz(State(health): State<Health>) -> Response {
    let report = health.report();
    let failure = report.message.clone().filter(|_| !report.alive);
    answer(&report, failure.map_or(Ok("ok".to_owned()), Err))
}

async fn readyz(State(health): State<Health>) -> Response {
    let report = health.report();
    let ready = || report.warning().map_or("ready".to_owned(), |warning| format!("ready: {warning}"));
    answer(&report, report.message.clone().map_or_else(|| Ok(ready()), Err))
}

async fn storez(State(health): State<Health>) -> Response {
    let report = health.report();
    let problem = [STORE, STORE_WRITES].iter().find_map(|part| report.problems.get(*part));
    let starting = report.message.as_ref().filter(|_| !report.ready);
    answer(&report, problem.or(starting).cloned().map_or(Ok("ok".to_owned()), Err))
}

/// 200 or 503, the text, and who answers.
fn answer(report: &Report, result: Result<String, String>) -> Response {
    let (status, line) = match result {
        Ok(line) => (StatusCode::OK, line),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason),
    };
    (status, format!("{line}\n{}", describe(&report.process))).into_response()
}

/// A line that names the process; nothing if it has no installation, as in tests.
fn describe(process: &ProcessInfo) -> String {
    let ProcessInfo { installation, role, version, pid, started_at } = process;
    if installation.is_empty() {
        return String::new();
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let age = now.saturating_sub(Duration::from_millis(*started_at)).as_secs();
    format!("{role} of installation {installation}, memgate {version}, process {pid}, running for {age} s\n")
}

async fn encode_metrics(State(health): State<Health>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    match super::metrics::encode(&health, accept) {
        Ok(MetricsText { content_type, text }) => {
            ([(header::CONTENT_TYPE, content_type)], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
