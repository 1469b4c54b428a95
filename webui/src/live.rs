//! Pages that follow their cache: one follower of the store's feed for all, one bounded stream for each.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::header;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use daemon::health::Readiness;
use futures_util::stream;
use store::{Feed, StoreError};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::pages::{StateView, Trouble};
use crate::session::{self, SignedIn};
use crate::web::Web;

/// Streams of one session: tabs, say. Browsers open six connections to a host at most.
const MOST_PER_SESSION: usize = 4;
/// Streams of all.
const MOST_IN_ALL: usize = 1024;
/// Changes that a slow stream may be behind before it reads its state again.
const BACKLOG: usize = 256;
/// How often a stream looks by itself, at its session too.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How often the follower says that the store is well when nothing changes.
const WELL_EVERY: Duration = Duration::from_secs(1);
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// How long a browser waits before it opens a stream that has ended again.
const BROWSER_RETRY: Duration = Duration::from_secs(2);

/// Ids of users whose cache changed.
type Changed = Arc<[String]>;

#[derive(Debug)]
pub(crate) struct Live {
    changes: broadcast::Sender<Changed>,
    streams: Arc<Mutex<HashMap<String, usize>>>,
}

impl Default for Live {
    fn default() -> Self {
        Self { changes: broadcast::Sender::new(BACKLOG), streams: Arc::default() }
    }
}

/// Follows the store until the stop; `readiness` says whether it answers.
pub(crate) async fn follow(web: Arc<Web>, readiness: Readiness, stop: CancellationToken) {
    let _ = stop.run_until_cancelled(follow_for_ever(&web, &readiness)).await;
}

async fn follow_for_ever(web: &Web, readiness: &Readiness) {
    loop {
        match web.store.feed().await {
            Ok(feed) => hand_all_on(feed, web, readiness).await,
            Err(error) => not_ready(readiness, &error).await,
        }
    }
}

/// Until another feed must be begun.
async fn hand_all_on(mut feed: Feed, web: &Web, readiness: &Readiness) {
    loop {
        match hand_on(&mut feed, web).await {
            Ok(()) => readiness.ready(),
            Err(error) => {
                not_ready(readiness, &error).await;
                if matches!(error, StoreError::RolledBack) {
                    return;
                }
            }
        }
    }
}

/// Waits a little for a change and hands it on. `Ok` means that the store answers.
async fn hand_on(feed: &mut Feed, web: &Web) -> Result<(), StoreError> {
    let Ok(changes) = tokio::time::timeout(WELL_EVERY, feed.next()).await else {
        // Quiet, or slow to answer: this read tells.
        return web.store.ping().await;
    };
    let users = changes?.users;
    if !users.is_empty() {
        // Nobody listening is no error.
        let _ = web.live.changes.send(users.into());
    }
    Ok(())
}

async fn not_ready(readiness: &Readiness, error: &StoreError) {
    if readiness.get().is_ok() {
        tracing::error!(%error, "the store is away");
    }
    readiness.not_ready(error.to_string());
    tokio::time::sleep(RETRY_EVERY).await;
}

/// `GET /cache/live`: an event at once, then one at every change.
pub(crate) async fn stream(
    State(web): State<Arc<Web>>,
    Extension(stop): Extension<CancellationToken>,
    me: SignedIn,
) -> Result<Response, Trouble> {
    let place = web.live.place(&me.session.id_hash).ok_or(Trouble::TooManyStreams)?;
    // Subscribed before the first look: a change in between is seen twice, not missed.
    let changes = web.live.changes.subscribe();
    let follower = Follower {
        user_id: me.user.id,
        session: me.session.id_hash,
        changes,
        told: None,
        stop,
        _open: Open::count(&web),
        _place: place,
        web,
    };
    let events = stream::unfold(follower, Follower::next);
    let keep_alive = KeepAlive::new().interval(LOOK_EVERY);
    // Proxies in front would otherwise gather events.
    Ok((
        [(header::HeaderName::from_static("x-accel-buffering"), "no")],
        Sse::new(events).keep_alive(keep_alive),
    )
        .into_response())
}

struct Follower {
    web: Arc<Web>,
    user_id: String,
    session: String,
    changes: broadcast::Receiver<Changed>,
    told: Option<StateView>,
    stop: CancellationToken,
    _open: Open,
    _place: Place,
}

impl Follower {
    /// The next event, or the end of the stream.
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        loop {
            if self.told.is_some() && !self.wait().await {
                return None;
            }
            // A store that is away: the page keeps what it shows, the browser comes back.
            let instance = self.web.store.instance_of(&self.user_id).await.ok()??;
            let view = StateView::of(&instance);
            if self.told.as_ref() == Some(&view) {
                continue;
            }
            let event = Event::default().event("state").retry(BROWSER_RETRY).json_data(&view).ok()?;
            self.told = Some(view);
            return Some((Ok(event), self));
        }
    }

    /// Waits until it is worth a look; `false` at the end.
    async fn wait(&mut self) -> bool {
        let look = tokio::time::sleep(LOOK_EVERY);
        tokio::pin!(look);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return false,
                () = &mut look => return session::is_active(&self.web, &self.session).await.unwrap_or(false),
                changed = self.changes.recv() => match changed {
                    Ok(users) if !users.contains(&self.user_id) => {}
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return true,
                    Err(broadcast::error::RecvError::Closed) => return false,
                },
            }
        }
    }
}

impl Live {
    fn place(&self, session: &str) -> Option<Place> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let in_all: usize = streams.values().sum();
        let mine = streams.get(session).copied().unwrap_or(0);
        if mine >= MOST_PER_SESSION || in_all >= MOST_IN_ALL {
            return None;
        }
        streams.insert(session.to_owned(), mine + 1);
        Some(Place { streams: self.streams.clone(), session: session.to_owned() })
    }
}

/// One of a session's streams, given back when it ends however it ends.
struct Place {
    streams: Arc<Mutex<HashMap<String, usize>>>,
    session: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        match streams.get_mut(&self.session) {
            Some(open) if *open > 1 => *open -= 1,
            _ => {
                streams.remove(&self.session);
            }
        }
    }
}

/// Counts a stream while it is open.
struct Open(prometheus_client::metrics::gauge::Gauge);

impl Open {
    fn count(web: &Web) -> Self {
        let gauge = web.metrics.live_streams.clone();
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}
