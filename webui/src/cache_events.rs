//! Changes of caches, from the store's feed to the event streams of open pages: one feed for all streams,
//! and a limited number of streams.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use daemon::health::Readiness;
use store::{Feed, Store, StoreError};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

/// Streams of one session: one per open tab. Browsers open at most six connections to a host.
const STREAMS_PER_SESSION_MAX: usize = 4;
/// Streams of all sessions.
const STREAMS_MAX: usize = 1024;
/// Changes that a stream may lag behind before it reads its cache's state again.
const BACKLOG_MAX: usize = 256;
/// Interval of the check that the store answers, while the feed is silent.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// Wait after a failed store request.
const RETRY_BACKOFF: Duration = Duration::from_secs(1);

/// Ids of caches that changed.
pub(crate) type ChangedCaches = Arc<[String]>;

/// Broadcasts changes of caches to event streams, and counts the streams. Clones share both.
#[derive(Debug, Clone)]
pub(crate) struct CacheEvents {
    changes: broadcast::Sender<ChangedCaches>,
    streams: StreamCounts,
}

/// Open streams by session.
type StreamCounts = Arc<Mutex<HashMap<String, usize>>>;

/// One open stream of a session; counted until dropped.
#[derive(Debug)]
pub(crate) struct StreamSlot {
    streams: StreamCounts,
    session: String,
}

impl Default for CacheEvents {
    fn default() -> Self {
        Self { changes: broadcast::Sender::new(BACKLOG_MAX), streams: Arc::default() }
    }
}

impl CacheEvents {
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<ChangedCaches> {
        self.changes.subscribe()
    }

    /// A slot for one more stream; `None` if the session or the process has too many.
    pub(crate) fn acquire_slot(&self, session: &str) -> Option<StreamSlot> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = streams.values().sum();
        let of_session = streams.get(session).copied().unwrap_or(0);
        if of_session >= STREAMS_PER_SESSION_MAX || all >= STREAMS_MAX {
            return None;
        }
        streams.insert(session.to_owned(), of_session + 1);
        Some(StreamSlot { streams: self.streams.clone(), session: session.to_owned() })
    }
}

impl Drop for StreamSlot {
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

/// Broadcasts the store's changes until `stop`. `readiness` tells whether the store answers.
pub(crate) async fn run(store: Store, events: CacheEvents, readiness: Readiness, stop: CancellationToken) {
    let _ = stop.run_until_cancelled(follow_store(&store, &events, &readiness)).await;
}

async fn follow_store(store: &Store, events: &CacheEvents, readiness: &Readiness) {
    loop {
        match store.feed().await {
            Ok(feed) => follow_feed(feed, store, events, readiness).await,
            Err(error) => mark_unavailable(readiness, &error).await,
        }
    }
}

/// Returns when the store went back to an earlier revision, which needs a new feed.
async fn follow_feed(mut feed: Feed, store: &Store, events: &CacheEvents, readiness: &Readiness) {
    loop {
        match broadcast_next(&mut feed, store, events).await {
            Ok(()) => readiness.ready(),
            Err(error) => {
                mark_unavailable(readiness, &error).await;
                if matches!(error, StoreError::RolledBack) {
                    return;
                }
            }
        }
    }
}

/// Broadcasts the next change, if there is one within [`PING_INTERVAL`]. `Ok` means that the store answers.
async fn broadcast_next(feed: &mut Feed, store: &Store, events: &CacheEvents) -> Result<(), StoreError> {
    let Ok(changes) = tokio::time::timeout(PING_INTERVAL, feed.next()).await else {
        // Without a change, only a ping tells whether the store answers.
        return store.ping().await;
    };
    let caches = changes?.caches;
    if !caches.is_empty() {
        // Fails if no stream is open.
        let _ = events.changes.send(caches.into());
    }
    Ok(())
}

async fn mark_unavailable(readiness: &Readiness, error: &StoreError) {
    if readiness.get().is_ok() {
        tracing::error!(%error, "store unavailable");
    }
    readiness.not_ready(error.to_string());
    tokio::time::sleep(RETRY_BACKOFF).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_a_session_are_limited_and_released() {
        let events = CacheEvents::default();
        let slots: Vec<_> = (0..STREAMS_PER_SESSION_MAX).map(|_| events.acquire_slot("a").unwrap()).collect();
        assert!(events.acquire_slot("a").is_none());
        assert!(events.acquire_slot("b").is_some());
        drop(slots);
        assert!(events.acquire_slot("a").is_some());
        assert!(events.streams.lock().unwrap().is_empty());
    }
}
