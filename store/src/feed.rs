//! The feed: tells a follower of every change after a revision, in commit order.
//!
//! The follower reads the tables. PostgreSQL's notification only wakes it; SQLite has none, so the follower polls
//! every [`POLL_INTERVAL`], one indexed read of one row.

use std::cmp::Ordering;
use std::time::Duration;

use sqlx::postgres::PgListener;

use crate::db::{Db, read};
use crate::rows::{LISTED_MAX, QUERIED_MAX, SHORT_ROW_BYTES_MAX, read_rows, readable};
use crate::{Fingerprint, Store, StoreError, TokenId};

const CHANNEL: &str = "memgate_revision";

/// Interval of polls on SQLite.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Interval of polls on PostgreSQL, in case a notification was lost.
const NOTIFIED_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// What changed since the last call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// The revision up to which this is complete.
    pub revision: i64,
    /// Tokens created, changed or revoked.
    pub tokens: Vec<TokenId>,
    /// Certificates issued or revoked.
    pub certificates: Vec<Fingerprint>,
    /// Ids of caches that changed, or whose user, plan, instance, route or operations did, or that are to wake.
    pub caches: Vec<String>,
}

/// A follower's position in the sequence of revisions.
#[derive(Debug)]
pub struct Feed {
    store: Store,
    revision: i64,
    listener: Option<PgListener>,
    /// Only caches, and not too many of them at once.
    only_caches: bool,
}

pub(crate) const CHANGED_TOKENS: &str = "SELECT id FROM tokens WHERE revision > $1 LIMIT $2";
pub(crate) const CHANGED_CERTIFICATES: &str =
    "SELECT fingerprint FROM certificates WHERE revision > $1 LIMIT $2";
pub(crate) const CHANGED_CACHES: &str = "SELECT id FROM caches WHERE revision > $1 \
     UNION SELECT c.id FROM users u JOIN caches c ON c.user_id = u.id WHERE u.revision > $1 \
     UNION SELECT c.id FROM plans p JOIN caches c ON c.plan = p.name WHERE p.revision > $1 \
     UNION SELECT cache_id FROM instances WHERE revision > $1 \
     UNION SELECT i.cache_id FROM routes r JOIN instances i ON i.id = r.instance_id \
           WHERE r.revision > $1 \
     UNION SELECT i.cache_id FROM wake_requests w JOIN instances i ON i.id = w.instance_id \
           WHERE w.revision > $1 \
     UNION SELECT cache_id FROM operations WHERE revision > $1 \
     UNION SELECT o.cache_id FROM operation_progress p JOIN operations o ON o.id = p.operation_id \
           WHERE p.revision > $1 LIMIT $2";

/// Reads up to a number of ids of rows that changed after a revision.
macro_rules! ids {
    ($store:expr, $sql:expr, $after:expr, $limit:expr) => {{
        let ids: Vec<Result<(String,), StoreError>> =
            read_rows!($store, SHORT_ROW_BYTES_MAX, sqlx::query($sql).bind($after).bind($limit))?;
        readable("changes", ids.into_iter().map(|id| Ok(id?.0)))
    }};
}

impl Store {
    /// Starts to follow changes after the newest revision.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn feed(&self) -> Result<Feed, StoreError> {
        let listener = self.listen().await?;
        Ok(Feed { store: self.clone(), revision: self.revision().await?, listener, only_caches: false })
    }

    /// Starts to follow changes of caches alone. If more than 20,000 change at once, [`Feed::next`] fails with
    /// `TooMany("changes")`: start again with a new feed.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn feed_of_caches(&self) -> Result<Feed, StoreError> {
        Ok(Feed { only_caches: true, ..self.feed().await? })
    }

    async fn listen(&self) -> Result<Option<PgListener>, StoreError> {
        let Db::Postgres(pool) = &self.db else { return Ok(None) };
        let mut listener = PgListener::connect_with(&pool.get()).await?;
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        Ok(Some(listener))
    }

    /// The newest revision.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn revision(&self) -> Result<i64, StoreError> {
        let sql = "SELECT value FROM revision WHERE one = 1";
        Ok(read!(self, pool => sqlx::query_scalar(sql).fetch_one(pool).await)?)
    }

    /// Everything that changed after revision `after`, complete up to `revision`. May contain later changes, which
    /// the next call repeats: without them, a row written both before and after `revision` would be missed.
    async fn changes(&self, after: i64, revision: i64, only_caches: bool) -> Result<Changes, StoreError> {
        let limit = if only_caches { QUERIED_MAX } else { i64::MAX };
        let caches = ids!(self, CHANGED_CACHES, after, limit);
        if only_caches && caches.len() > LISTED_MAX {
            return Err(StoreError::TooMany("changes"));
        }
        let mut changes = Changes { revision, caches, ..Changes::default() };
        if !only_caches {
            let tokens = ids!(self, CHANGED_TOKENS, after, limit);
            changes.tokens = tokens.iter().filter_map(|id| TokenId::parse(id)).collect();
            let certificates = ids!(self, CHANGED_CERTIFICATES, after, limit);
            changes.certificates = certificates.iter().filter_map(|text| text.parse().ok()).collect();
        }
        Ok(changes)
    }
}

impl Feed {
    /// The revision up to which every change has been returned.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Waits for the next changes. Cancel-safe.
    ///
    /// # Errors
    ///
    /// `RolledBack` if the store went back to an earlier revision: start again with a new feed. After any other
    /// error call it again; no change is lost.
    pub async fn next(&mut self) -> Result<Changes, StoreError> {
        loop {
            // Listens before it reads, so that a commit in between sends a notification.
            if self.listener.is_none() {
                self.listener = self.store.listen().await?;
            }
            let revision = self.store.revision().await?;
            match revision.cmp(&self.revision) {
                Ordering::Equal => self.wait().await,
                Ordering::Greater => {
                    let changes = self.store.changes(self.revision, revision, self.only_caches).await?;
                    self.revision = revision;
                    return Ok(changes);
                }
                // It is unknown which changes were undone.
                Ordering::Less => return Err(StoreError::RolledBack),
            }
        }
    }

    /// Waits for a notification or the next poll. A listener that fails is replaced: its own reconnection handles
    /// only some ways of losing the connection, and would spin on the others.
    async fn wait(&mut self) {
        let Some(listener) = &mut self.listener else { return tokio::time::sleep(POLL_INTERVAL).await };
        match tokio::time::timeout(NOTIFIED_POLL_INTERVAL, listener.try_recv()).await {
            Ok(Ok(Some(_))) | Err(_) => {}
            Ok(Ok(None) | Err(_)) => self.listener = None,
        }
    }
}
