//! `GET /caches/{cache}/events`: server-sent events with the state of a cache, one at once and one per
//! change.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::header;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::broadcast;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{OwnCache, read_state};
use crate::cache_events::{ChangedCaches, StreamSlot};
use crate::http::reject::PageError;
use crate::http::session;
use crate::state::AppState;
use crate::view::cache_state::CacheState;

/// Interval of a stream's own check of its session and cache, and of its keep-alive comments.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// How long a browser waits before it reopens a stream that ended.
const BROWSER_RETRY_BACKOFF: Duration = Duration::from_secs(2);

pub(crate) async fn stream(
    State(app): State<Arc<AppState>>,
    Extension(stop): Extension<CancellationToken>,
    OwnCache { me, cache, .. }: OwnCache,
) -> Result<Response, PageError> {
    let slot = app.cache_events.acquire_slot(&me.user.id, &me.session.id_hash).map_err(|cause| {
        app.metrics.count_limited(cause);
        PageError::TooManyStreams
    })?;
    // Subscribed before the first read: a change in between is sent twice rather than missed.
    let changes = app.cache_events.subscribe();
    let events = EventStream {
        cache_id: cache.id,
        session: me.session.id_hash,
        changes,
        last_sent: None,
        next_check: Instant::now() + CHECK_INTERVAL,
        stop,
        _gauge: GaugeGuard::new(&app.metrics.event_streams),
        slot,
        app,
    };
    let body = Sse::new(stream::unfold(events, EventStream::next))
        .keep_alive(KeepAlive::new().interval(CHECK_INTERVAL));
    // Without this header, nginx buffers events.
    Ok(([(header::HeaderName::from_static("x-accel-buffering"), "no")], body).into_response())
}

/// An open stream.
struct EventStream {
    app: Arc<AppState>,
    cache_id: String,
    session: String,
    changes: broadcast::Receiver<ChangedCaches>,
    last_sent: Option<CacheState>,
    next_check: Instant,
    stop: CancellationToken,
    _gauge: GaugeGuard,
    slot: StreamSlot,
}

impl EventStream {
    /// The next event; `None` ends the stream.
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        loop {
            if self.last_sent.is_some() && !self.wait().await {
                return None;
            }
            // If the store is unavailable the stream ends: the page keeps its state, the browser reconnects.
            let instance = self.app.store.instance_of_cache(&self.cache_id).await.ok()??;
            let state = read_state(&self.app, &instance).await.ok()?;
            if self.last_sent.as_ref() == Some(&state) {
                continue;
            }
            let event =
                Event::default().event("state").retry(BROWSER_RETRY_BACKOFF).json_data(&state).ok()?;
            self.last_sent = Some(state);
            return Some((Ok(event), self));
        }
    }

    /// Waits for a change of the cache or for the next check. `false` ends the stream.
    async fn wait(&mut self) -> bool {
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return false,
                () = self.slot.displaced() => return false,
                // Also while the cache changes more often than that.
                () = sleep_until(self.next_check) => {
                    self.next_check = Instant::now() + CHECK_INTERVAL;
                    return session::is_active(&self.app, &self.session).await.unwrap_or(false);
                }
                changed = self.changes.recv() => match changed {
                    Ok(caches) if !caches.contains(&self.cache_id) => {}
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return true,
                    Err(broadcast::error::RecvError::Closed) => return false,
                },
            }
        }
    }
}

/// Counts a stream while it is open.
struct GaugeGuard(Gauge);

impl GaugeGuard {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}
