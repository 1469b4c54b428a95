//! Changes of caches, from the store's feed to the event streams of open pages: one feed for all streams,
//! and a limited number of streams.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use daemon::health::{Health, STORE};
use daemon::metrics::CallMetrics;
use store::{Feed, Store, StoreError};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

/// Streams of one session: one per open tab. Browsers open at most six connections to a host.
const STREAMS_PER_SESSION_MAX: usize = 4;
/// Streams of one user.
const STREAMS_PER_USER_MAX: usize = 8;
/// Streams of all users.
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
    streams: Arc<Mutex<Streams>>,
}

/// The open streams of each user, the oldest first.
#[derive(Debug, Default)]
struct Streams {
    next_id: u64,
    of_users: HashMap<String, Vec<Stream>>,
}

#[derive(Debug)]
struct Stream {
    id: u64,
    session: String,
    /// Cancelled when it has to end for another user's.
    displaced: CancellationToken,
}

/// One open stream of a session; counted until dropped.
#[derive(Debug)]
pub(crate) struct StreamSlot {
    streams: Arc<Mutex<Streams>>,
    user: String,
    id: u64,
    displaced: CancellationToken,
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

    /// A slot for one more stream. When all are taken, it is the oldest of the user that has most.
    ///
    /// # Errors
    ///
    /// The limit that is reached: of the session, the user or the process.
    pub(crate) fn acquire_slot(&self, user: &str, session: &str) -> Result<StreamSlot, &'static str> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let own = streams.of_users.get(user).map_or(&[][..], Vec::as_slice);
        let of_session = own.iter().filter(|stream| stream.session == session).count();
        if of_session >= STREAMS_PER_SESSION_MAX {
            return Err("streams_session");
        }
        let of_user = own.len();
        if of_user >= STREAMS_PER_USER_MAX {
            return Err("streams_user");
        }
        if streams.of_users.values().map(Vec::len).sum::<usize>() >= STREAMS_MAX {
            streams.displace(of_user + 1)?;
        }
        let (id, displaced) = (streams.next_id, CancellationToken::new());
        streams.next_id += 1;
        let stream = Stream { id, session: session.to_owned(), displaced: displaced.clone() };
        streams.of_users.entry(user.to_owned()).or_default().push(stream);
        Ok(StreamSlot { streams: self.streams.clone(), user: user.to_owned(), id, displaced })
    }
}

impl Streams {
    /// Ends a stream of the user that has most, if that leaves no fewer than `least`.
    fn displace(&mut self, least: usize) -> Result<(), &'static str> {
        let most = self.of_users.values_mut().max_by_key(|streams| streams.len());
        let most = most.filter(|streams| streams.len() > least).ok_or("streams_total")?;
        most.remove(0).displaced.cancel();
        Ok(())
    }
}

impl StreamSlot {
    /// Whether the stream has to end for another user's.
    pub(crate) fn is_displaced(&self) -> bool {
        self.displaced.is_cancelled()
    }

    /// Returns when the stream has to end for another user's.
    pub(crate) async fn displaced(&self) {
        self.displaced.cancelled().await;
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(own) = streams.of_users.get_mut(&self.user) else { return };
        own.retain(|stream| stream.id != self.id);
        if own.is_empty() {
            streams.of_users.remove(&self.user);
        }
    }
}

/// Broadcasts the store's changes.
pub(crate) struct Follower {
    pub(crate) store: Store,
    /// Counts the pings.
    pub(crate) calls: CallMetrics,
    pub(crate) events: CacheEvents,
    /// Tells whether the store answers.
    pub(crate) health: Health,
}

impl Follower {
    /// Runs until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let _ = stop.run_until_cancelled(self.follow_store()).await;
    }

    async fn follow_store(&self) {
        loop {
            match self.store.feed().await {
                Ok(feed) => self.follow_feed(feed).await,
                Err(error) => self.mark_unavailable(&error).await,
            }
        }
    }

    /// Returns when the store went back to an earlier revision, which needs a new feed.
    async fn follow_feed(&self, mut feed: Feed) {
        loop {
            match self.broadcast_next(&mut feed).await {
                Ok(()) => {
                    self.health.set_problem(STORE, None);
                    self.health.ready();
                }
                Err(error) => {
                    self.mark_unavailable(&error).await;
                    if matches!(error, StoreError::RolledBack) {
                        return;
                    }
                }
            }
        }
    }

    /// Broadcasts the next change, if there is one within [`PING_INTERVAL`]. `Ok` means that the store answers.
    async fn broadcast_next(&self, feed: &mut Feed) -> Result<(), StoreError> {
        let Ok(changes) = tokio::time::timeout(PING_INTERVAL, feed.next()).await else {
            // Without a change, only a ping tells whether the store answers.
            return self.calls.observe("ping", self.store.ping()).await;
        };
        let caches = changes?.caches;
        if !caches.is_empty() {
            // Fails if no stream is open.
            let _ = self.events.changes.send(caches.into());
        }
        Ok(())
    }

    async fn mark_unavailable(&self, error: &StoreError) {
        if self.health.is_ready() {
            tracing::error!(%error, "store unavailable");
        }
        // Without the store there is no page to show.
        self.health.set_problem(STORE, Some(error.to_string()));
        self.health.waiting(error.to_string());
        tokio::time::sleep(RETRY_BACKOFF).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //
    #[test]
    fn streams_are_limited_and_released() {
        let events = CacheEvents::default();
        let open = |user: &str, session: &str| events.acquire_slot(user, session);
        let mut slots: Vec<_> = (0..4).map(|_| open("ann", "a").unwrap()).collect();
        assert_eq!(open("ann", "a").err(), Some("streams_session"));
        slots.extend((0..4).map(|_| open("ann", "b").unwrap()));
        assert_eq!(open("ann", "c").err(), Some("streams_user"));
        assert!(open("bob", "d").is_ok());
        slots.remove(0);
        assert!(open("ann", "c").is_ok());
        drop(slots);
        assert!(events.streams.lock().unwrap().of_users.is_empty());
        let all: Vec<_> = (0..STREAMS_MAX).map(|i| open(&i.to_string(), "s").unwrap()).collect();
        assert_eq!(open("bob", "d").err(), Some("streams_total"));
        drop(all);
    }

    //
    #[test]
    fn users_with_many_streams_make_room_for_others() {
        let events = CacheEvents::default();
        let open = |user: usize, session: usize| events.acquire_slot(&user.to_string(), &session.to_string());
        let flood: Vec<_> = (0..STREAMS_MAX).map(|n| open(n / 8, n % 8 / 4).unwrap()).collect();
        let others: Vec<_> = (0..4).map(|n| open(1000, n / 2).unwrap()).collect();
        let ended = || flood.iter().filter(|slot| slot.displaced.is_cancelled()).count();
        assert_eq!(ended(), 4);
        assert!(others.iter().all(|slot| !slot.displaced.is_cancelled()));
        drop(flood);
        assert_eq!(events.streams.lock().unwrap().of_users.len(), 1, "what ended counts no longer");
    }
}
