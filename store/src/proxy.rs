//! Heartbeats of proxies, and which proxies have applied a change.

use std::time::Duration;

use crate::db::{read, write_unversioned};
use crate::rows::{SHORT_ROW_BYTES_MAX, read_rows, readable};
use crate::{Store, StoreError, Timestamp, TokenId, now};

/// A proxy without a heartbeat for this long is silent: it was killed, or can't write the store. Heartbeats come every second.
const SILENT_AFTER: Duration = Duration::from_secs(10);
/// A proxy without a heartbeat for this long is gone.
const GONE_AFTER: Duration = Duration::from_secs(60);
/// After this long its row is deleted.
const FORGOTTEN_AFTER: Duration = Duration::from_hours(24);
/// Older lists of connections are deleted: a killed proxy left them. Running proxies delete their own sooner.
const LIST_FORGOTTEN_AFTER: Duration = Duration::from_mins(10);

/// Proxies that are listed: pages read them while they wait for a list of connections.
const LISTED_MAX: i64 = 1000;

/// A proxy's last heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, sqlx::FromRow)]
pub struct Proxy {
    /// Random, one per process.
    pub id: String,
    /// Host and port.
    pub name: String,
    /// memgate's version.
    pub version: String,
    /// When it started.
    pub started_at: Timestamp,
    /// When the heartbeat was sent.
    pub seen_at: Timestamp,
    /// The revision up to which the proxy has applied every change, to open connections too.
    pub applied: i64,
}

/// Which proxies have applied the last change of a token, its cache or its user.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Propagation {
    /// The revision of that change.
    pub revision: i64,
    /// Running proxies that have applied it.
    pub by: Vec<Proxy>,
    /// Running proxies that haven't yet.
    pub awaited: Vec<Proxy>,
    /// Proxies whose heartbeat stopped before they had.
    pub gone: Vec<Proxy>,
}

impl Propagation {
    /// How many of the running proxies have applied it: `2 of 2 proxies`.
    #[must_use]
    pub fn count(&self) -> String {
        let all = self.by.len() + self.awaited.len();
        let proxies = if all == 1 { "proxy" } else { "proxies" };
        format!("{} of {all} {proxies}", self.by.len())
    }
}

/// A proxy's name, and the connections that are open there.
pub(crate) const CONNECTIONS: &str = "SELECT proxy, CAST(SUM(connections) AS BIGINT) FROM usage_connections \
     WHERE changed_at > $1 GROUP BY proxy ORDER BY proxy LIMIT $2";

impl Proxy {
    /// Those that aren't gone. One that was killed and started again under its name counts as one.
    #[must_use]
    pub fn current(proxies: &[Self], now: Timestamp) -> Vec<Self> {
        let is_replaced = |old: &Self| {
            let successor = |new: &&Self| new.name == old.name && new.started_at > old.started_at;
            proxies.iter().filter(successor).any(|new| !new.is_silent(now))
        };
        let shown = proxies.iter().filter(|proxy| !proxy.is_gone(now));
        shown.filter(|proxy| !(proxy.is_silent(now) && is_replaced(proxy))).cloned().collect()
    }

    /// Whether its heartbeat has stopped: the last one is over a minute old.
    #[must_use]
    pub fn is_gone(&self, now: Timestamp) -> bool {
        self.seen_at < now.saturating_sub(GONE_AFTER)
    }

    /// Whether its heartbeats have stopped for ten seconds.
    #[must_use]
    pub fn is_silent(&self, now: Timestamp) -> bool {
        self.seen_at < now.saturating_sub(SILENT_AFTER)
    }
}

/// The `$1` proxies that were seen last.
pub(crate) const LAST_SEEN: &str = "SELECT id, name, version, started_at, seen_at, applied FROM proxies \
     ORDER BY seen_at DESC LIMIT $1";

impl Store {
    /// Records a proxy's heartbeat. Deletes proxies that are long gone, and their lists of connections.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn renew_proxy(&self, proxy: &Proxy) -> Result<(), StoreError> {
        let sql = "INSERT INTO proxies (id, name, version, started_at, seen_at, applied) \
                   VALUES ($1, $2, $3, $4, $5, $6) \
                   ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at, applied = excluded.applied";
        let at = now();
        let (forgotten, unlisted) =
            (at.saturating_sub(FORGOTTEN_AFTER), at.saturating_sub(LIST_FORGOTTEN_AFTER));
        write_unversioned!(self, tx => {
            sqlx::query(sql).bind(&proxy.id).bind(&proxy.name).bind(&proxy.version).bind(proxy.started_at)
                .bind(proxy.seen_at).bind(proxy.applied).execute(&mut *tx).await?;
            sqlx::query("DELETE FROM proxies WHERE seen_at < $1").bind(forgotten).execute(&mut *tx).await?;
            sqlx::query("DELETE FROM connection_lists WHERE requested_at < $1").bind(unlisted)
                .execute(&mut *tx).await?;
        });
        Ok(())
    }

    /// Deletes a proxy that has stopped.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn remove_proxy(&self, id: &str) -> Result<(), StoreError> {
        write_unversioned!(self, tx => {
            sqlx::query("DELETE FROM proxies WHERE id = $1").bind(id).execute(&mut *tx).await?;
        });
        Ok(())
    }

    /// The proxies of the last day, those that are gone too, ordered by name: the 1,000 that were seen last.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn proxies(&self) -> Result<Vec<Proxy>, StoreError> {
        let rows = read_rows!(self, SHORT_ROW_BYTES_MAX, sqlx::query(LAST_SEEN).bind(LISTED_MAX))?;
        let mut proxies: Vec<Proxy> = readable("proxies", rows);
        proxies.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        Ok(proxies)
    }

    /// How many connections each proxy has open, by the proxies' names: those of proxies that have reported within a minute.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn connections_by_proxy(&self) -> Result<Vec<(String, i64)>, StoreError> {
        let since = now().saturating_sub(GONE_AFTER);
        Ok(
            read!(self, pool => sqlx::query_as(CONNECTIONS).bind(since).bind(LISTED_MAX).fetch_all(pool).await)?,
        )
    }

    /// Which proxies have applied the last change of a token, its cache or its user.
    ///
    /// # Errors
    /// `NotFound("token")`.
    pub async fn propagation(&self, token: &TokenId) -> Result<Propagation, StoreError> {
        let sql = "SELECT t.revision, c.revision, u.revision FROM tokens t JOIN caches c ON c.id = t.cache_id \
                   JOIN users u ON u.id = c.user_id WHERE t.id = $1";
        let found: Option<(i64, i64, i64)> =
            read!(self, pool => sqlx::query_as(sql).bind(token.as_str()).fetch_optional(pool).await)?;
        let (token, cache, user) = found.ok_or(StoreError::NotFound("token"))?;
        let revision = token.max(cache).max(user);
        let (by, others): (Vec<_>, Vec<_>) =
            self.proxies().await?.into_iter().partition(|proxy| proxy.applied >= revision);
        let at = now();
        let by = by.into_iter().filter(|proxy| !proxy.is_gone(at)).collect();
        let (gone, awaited) = others.into_iter().partition(|proxy| proxy.is_gone(at));
        Ok(Propagation { revision, by, awaited, gone })
    }
}
