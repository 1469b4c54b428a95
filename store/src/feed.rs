//! Following what others write: everything after a revision, in commit order, with nothing missed.
//!
//! The table is the truth. PostgreSQL's notification only says "look now"; SQLite has none, there we
//! look every [`POLL`], which costs one indexed read of one row.

use std::cmp::Ordering;
use std::time::Duration;

use sqlx::postgres::PgListener;

use crate::db::{Db, read};
use crate::{Fingerprint, Store, StoreError, TokenId};

const CHANNEL: &str = "memgate_revision";

/// How long a change on SQLite may stay unseen.
const POLL: Duration = Duration::from_millis(50);
/// PostgreSQL nudges; we look by ourselves this often in case a nudge was lost.
const POLL_WITH_NUDGES: Duration = Duration::from_secs(1);

/// What changed since the last call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// The revision up to which this is complete.
    pub revision: i64,
    /// Tokens made, changed or revoked.
    pub tokens: Vec<TokenId>,
    /// Certificates issued.
    pub certificates: Vec<Fingerprint>,
    /// Ids of caches of which the cache itself, its user, plan, instance or route changed.
    pub caches: Vec<String>,
}

/// A follower's place in the sequence of revisions.
#[derive(Debug)]
pub struct Feed {
    store: Store,
    revision: i64,
    listener: Option<PgListener>,
}

impl Store {
    /// Starts to follow from the revision of now.
    pub async fn feed(&self) -> Result<Feed, StoreError> {
        let listener = self.listen().await?;
        Ok(Feed { store: self.clone(), revision: self.revision().await?, listener })
    }

    async fn listen(&self) -> Result<Option<PgListener>, StoreError> {
        let Db::Postgres(pool) = &self.db else { return Ok(None) };
        let mut listener = PgListener::connect_with(pool).await?;
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        Ok(Some(listener))
    }

    /// The newest revision.
    pub async fn revision(&self) -> Result<i64, StoreError> {
        let sql = "SELECT value FROM revision WHERE one = 1";
        Ok(read!(self, pool => sqlx::query_scalar(sql).fetch_one(pool).await)?)
    }

    /// Everything that changed after a revision, complete up to `revision`. What was committed since may be
    /// in it, too, and is told again: left out, a row written once before and once since would be missed.
    async fn changes(&self, after: i64, revision: i64) -> Result<Changes, StoreError> {
        let tokens: Vec<String> = read!(self, pool => sqlx::query_scalar(
            "SELECT id FROM tokens WHERE revision > $1").bind(after).fetch_all(pool).await)?;
        let certificates: Vec<String> = read!(self, pool => sqlx::query_scalar(
            "SELECT fingerprint FROM certificates WHERE revision > $1").bind(after).fetch_all(pool).await)?;
        let caches = read!(self, pool => sqlx::query_scalar(
            "SELECT id FROM caches WHERE revision > $1 \
             UNION SELECT c.id FROM users u JOIN caches c ON c.user_id = u.id WHERE u.revision > $1 \
             UNION SELECT c.id FROM plans p JOIN caches c ON c.plan = p.name WHERE p.revision > $1 \
             UNION SELECT cache_id FROM instances WHERE revision > $1 \
             UNION SELECT i.cache_id FROM routes r JOIN instances i ON i.id = r.instance_id \
                   WHERE r.revision > $1")
            .bind(after).fetch_all(pool).await)?;
        let tokens = tokens.iter().filter_map(|id| TokenId::parse(id)).collect();
        let certificates = certificates.iter().filter_map(|text| text.parse().ok()).collect();
        Ok(Changes { revision, tokens, certificates, caches })
    }
}

impl Feed {
    /// The revision up to which everything has been handed out.
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
            // Listen first, look second: what is committed in between nudges us.
            if self.listener.is_none() {
                self.listener = self.store.listen().await?;
            }
            let revision = self.store.revision().await?;
            match revision.cmp(&self.revision) {
                Ordering::Equal => self.wait().await,
                Ordering::Greater => {
                    let changes = self.store.changes(self.revision, revision).await?;
                    self.revision = revision;
                    return Ok(changes);
                }
                // What was undone since nobody can tell.
                Ordering::Less => return Err(StoreError::RolledBack),
            }
        }
    }

    /// Waits until a look is worth while. A listener that is in any trouble is given up for a new one: its
    /// own reconnecting knows only some ways of losing a connection, and would spin on the others.
    async fn wait(&mut self) {
        let Some(listener) = &mut self.listener else { return tokio::time::sleep(POLL).await };
        match tokio::time::timeout(POLL_WITH_NUDGES, listener.try_recv()).await {
            Ok(Ok(Some(_))) | Err(_) => {}
            Ok(Ok(None) | Err(_)) => self.listener = None,
        }
    }
}
