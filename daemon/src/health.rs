//! The operator's port of a role: `/healthz` (it lives), `/readyz` (it can do its work), `/metrics`.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::Shutdown;

/// Whether a role can do its work, and if not, why; and what an operator should see to although it can.
/// Starts as "starting". Cheap to clone.
#[derive(Debug, Clone)]
pub struct Readiness(Arc<Mutex<Condition>>);

#[derive(Debug)]
struct Condition {
    able: Result<(), String>,
    warning: Option<String>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Condition { able: Err("starting".into()), warning: None })))
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

    /// Something to see to, or (`None`) nothing any more.
    pub fn warn(&self, warning: Option<String>) {
        self.condition().warning = warning;
    }

    /// `Ok` if it can, with what there is to see to; else the reason.
    pub fn get(&self) -> Result<Option<String>, String> {
        let now = self.condition();
        now.able.clone().map(|()| now.warning.clone())
    }

    fn set(&self, to: Result<(), String>) {
        self.condition().able = to;
    }

    fn condition(&self) -> MutexGuard<'_, Condition> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        Ok(None) => "ready\n".into_response(),
        Ok(Some(warning)) => format!("ready: {warning}\n").into_response(),
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
