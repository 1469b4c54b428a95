//! Follows the store: reads changed grants again and sends them to the workers.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use daemon::Shutdown;
use daemon::health::{Health, STORE};
use store::{Changes, Feed, Grant, StoreError, TokenId};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::known::is_active;
use super::{Grants, STALENESS_MAX, STORE_TIMEOUT};
use crate::mailbox::{self, Message};

/// Delay before the next try while the store is unavailable.
const RETRY_BACKOFF: Duration = Duration::from_millis(200);

/// So many changed tokens of one cache are read one by one, more of them in one query.
const SINGLE_READS_MAX: usize = 4;
/// Tokens that have been used so recently are read at start, so that applications that come back wait for no look-up.
const PRELOADED_USED_WITHIN: Duration = Duration::from_hours(24);
/// So many of them, and so many at a time.
const PRELOADED_MAX: usize = 100_000;
const PRELOADED_AT_ONCE: i64 = 1000;
/// Interval at which grants are forgotten that are of no use any more.
const FORGET_INTERVAL: Duration = Duration::from_secs(60);

impl Grants {
    /// Reads the changed grants and sends each to its worker: first the tokens that changed themselves, such as revoked
    /// ones, then those of changed caches. Caches with few of them go first: the many tokens of one delay no others' changes.
    pub(super) async fn apply_changes(
        &self,
        changes: &Changes,
        workers: &[mpsc::Sender<Message>],
    ) -> Result<(), StoreError> {
        self.position.store(changes.revision, Ordering::Release);
        self.metrics.feed.read.set(changes.revision);
        for id in &changes.tokens {
            self.looked_up.remove(id);
        }
        for fingerprint in &changes.certificates {
            if self.renew_certificate(fingerprint).await? {
                mailbox::notify_certificate_end(workers, *fingerprint).await;
            }
        }
        let mut own: HashMap<String, Vec<TokenId>> = HashMap::new();
        for grant in changes.tokens.iter().filter_map(|id| self.known.get(id)) {
            own.entry(grant.cache_id.clone()).or_default().push(grant.token);
        }
        let own_tokens: HashSet<TokenId> = own.values().flatten().copied().collect();
        let others = changes.caches.iter().map(|cache| {
            let tokens = self.known.of_cache(cache).into_iter().filter(|id| !own_tokens.contains(id));
            (cache.clone(), tokens.collect::<Vec<_>>())
        });
        let (mut own, mut others): (Vec<_>, Vec<_>) = (own.into_iter().collect(), others.collect());
        own.sort_unstable_by_key(|(_, tokens)| tokens.len());
        others.sort_unstable_by_key(|(_, tokens)| tokens.len());
        for (cache, tokens) in own.into_iter().chain(others) {
            self.renew_some(&cache, &tokens, workers).await?;
        }
        Ok(())
    }

    /// Reads changed grants of one cache again.
    async fn renew_some(
        &self,
        cache_id: &str,
        tokens: &[TokenId],
        workers: &[mpsc::Sender<Message>],
    ) -> Result<(), StoreError> {
        if tokens.len() > SINGLE_READS_MAX {
            let read = timeout(STORE_TIMEOUT, self.store.grants_of_cache(cache_id)).await;
            match read.map_err(|_| StoreError::Timeout)? {
                Ok(grants) => {
                    let mut grants: HashMap<TokenId, Grant> =
                        grants.into_iter().map(|grant| (grant.token, grant)).collect();
                    for id in tokens {
                        self.replace(*id, grants.remove(id), workers).await;
                    }
                    self.mark_alive();
                    return Ok(());
                }
                Err(StoreError::TooMany(_)) => {}
                Err(error) => return Err(error),
            }
        }
        for id in tokens {
            // A read that hangs must not delay other tokens' revocations.
            let read = timeout(STORE_TIMEOUT, self.store.grant(id)).await.map_err(|_| StoreError::Timeout)?;
            let grant = match read {
                Err(StoreError::Corrupt(_)) => None,
                read => read?,
            };
            self.replace(*id, grant, workers).await;
            self.mark_alive();
        }
        Ok(())
    }

    /// Sends the changed grant of a token to its worker, and keeps it if anybody can still log in with it. A missing or
    /// corrupt one is treated as revoked; the others must not wait for it.
    async fn replace(&self, id: TokenId, grant: Option<Grant>, workers: &[mpsc::Sender<Message>]) {
        let grant = match grant.map(Arc::new) {
            Some(grant) => {
                if is_active(&grant, self.now()) {
                    self.known.insert(grant.clone());
                } else {
                    self.forget(&id);
                }
                grant
            }
            None => {
                let Some(last) = self.forget(&id) else { return };
                let mut revoked = Grant::clone(&last);
                revoked.revoked = true;
                Arc::new(revoked)
            }
        };
        mailbox::notify_grant(workers, grant).await;
    }

    /// Forgets tokens with which nobody can log in. Their sessions have ended, or are about to.
    pub(super) fn forget_inactive(&self) {
        for id in self.known.inactive(self.now()) {
            self.forget(&id);
        }
    }

