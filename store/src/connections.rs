//! Live connections: a viewer requests a list, the proxies that hold the connections write it and close those
//! that they are told to close.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use crate::audit::note;
use crate::db::{read, write, write_unversioned};
use crate::{Millis, Store, StoreError, now};

/// Requests older than this, in milliseconds, are ignored.
const STALE_AFTER: Millis = 60_000;
/// How long a viewer waits for the proxies: they poll every half second.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two looks whether they have answered.
const PAUSE: Duration = Duration::from_millis(50);

/// One connection of one proxy: `<number>-<since>@<proxy>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionId {
    /// The proxy's id.
    pub proxy: String,
    /// Which one of the instance's there.
    pub number: i64,
    /// When it began: a restarted proxy may use its number again.
    pub since: Millis,
}

/// A connection that has logged in.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LiveConnection {
    /// What to name it by.
    pub id: ConnectionId,
    /// The token that it has logged in with, by its public id.
    pub token_id: String,
    /// Its IP address.
    pub source: String,
    /// `text` (meta is of it) or `binary`.
    pub protocol: String,
    /// Whether it is encrypted.
    pub tls: bool,
    /// When it began.
    pub since: Millis,
    /// What it has asked of memcached, key by key.
    pub operations: i64,
}

/// What the proxies have said of an instance's connections.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LiveConnections {
    /// Those that there was room for, the longest-lived of each proxy.
    pub connections: Vec<LiveConnection>,
    /// How many there are.
    pub total: i64,
    /// Proxies that run and haven't answered.
    pub silent: usize,
}

/// A wish that proxies are to answer.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct ListRequest {
    /// Whose connections.
    pub instance_id: String,
    /// Goes up with every wish.
    pub asked_at: Millis,
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::write!(f, "{}-{}@{}", self.number, self.since, self.proxy)
    }
}

impl serde::Serialize for ConnectionId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// It isn't a connection's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("that is no connection's id")]
pub struct ParseConnectionIdError;

impl FromStr for ConnectionId {
    type Err = ParseConnectionIdError;

