//! The operator's port of a role: `/healthz` (it lives), `/readyz` (it can do its work), `/metrics`.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::Shutdown;

/// Whether a role can do its work, and if not, why. Starts as "starting". Cheap to clone.
#[derive(Debug, Clone)]
pub struct Readiness(Arc<Mutex<Result<(), String>>>);

impl Default for Readiness {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Err("starting".into()))))
    }
}

impl Readiness {
    /// From now on it can.
    pub fn ready(&self) {
        self.set(Ok(()));
    }

    /// From now on it can't, for this reason (operators read it: name the fix).
    pub fn not_ready(&self, why: impl Into<String>) {
        self.set(Err(why.into()));
    }

    /// `Ok` if it can, else the reason.
    pub fn get(&self) -> Result<(), String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, to: Result<(), String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = to;
    }
}

#[derive(Clone)]
struct Role {
    readiness: Readiness,
    metrics: Arc<Registry>,
}

/// Binds the operator's port and serves it until shutdown, in a task of `shutdown`.
pub async fn serve(
    address: SocketAddr,
    readiness: Readiness,
    metrics: Registry,
    shutdown: &Shutdown,
) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let role = Role { readiness, metrics: Arc::new(metrics) };
    let routes = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(encode_metrics))
        .with_state(role);
    let stop = shutdown.token().clone();
    shutdown.spawn(async move {
        let served = axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await;
        if let Err(error) = served {
            tracing::error!(%error, "the health port has failed");
        }
    });
    Ok(())
}

async fn readyz(State(role): State<Role>) -> Response {
    match role.readiness.get() {
        Ok(()) => "ready\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn encode_metrics(State(role): State<Role>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &role.metrics) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