    /// Reads the tokens ahead that are in use. Others, and those that can't be read, are read when they first log in.
    pub(super) async fn preload(&self) {
        let since = self.now().saturating_sub(PRELOADED_USED_WITHIN);
        let mut last = None;
        while self.known.len() < PRELOADED_MAX {
            let read = self.store.grants_used_since(since, last.as_ref(), PRELOADED_AT_ONCE);
            let grants = match timeout(STORE_TIMEOUT, read).await {
                Ok(Ok(grants)) => grants,
                Ok(Err(error)) => return tracing::warn!(%error, "failed to read the tokens ahead"),
                Err(_) => {
                    return tracing::warn!(error = %StoreError::Timeout, "failed to read the tokens ahead");
                }
            };
            let Some(grant) = grants.last() else { return };
            last = Some(grant.token);
            for grant in grants.into_iter().filter(|grant| is_active(grant, self.now())) {
                self.keep(Arc::new(grant));
            }
        }
    }

    /// Waits until the workers have applied all changes. If that takes too long, the next call waits again.
    async fn barrier(&self, workers: &[mpsc::Sender<Message>]) {
        let position = self.position.load(Ordering::Acquire);
        if position > *self.applied.borrow() {
            if !mailbox::barrier(workers, STORE_TIMEOUT).await {
                return;
            }
            self.applied.send_replace(position);
            self.metrics.feed.applied.set(position);
        }
        self.metrics.feed.last_current.set_now();
    }
}

/// Waits until the store can be read, and spawns the task that follows it until all connections are drained. If the store's
/// revision goes backwards, cached grants and open connections may be invalid: the task then sends the error and ends.
/// `None` if the shutdown begins before the store has been read.
pub(crate) async fn follow(
    grants: Arc<Grants>,
    workers: Vec<mpsc::Sender<Message>>,
    health: Health,
    (shutdown, drained): (&Shutdown, &Shutdown),
) -> Option<oneshot::Receiver<StoreError>> {
    let feed = tokio::select! {
        feed = open_feed(&grants, &health) => feed,
        () = shutdown.begun() => return None,
    };
    grants.position.store(feed.revision(), Ordering::Release);
    grants.applied.send_replace(feed.revision());
    grants.metrics.feed.read.set(feed.revision());
    grants.metrics.feed.applied.set(feed.revision());
    grants.mark_alive();
    grants.metrics.feed.last_current.set_now();
    health.ready();
    let ahead = grants.clone();
    drained.spawn_until_stopped(async move { ahead.preload().await });
    let progress = health.watch_loop("the task that follows the store");
    let (fatal, received) = oneshot::channel();
    drained.spawn_until_stopped(async move {
        tokio::select! {
            error = keep_following(&grants, feed, &workers, &health) => drop(fatal.send(error)),
            never = progress.mark_while_polled() => match never {},
        }
    });
    Some(received)
}

/// The feed, as soon as the store can be read.
async fn open_feed(grants: &Grants, health: &Health) -> Feed {
    loop {
        match grants.store.feed().await {
            Ok(feed) => {
                health.set_problem(STORE, None);
                return feed;
            }
            Err(error) => {
                log_outage(health, &error);
                health.waiting(error.to_string());
                tokio::time::sleep(RETRY_BACKOFF).await;
            }
        }
    }
}

/// Reports a store that can't be read, and logs the beginning of the outage.
fn log_outage(health: &Health, error: &StoreError) {
    if !health.has_problem(STORE) {
        tracing::error!(%error, "the store is unavailable");
    }
    health.set_problem(STORE, Some(format!("the store is unavailable ({error})")));
}

/// Returns only when the process must restart.
async fn keep_following(
    grants: &Grants,
    mut feed: Feed,
    workers: &[mpsc::Sender<Message>],
    health: &Health,
) -> StoreError {
    // Changes whose grants couldn't be read yet; none may be lost.
    let mut pending = Pending::default();
    let mut forgotten_at = Instant::now();
    loop {
        if forgotten_at.elapsed() >= FORGET_INTERVAL {
            grants.forget_inactive();
            forgotten_at = Instant::now();
        }
        match step(grants, &mut feed, &mut pending, workers).await {
            Ok(()) => {
                grants.mark_alive();
                health.set_problem(STORE, None);
                health.ready();
                grants.barrier(workers).await;
                pending.note_applied(grants);
            }
            Err(error @ StoreError::RolledBack) => return error,
            Err(error) => {
                log_outage(health, &error);
                // Until then known tokens log in, and a load balancer that took the proxy out would end that.
                if grants.staleness() > STALENESS_MAX {
                    health.waiting(format!("no login is possible without the store ({error})"));
                }
                tokio::time::sleep(RETRY_BACKOFF).await;
            }
        }
    }
}

/// Waits for changes and applies them.
async fn step(
    grants: &Grants,
    feed: &mut Feed,
    pending: &mut Pending,
    workers: &[mpsc::Sender<Message>],
) -> Result<(), StoreError> {
    if pending.changes.revision == 0 {
        let Some(changes) = poll(grants, feed).await? else { return Ok(()) };
        pending.changes = changes;
        pending.read_at.get_or_insert_with(Instant::now);
    }
    grants.apply_changes(&pending.changes, workers).await?;
    pending.changes = Changes::default();
    Ok(())
}

/// Changes that were read and don't apply to all connections yet.
#[derive(Debug, Default)]
struct Pending {
    changes: Changes,
    /// When the oldest of them were read.
    read_at: Option<Instant>,
}

impl Pending {
    /// Times the changes if the workers have applied all that were read.
    fn note_applied(&mut self, grants: &Grants) {
        if *grants.applied.borrow() < grants.position.load(Ordering::Acquire) {
            return;
        }
        if let Some(read_at) = self.read_at.take() {
            grants.metrics.feed.apply.observe(read_at.elapsed().as_secs_f64());
        }
    }
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