    fn from_str(text: &str) -> Result<Self, ParseConnectionIdError> {
        let (numbers, proxy) = text.split_once('@').ok_or(ParseConnectionIdError)?;
        let (number, since) = numbers.split_once('-').ok_or(ParseConnectionIdError)?;
        let read = |text: &str| text.parse().map_err(|_| ParseConnectionIdError);
        Ok(Self { proxy: proxy.to_owned(), number: read(number)?, since: read(since)? })
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    proxy_id: String,
    number: i64,
    since: Millis,
    token_id: String,
    source: String,
    protocol: String,
    tls: i64,
    operations: i64,
}

impl From<Row> for LiveConnection {
    fn from(row: Row) -> Self {
        let Row { proxy_id: proxy, number, since, token_id, source, protocol, tls, operations } = row;
        let id = ConnectionId { proxy, number, since };
        Self { id, token_id, source, protocol, tls: tls != 0, since, operations }
    }
}

/// For viewers.
impl Store {
    /// The live connections of an instance as they are now: asks all proxies, and waits for their answers,
    /// but not for long.
    pub async fn live_connections(&self, instance_id: &str) -> Result<LiveConnections, StoreError> {
        let asked_at = self.request_connection_list(instance_id).await?;
        let since = Instant::now();
        loop {
            let silent = self.unanswered_proxies(instance_id, asked_at).await?;
            if silent == 0 || since.elapsed() > ANSWER_TIMEOUT {
                return self.listed_connections(instance_id, asked_at, silent).await;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Ends a connection of an instance, and notes it in the audit log; whether its proxy has said in time that
    /// it has. One that isn't there (any more) is ended, too.
    pub async fn close_connection(&self, instance_id: &str, id: &ConnectionId) -> Result<bool, StoreError> {
        let sql = "INSERT INTO connection_closes (instance_id, proxy_id, number, since, ordered_at) \
                   VALUES ($1, $2, $3, $4, $5) ON CONFLICT (proxy_id, instance_id, number, since) DO NOTHING";
        let stale = now().saturating_sub(STALE_AFTER);
        write!(self, tx, _revision => {
            let ordered = sqlx::query(sql).bind(instance_id).bind(&id.proxy).bind(id.number).bind(id.since)
                .bind(now()).execute(&mut *tx).await.map_err(|e| StoreError::reference(e, "instance"))?;
            if ordered.rows_affected() > 0 {
                note!(self, tx, "connection.end", instance_id, id.to_string());
            }
            sqlx::query("DELETE FROM connection_closes WHERE ordered_at < $1").bind(stale).execute(&mut *tx).await?;
        });
        let sql = "SELECT COUNT(*) FROM connection_closes WHERE proxy_id = $1 AND instance_id = $2 AND number = $3 \
                   AND since = $4 AND done_at IS NOT NULL";
        let since = Instant::now();
        while since.elapsed() < ANSWER_TIMEOUT {
            let done: i64 = read!(self, pool => sqlx::query_scalar(sql).bind(&id.proxy).bind(instance_id)
                .bind(id.number).bind(id.since).fetch_one(pool).await)?;
            if done > 0 {
                return Ok(true);
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(false)
    }

    async fn request_connection_list(&self, instance_id: &str) -> Result<Millis, StoreError> {
        let sql = "INSERT INTO connection_requests (instance_id, asked_at) VALUES ($1, $2) \
                   ON CONFLICT (instance_id) DO UPDATE SET asked_at = \
                   CASE WHEN connection_requests.asked_at < excluded.asked_at THEN excluded.asked_at \
                   ELSE connection_requests.asked_at + 1 END RETURNING asked_at";
        Ok(write_unversioned!(self, tx => {
            sqlx::query_scalar(sql).bind(instance_id).bind(now()).fetch_one(&mut *tx).await
                .map_err(|e| StoreError::reference(e, "instance"))?
        }))
    }

    /// How many of the proxies that run haven't answered that wish.
    async fn unanswered_proxies(&self, instance_id: &str, asked_at: Millis) -> Result<usize, StoreError> {
        let sql = "SELECT proxy_id FROM connection_lists WHERE instance_id = $1 AND asked_at >= $2";
        let answered: Vec<String> = read!(self, pool => sqlx::query_scalar(sql).bind(instance_id).bind(asked_at)
            .fetch_all(pool).await)?;
        let runs = self.proxies().await?.into_iter().filter(|proxy| !proxy.is_gone(now()));
        Ok(runs.filter(|proxy| !answered.contains(&proxy.id)).count())
    }

    async fn listed_connections(
        &self,
        instance_id: &str,
        asked_at: Millis,
        silent: usize,
    ) -> Result<LiveConnections, StoreError> {
        let sql = "SELECT c.proxy_id, c.number, c.since, c.token_id, c.source, c.protocol, c.tls, c.operations \
                   FROM live_connections c JOIN connection_lists l \
                   ON l.instance_id = c.instance_id AND l.proxy_id = c.proxy_id \
                   WHERE c.instance_id = $1 AND l.asked_at >= $2 ORDER BY c.since, c.proxy_id, c.number";
        let rows: Vec<Row> = read!(self, pool => sqlx::query_as(sql).bind(instance_id).bind(asked_at)
            .fetch_all(pool).await)?;
        let sql = "SELECT CAST(COALESCE(SUM(total), 0) AS BIGINT) FROM connection_lists \
                   WHERE instance_id = $1 AND asked_at >= $2";
        let total = read!(self, pool => sqlx::query_scalar(sql).bind(instance_id).bind(asked_at)
            .fetch_one(pool).await)?;
        Ok(LiveConnections {
            connections: rows.into_iter().map(LiveConnection::from).collect(),
            total,
            silent,
        })
    }
}

/// For the proxies.
impl Store {
    /// Whose connections somebody wants to see.
    pub async fn connection_requests(&self) -> Result<Vec<ListRequest>, StoreError> {
        let sql = "SELECT instance_id, asked_at FROM connection_requests WHERE asked_at > $1";
        let since = now().saturating_sub(STALE_AFTER);
        Ok(read!(self, pool => sqlx::query_as(sql).bind(since).fetch_all(pool).await)?)
    }

    /// A proxy answers: these, of so many.
    pub async fn list_connections(
        &self,
        proxy_id: &str,
        wish: &ListRequest,
        total: i64,
        connections: &[LiveConnection],
    ) -> Result<(), StoreError> {
        let list =
            "INSERT INTO connection_lists (instance_id, proxy_id, asked_at, total) VALUES ($1, $2, $3, $4)";
        let add = "INSERT INTO live_connections (instance_id, proxy_id, number, since, token_id, source, protocol, \
                   tls, operations) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
        let ListRequest { instance_id, asked_at } = wish;
        write_unversioned!(self, tx => {
            sqlx::query(FORGET).bind(instance_id).bind(proxy_id).execute(&mut *tx).await?;
            sqlx::query(list).bind(instance_id).bind(proxy_id).bind(asked_at).bind(total)
                .execute(&mut *tx).await?;
            for it in connections {
                sqlx::query(add).bind(instance_id).bind(proxy_id).bind(it.id.number).bind(it.since)
                    .bind(&it.token_id).bind(&it.source).bind(&it.protocol).bind(i64::from(it.tls))
                    .bind(it.operations).execute(&mut *tx).await?;
            }
        });
        Ok(())
    }

    /// Nobody asks any more: nothing is kept of what a proxy has listed.
    pub async fn forget_connections(&self, proxy_id: &str, instance_id: &str) -> Result<(), StoreError> {
        write_unversioned!(self, tx => {
            sqlx::query(FORGET).bind(instance_id).bind(proxy_id).execute(&mut *tx).await?;
        });
        Ok(())
    }

    /// The connections of a proxy that are to end, each with its instance.
    pub async fn pending_closes(&self, proxy_id: &str) -> Result<Vec<(String, ConnectionId)>, StoreError> {
        let sql = "SELECT instance_id, number, since FROM connection_closes \
                   WHERE proxy_id = $1 AND done_at IS NULL";
        let rows: Vec<(String, i64, Millis)> =
            read!(self, pool => sqlx::query_as(sql).bind(proxy_id).fetch_all(pool).await)?;
        let id = |number, since| ConnectionId { proxy: proxy_id.to_owned(), number, since };
        Ok(rows.into_iter().map(|(instance, number, since)| (instance, id(number, since))).collect())
    }

    /// A connection has ended by order.
    pub async fn mark_closed(&self, instance_id: &str, id: &ConnectionId) -> Result<(), StoreError> {
        let sql = "UPDATE connection_closes SET done_at = $1 WHERE proxy_id = $2 AND instance_id = $3 \
                   AND number = $4 AND since = $5";
        write_unversioned!(self, tx => {
            sqlx::query(sql).bind(now()).bind(&id.proxy).bind(instance_id).bind(id.number).bind(id.since)
                .execute(&mut *tx).await?;
        });
        Ok(())
    }
}

const FORGET: &str = "DELETE FROM connection_lists WHERE instance_id = $1 AND proxy_id = $2";
