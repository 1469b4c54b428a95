//! Follows the store: reads changed grants again and sends them to the workers.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use daemon::Shutdown;
use daemon::health::Readiness;
use store::{Changes, Feed, Grant, StoreError, TokenId};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::{Grants, STORE_TIMEOUT};
use crate::mailbox::{self, Message};

/// Delay before the next try while the store is unavailable.
const RETRY_BACKOFF: Duration = Duration::from_millis(200);

impl Grants {
    /// Reads the changed grants and sends each to its worker: first the tokens that changed themselves, such as revoked
    /// ones, then those of changed caches.
    async fn apply_changes(
        &self,
        changes: &Changes,
        workers: &[mpsc::Sender<Message>],
    ) -> Result<(), StoreError> {
        self.position.store(changes.revision, Ordering::Release);
        self.metrics.feed.read.set(changes.revision);
        for id in &changes.tokens {
            self.negative_cache.remove(id);
        }
        for fingerprint in &changes.certificates {
            self.certificates.mark_issued(fingerprint);
        }
        let caches: HashSet<&str> = changes.caches.iter().map(String::as_str).collect();
        let own: HashSet<TokenId> =
            changes.tokens.iter().copied().filter(|id| self.known.contains_key(id)).collect();
        let concerned = |grant: &Grant| caches.contains(&*grant.cache_id) && !own.contains(&grant.token);
        let others: Vec<TokenId> =
            self.known.iter().filter(|known| concerned(known.value())).map(|known| *known.key()).collect();
        for id in own.iter().copied().chain(others) {
            self.renew(id, workers).await?;
            self.mark_alive();
        }
        Ok(())
    }

    async fn renew(&self, id: TokenId, workers: &[mpsc::Sender<Message>]) -> Result<(), StoreError> {
        // A read that hangs must not delay other tokens' revocations.
        let read = timeout(STORE_TIMEOUT, self.store.grant(&id)).await.map_err(|_| StoreError::Timeout)?;
        let grant = match read {
            Ok(Some(grant)) => {
                let grant = Arc::new(grant);
                self.known.insert(id, grant.clone());
                grant
            }
            // A missing or corrupt token is treated as revoked; the others must not wait for it.
            Ok(None) | Err(StoreError::Corrupt(_)) => {
                let Some((_, last)) = self.known.remove(&id) else { return Ok(()) };
                let mut revoked = Grant::clone(&last);
                revoked.revoked = true;
                Arc::new(revoked)
            }
            Err(error) => return Err(error),
        };
        mailbox::notify_grant(workers, grant).await;
        Ok(())
    }

    /// Waits until the workers have applied all changes. If that takes too long, the next call waits again.
    async fn barrier(&self, workers: &[mpsc::Sender<Message>]) {
        let position = self.position.load(Ordering::Acquire);
        if position > *self.applied.borrow() && mailbox::barrier(workers, STORE_TIMEOUT).await {
            self.applied.send_replace(position);
            self.metrics.feed.applied.set(position);
        }
    }
}

/// Spawns the task that follows the store until all connections are drained. If the store's revision goes backwards,
/// cached grants and open connections may be invalid: the task then begins the shutdown and sends the error.
///
/// # Errors
///
/// If the store can't be read at start.
pub(crate) async fn follow(
    grants: Arc<Grants>,
    workers: Vec<mpsc::Sender<Message>>,
    readiness: Readiness,
    (shutdown, drained): (&Shutdown, &Shutdown),
) -> Result<oneshot::Receiver<StoreError>, StoreError> {
    let feed = grants.store.feed().await?;
    grants.position.store(feed.revision(), Ordering::Release);
    grants.applied.send_replace(feed.revision());
    grants.metrics.feed.read.set(feed.revision());
    grants.metrics.feed.applied.set(feed.revision());
    readiness.ready();
    let stop = shutdown.clone();
    let (fatal, received) = oneshot::channel();
    drained.spawn_until_stopped(async move {
        let error = keep_following(&grants, feed, &workers, &readiness).await;
        let _ = fatal.send(error);
        stop.begin();
    });
    Ok(received)
}

/// Returns only when the process must restart.
async fn keep_following(
    grants: &Grants,
    mut feed: Feed,
    workers: &[mpsc::Sender<Message>],
    readiness: &Readiness,
) -> StoreError {
    // Changes whose grants couldn't be read yet; none may be lost.
    let mut pending = Changes::default();
    let mut is_unavailable = false;
    loop {
        match step(grants, &mut feed, &mut pending, workers).await {
            Ok(()) => {
                grants.mark_alive();
                readiness.ready();
                is_unavailable = false;
                grants.barrier(workers).await;
            }
            Err(error @ StoreError::RolledBack) => return error,
            Err(error) => {
                if !std::mem::replace(&mut is_unavailable, true) {
                    tracing::error!(%error, "the store is unavailable");
                }
                readiness.not_ready(error.to_string());
                tokio::time::sleep(RETRY_BACKOFF).await;
            }
        }
    }
}

/// Waits for changes and applies them.
async fn step(
    grants: &Grants,
    feed: &mut Feed,
    pending: &mut Changes,
    workers: &[mpsc::Sender<Message>],
) -> Result<(), StoreError> {
    if pending.revision == 0 {
        let Some(changes) = poll(grants, feed).await? else { return Ok(()) };
        *pending = changes;
    }
    grants.apply_changes(pending, workers).await?;
    *pending = Changes::default();
    Ok(())
}

/// Returns the next changes, or `None` after a quiet interval. Silence is checked by reading the revision, because a
/// quiet store, a dead one and a slow one look the same.
async fn poll(grants: &Grants, feed: &mut Feed) -> Result<Option<Changes>, StoreError> {
    if let Ok(changes) = timeout(STORE_TIMEOUT, feed.next()).await {
        return changes.map(Some);
    }
    let read = grants.metrics.store.observe("read_feed", grants.store.revision());
    let revision = timeout(STORE_TIMEOUT, read).await.map_err(|_| StoreError::Timeout)??;
    if revision == feed.revision() {
        return Ok(None);
    }
    timeout(STORE_TIMEOUT, feed.next()).await.map_err(|_| StoreError::Timeout)?.map(Some)
}
