//! Following the store: what has changed is read anew, and the workers are told.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use daemon::Shutdown;
use daemon::health::Readiness;
use store::{Changes, Feed, Grant, Store, StoreError, TokenId};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::{Grants, PATIENCE};
use crate::mailbox::{self, Message};

/// Between two tries while the store is away.
const RETRY: Duration = Duration::from_millis(200);

impl Grants {
    /// Takes changes over, and tells the workers of each grant as it is read: what was done to a token itself
    /// first, then what concerns many.
    async fn take_over(
        &self,
        changes: &Changes,
        workers: &[mpsc::Sender<Message>],
    ) -> Result<(), StoreError> {
        self.position.store(changes.revision, Ordering::Release);
        for id in &changes.tokens {
            self.nobody.remove(id);
        }
        for fingerprint in &changes.certificates {
            self.certificates.forget(fingerprint);
        }
        let users: HashSet<&str> = changes.users.iter().map(String::as_str).collect();
        let own: HashSet<TokenId> =
            changes.tokens.iter().copied().filter(|id| self.known.contains_key(id)).collect();
        let concerned = |grant: &Grant| users.contains(&*grant.user_id) && !own.contains(&grant.token);
        let others: Vec<TokenId> =
            self.known.iter().filter(|known| concerned(known.value())).map(|known| *known.key()).collect();
        for id in own.iter().copied().chain(others) {
            self.renew(id, workers).await?;
            self.heard();
        }
        Ok(())
    }

    async fn renew(&self, id: TokenId, workers: &[mpsc::Sender<Message>]) -> Result<(), StoreError> {
        // One that hangs must not keep the others' revocations waiting for ever.
        let read = timeout(PATIENCE, self.store.grant(&id)).await.map_err(|_| StoreError::Timeout)?;
        let grant = match read {
            Ok(Some(grant)) => {
                let grant = Arc::new(grant);
                self.known.insert(id, grant.clone());
                grant
            }
            // Nobody gets in with it any more, and nobody else waits for it.
            Ok(None) | Err(StoreError::Corrupt(_)) => {
                let Some((_, last)) = self.known.remove(&id) else { return Ok(()) };
                let mut over = Grant::clone(&last);
                over.revoked = true;
                Arc::new(over)
            }
            Err(error) => return Err(error),
        };
        mailbox::notify_grant(workers, grant).await;
        Ok(())
    }

    /// Waits until the workers have carried out what they were told; if that takes long, the next time.
    async fn barrier(&self, workers: &[mpsc::Sender<Message>]) {
        let position = self.position.load(Ordering::Acquire);
        if position > *self.applied.borrow() && mailbox::barrier(workers, PATIENCE).await {
            self.applied.send_replace(position);
        }
    }
}

/// Follows the store until shutdown, in a task of `shutdown`; new routes go to the workers. Begins the shutdown
/// itself when all that is known is worth nothing any more, and says why.
pub(crate) async fn follow(
    grants: Arc<Grants>,
    workers: Vec<mpsc::Sender<Message>>,
    readiness: Readiness,
    shutdown: &Shutdown,
) -> Result<oneshot::Receiver<StoreError>, StoreError> {
    let feed = grants.store.feed().await?;
    grants.position.store(feed.revision(), Ordering::Release);
    grants.applied.send_replace(feed.revision());
    readiness.ready();
    let stop = shutdown.clone();
    let (tell, over) = oneshot::channel();
    shutdown.spawn(async move {
        tokio::select! {
            () = stop.begun() => {}
            error = keep_following(&grants, feed, &workers, &readiness) => {
                let _ = tell.send(error);
                stop.begin();
            }
        }
    });
    Ok(over)
}

/// Ends only when the process must begin anew.
async fn keep_following(
    grants: &Grants,
    mut feed: Feed,
    workers: &[mpsc::Sender<Message>],
    readiness: &Readiness,
) -> StoreError {
    // Changes that couldn't be read yet: none may be missed.
    let mut owed = Changes::default();
    let mut away = false;
    loop {
        match step(grants, &mut feed, &mut owed, workers).await {
            Ok(()) => {
                grants.heard();
                readiness.ready();
                away = false;
                grants.barrier(workers).await;
            }
            Err(error @ StoreError::RolledBack) => return error,
            Err(error) => {
                if !std::mem::replace(&mut away, true) {
                    tracing::error!(%error, "the store is away");
                }
                readiness.not_ready(error.to_string());
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Waits for changes and takes them over.
async fn step(
    grants: &Grants,
    feed: &mut Feed,
    owed: &mut Changes,
    workers: &[mpsc::Sender<Message>],
) -> Result<(), StoreError> {
    if owed.revision == 0 {
        let Some(changes) = look(&grants.store, feed).await? else { return Ok(()) };
        *owed = changes;
    }
    grants.take_over(owed, workers).await?;
    *owed = Changes::default();
    Ok(())
}

/// The next changes, or none in a while. Silence is looked into: a quiet store, a dead one and one that is too
/// slow to say what has changed all look alike.
async fn look(store: &Store, feed: &mut Feed) -> Result<Option<Changes>, StoreError> {
    if let Ok(changes) = timeout(PATIENCE, feed.next()).await {
        return changes.map(Some);
    }
    let revision = timeout(PATIENCE, store.revision()).await.map_err(|_| StoreError::Timeout)??;
    if revision == feed.revision() {
        return Ok(None);
    }
    timeout(PATIENCE, feed.next()).await.map_err(|_| StoreError::Timeout)?.map(Some)
}
