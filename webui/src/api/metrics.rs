//! A cache's metrics for its user's Prometheus. A key that is kept in a monitoring system's configuration can be one that does
//! nothing else.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use daemon::metrics::{self, MetricsText};

use super::auth::{Metrics, Principal};
use super::body::Ids;
use super::cache_figures::CacheFigures;
use super::caches::find;
use super::problem::{Kind, Problem, ReadErrors};
use crate::state::AppState;

/// Shows a cache's metrics in the text format of Prometheus
///
/// OpenMetrics if `Accept` asks for it, as Prometheus does. Counters of memcached's begin at zero when it restarts.
#[utoipa::path(get, path = "/caches/{cache}/metrics", tag = "Statistics", operation_id = "getCacheMetrics",
    params(("cache" = String, Path, description = "The cache's id")), security(("api_key" = ["metrics"])),
    responses((status = 200, description = "Its metrics", content(
        (String = "text/plain"), (String = "application/openmetrics-text"))), ReadErrors))]
pub(super) async fn show(
    State(app): State<Arc<AppState>>,
    caller: Principal<Metrics>,
    Ids(id): Ids<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (cache, instance) = find(&app, &caller.user, &id).await?;
    let (store, id) = (&app.store, &instance.id);
    let figures = CacheFigures {
        usage: store.usage(id).await?,
        latency: store.latency(id).await?,
        connections: store.connections(id).await?,
        newest: store.instance_statistics(id).await?,
        cache,
        instance,
    };
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let MetricsText { content_type, text } = metrics::encode(&[&figures.registry()], accept)
        .map_err(|_| Problem::new(Kind::Internal, "The metrics can't be written. Report this bug."))?;
    Ok(([(header::CONTENT_TYPE, content_type)], text).into_response())
}
