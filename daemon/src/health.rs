//! A role's health endpoint for operators: `/healthz` (alive), `/readyz` (able to work), `/metrics`.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::Shutdown;
use crate::http::{self, ConnectionLimits, ConnectionMetrics};
use crate::metrics::{self, CLASSIC, OPEN_METRICS};

/// Whether a role is able to work, and if not, why; also a warning for the operator of a role that is.
/// Starts as not ready, with the reason "starting". Cheap to clone.
#[derive(Debug, Clone)]
pub struct Readiness(Arc<Mutex<Status>>);

#[derive(Debug)]
struct Status {
    ready: Result<(), String>,
    warning: Option<String>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Status { ready: Err("starting".into()), warning: None })))
    }
}

impl Readiness {
    /// Marks the role as ready.
    pub fn ready(&self) {
        self.set(Ok(()));
    }

    /// Marks the role as not ready. Operators read the reason: it names the fix.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.set(Err(reason.into()));
    }

    /// Sets the warning for the operator, or clears it (`None`).
    pub fn warn(&self, warning: Option<String>) {
        self.status().warning = warning;
    }

    /// Returns the warning, if any, of a role that is ready.
    ///
    /// # Errors
    /// The reason, if the role is not ready.
    pub fn get(&self) -> Result<Option<String>, String> {
        let status = self.status();
        status.ready.clone().map(|()| status.warning.clone())
    }

    fn set(&self, ready: Result<(), String>) {
        self.status().ready = ready;
    }

    fn status(&self) -> MutexGuard<'_, Status> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone)]
struct Endpoint {
    readiness: Readiness,
    metrics: Arc<Registry>,
}

/// Binds the health port and serves it, in a task of `shutdown`, until the shutdown begins. Its few connections can't
/// use up the role's file descriptors.
///
/// # Errors
/// If the address can't be bound.
pub async fn serve(
    address: SocketAddr,
    readiness: Readiness,
    mut registry: Registry,
    shutdown: &Shutdown,
) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    metrics::register_process(&mut registry);
    let connections = ConnectionMetrics::register(registry.sub_registry_with_prefix("memgate_health"));
    let endpoint = Endpoint { readiness, metrics: Arc::new(registry) };
    let routes = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(encode_metrics))
        .with_state(endpoint);
    let until = shutdown.clone();
    shutdown.spawn(async move {
        http::serve(listener, routes, ConnectionLimits::for_operators(), connections, &until).await;
    });
    Ok(())
}

async fn readyz(State(endpoint): State<Endpoint>) -> Response {
    match endpoint.readiness.get() {
        Ok(None) => "ready\n".into_response(),
        Ok(Some(warning)) => format!("ready: {warning}\n").into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

/// In the format that is asked for, and otherwise in the older one, which all tools read.
async fn encode_metrics(State(endpoint): State<Endpoint>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &endpoint.metrics) {
        Ok(()) if metrics::accepts_open_metrics(accept) => {
            ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response()
        }
        Ok(()) => ([(header::CONTENT_TYPE, CLASSIC)], metrics::to_classic(&text)).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests;
