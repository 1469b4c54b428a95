//! Live connections. A viewer inserts a list request; each proxy polls for requests and writes the connections
//! that it has. Close requests take the same path.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use crate::audit::note;
use crate::db::{read, write, write_unversioned};
use crate::rows::{SHORT_ROW_BYTES_MAX, read_rows, readable};
use crate::{Store, StoreError, Timestamp, now};

/// Requests older than this are ignored.
const REQUEST_AGE_MAX: Duration = Duration::from_secs(60);
/// How long a viewer waits for the proxies, which poll every half second.
const REPLY_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a viewer checks for replies.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Connections that are read of all lists of an instance together; a proxy writes at most 1,000.
const LISTED_MAX: i64 = 10_000;
/// Requests that a proxy, and lists that a viewer reads at once.
const REQUESTS_MAX: i64 = 1000;
/// Bytes of a proxy's id: a host name, a port and a process id.
const PROXY_ID_MAX: usize = 128;

/// One connection of one proxy: `<number>-<since>@<proxy>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionId {
    /// The proxy's id.
    pub proxy: String,
    /// The connection's number among those of its instance on that proxy.
    pub number: i64,
    /// When the connection was opened; numbers may be reused.
    pub since: Timestamp,
}

/// An authenticated client connection.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LiveConnection {
    /// Identifies it.
    pub id: ConnectionId,
    /// The public id of the token that it used to log in.
    pub token_id: String,
    /// The client's IP address.
    pub source: String,
    /// `text` (which includes meta) or `binary`.
    pub protocol: String,
    /// Whether it uses TLS.
    pub tls: bool,
    /// When it was opened.
    pub since: Timestamp,
    /// Operations so far; a multi-key get counts once per key.
    pub operations: i64,
}

/// The proxies' replies to a list request.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LiveConnections {
    /// The oldest connections of each proxy.
    pub connections: Vec<LiveConnection>,
    /// The number of all connections.
    pub total: i64,
    /// The number of running proxies that have not replied in time.
    pub unanswered: usize,
}

/// A request to list an instance's connections.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct ListRequest {
    /// The instance.
    pub instance_id: String,
    /// When it was made: later than every earlier request for the instance.
    pub requested_at: Timestamp,
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

/// The text is not a connection id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid connection id: copy it from the list of connections")]
pub struct ParseConnectionIdError;

impl FromStr for ConnectionId {
    type Err = ParseConnectionIdError;

    fn from_str(text: &str) -> Result<Self, ParseConnectionIdError> {
        let (numbers, proxy) = text.split_once('@').ok_or(ParseConnectionIdError)?;
        let (number, since) = numbers.split_once('-').ok_or(ParseConnectionIdError)?;
        if !is_proxy_id(proxy) {
            return Err(ParseConnectionIdError);
        }
        let (number, since) = (parse_number(number)?, Timestamp::from_millis(parse_number(since)?));
        Ok(Self { proxy: proxy.to_owned(), number, since })
    }
}

fn is_proxy_id(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/-".contains(&byte);
    (1..=PROXY_ID_MAX).contains(&text.len()) && text.bytes().all(is_plain)
}

/// Digits only: of several spellings of a number, only one is an id.
fn parse_number(digits: &str) -> Result<i64, ParseConnectionIdError> {
    let number: i64 = digits.parse().map_err(|_| ParseConnectionIdError)?;
    if number.to_string() == digits && number >= 0 { Ok(number) } else { Err(ParseConnectionIdError) }
}

#[derive(sqlx::FromRow)]
struct Row {
    proxy_id: String,
    number: i64,
    since: Timestamp,
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
    /// Lists an instance's live connections: asks all proxies and waits up to 2 seconds for their replies.
    ///
    /// # Errors
    /// `NotFound("instance")`.
    pub async fn live_connections(&self, instance_id: &str) -> Result<LiveConnections, StoreError> {
        let requested_at = self.request_connection_list(instance_id).await?;
        let started = Instant::now();
        loop {
            let unanswered = self.unanswered_proxies(instance_id, requested_at).await?;
            if unanswered == 0 || started.elapsed() > REPLY_TIMEOUT {
                return self.listed_connections(instance_id, requested_at, unanswered).await;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Closes a connection that is listed, and records it in the audit log. Asks the proxies for a new list if it isn't
    /// in the last one. Returns whether its proxy has confirmed within 2 seconds that it is closed, or all proxies that
    /// they don't have it.
    ///
    /// # Errors
    /// `NotFound("instance")`.
    pub async fn close_connection(&self, instance_id: &str, id: &ConnectionId) -> Result<bool, StoreError> {
        if !self.request_close(instance_id, id).await? {
            let live = self.live_connections(instance_id).await?;
            if !self.request_close(instance_id, id).await? {
                return Ok(live.unanswered == 0);
            }
        }
        let started = Instant::now();
        while started.elapsed() < REPLY_TIMEOUT {
            if self.is_closed(instance_id, id).await? {
                return Ok(true);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(false)
    }

    /// Requests that a connection is closed, and notes that, unless it was requested before. Returns whether it is
    /// requested: only for a connection that a proxy has listed, so that a made-up id writes nothing.
    async fn request_close(&self, instance_id: &str, id: &ConnectionId) -> Result<bool, StoreError> {
        let sql = "INSERT INTO connection_closes (instance_id, proxy_id, number, since, requested_at) \
                   SELECT instance_id, proxy_id, number, since, $5 FROM live_connections \
                   WHERE instance_id = $1 AND proxy_id = $2 AND number = $3 AND since = $4 \
                   ON CONFLICT (proxy_id, instance_id, number, since) DO NOTHING";
        let requested = "SELECT COUNT(*) FROM connection_closes WHERE instance_id = $1 AND proxy_id = $2 \
                         AND number = $3 AND since = $4";
        let expired = now().saturating_sub(REQUEST_AGE_MAX);
        Ok(write!(self, tx, _revision => {
            sqlx::query("DELETE FROM connection_closes WHERE requested_at < $1").bind(expired)
                .execute(&mut *tx).await?;
            let inserted = sqlx::query(sql).bind(instance_id).bind(&id.proxy).bind(id.number).bind(id.since)
                .bind(now()).execute(&mut *tx).await?.rows_affected();
            if inserted == 0 {
                // Rolls back.
                let requests: i64 = sqlx::query_scalar(requested).bind(instance_id).bind(&id.proxy)
                    .bind(id.number).bind(id.since).fetch_one(&mut *tx).await?;
                return Ok(requests > 0);
            }
            note!(self, tx, "connection.close", instance_id, id.to_string());
            true
        }))
    }

    async fn is_closed(&self, instance_id: &str, id: &ConnectionId) -> Result<bool, StoreError> {
        let sql = "SELECT COUNT(*) FROM connection_closes WHERE proxy_id = $1 AND instance_id = $2 \
                   AND number = $3 AND since = $4 AND closed_at IS NOT NULL";
        let closed: i64 = read!(self, pool => sqlx::query_scalar(sql).bind(&id.proxy).bind(instance_id)
            .bind(id.number).bind(id.since).fetch_one(pool).await)?;
        Ok(closed > 0)
    }

    async fn request_connection_list(&self, instance_id: &str) -> Result<Timestamp, StoreError> {
        let sql = "INSERT INTO connection_requests (instance_id, requested_at) VALUES ($1, $2) \
                   ON CONFLICT (instance_id) DO UPDATE SET requested_at = \
                   CASE WHEN connection_requests.requested_at < excluded.requested_at THEN excluded.requested_at \
                   ELSE connection_requests.requested_at + 1 END RETURNING requested_at";
        Ok(write_unversioned!(self, tx => {
            sqlx::query_scalar(sql).bind(instance_id).bind(now()).fetch_one(&mut *tx).await
                .map_err(|e| StoreError::reference(e, "instance"))?
        }))
    }

    /// Counts the running proxies that have not replied to a request.
    async fn unanswered_proxies(
        &self,
        instance_id: &str,
        requested_at: Timestamp,
    ) -> Result<usize, StoreError> {
        let sql =
            "SELECT proxy_id FROM connection_lists WHERE instance_id = $1 AND requested_at >= $2 LIMIT $3";
        let answered: Vec<Result<(String,), StoreError>> = read_rows!(
            self,
            SHORT_ROW_BYTES_MAX,
            sqlx::query(sql).bind(instance_id).bind(requested_at).bind(REQUESTS_MAX)
        )?;
        let answered: Vec<String> = answered.into_iter().flatten().map(|(id,)| id).collect();
        let running = self.proxies().await?.into_iter().filter(|proxy| !proxy.is_gone(now()));
        Ok(running.filter(|proxy| !answered.contains(&proxy.id)).count())
    }

    async fn listed_connections(
        &self,
        instance_id: &str,
        requested_at: Timestamp,
        unanswered: usize,
    ) -> Result<LiveConnections, StoreError> {
        let sql = "SELECT c.proxy_id, c.number, c.since, c.token_id, c.source, c.protocol, c.tls, c.operations \
                   FROM live_connections c JOIN connection_lists l \
                   ON l.instance_id = c.instance_id AND l.proxy_id = c.proxy_id \
                   WHERE c.instance_id = $1 AND l.requested_at >= $2 ORDER BY c.since, c.proxy_id, c.number LIMIT $3";
        let rows: Vec<Result<Row, StoreError>> = read_rows!(
            self,
            SHORT_ROW_BYTES_MAX,
            sqlx::query(sql).bind(instance_id).bind(requested_at).bind(LISTED_MAX)
        )?;
        let rows: Vec<Row> = rows.into_iter().collect::<Result<_, StoreError>>()?;
        let sql = "SELECT CAST(COALESCE(SUM(total), 0) AS BIGINT) FROM connection_lists \
                   WHERE instance_id = $1 AND requested_at >= $2";
        let total = read!(self, pool => sqlx::query_scalar(sql).bind(instance_id).bind(requested_at)
            .fetch_one(pool).await)?;
        let connections = rows.into_iter().map(LiveConnection::from).collect();
        Ok(LiveConnections { connections, total, unanswered })
    }
}

/// Requests after `$1`, the oldest `$2`.
pub(crate) const REQUESTS: &str = "SELECT instance_id, requested_at FROM connection_requests WHERE requested_at > $1 \
     ORDER BY requested_at LIMIT $2";
const DELETE_LIST: &str = "DELETE FROM connection_lists WHERE instance_id = $1 AND proxy_id = $2";

/// For proxies.
impl Store {
    /// The list requests of the last minute.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn connection_requests(&self) -> Result<Vec<ListRequest>, StoreError> {
        let since = now().saturating_sub(REQUEST_AGE_MAX);
        let rows =
            read_rows!(self, SHORT_ROW_BYTES_MAX, sqlx::query(REQUESTS).bind(since).bind(REQUESTS_MAX))?;
        Ok(readable("connection requests", rows))
    }

    /// Replaces a proxy's list with its reply to `request`: some of its `total` connections.
    ///
    /// # Errors
    /// Fails if the database does, then nothing is replaced.
    pub async fn list_connections(
        &self,
        proxy_id: &str,
        request: &ListRequest,
        total: i64,
        connections: &[LiveConnection],
    ) -> Result<(), StoreError> {
        let list = "INSERT INTO connection_lists (instance_id, proxy_id, requested_at, total) \
                    VALUES ($1, $2, $3, $4)";
        let add = "INSERT INTO live_connections (instance_id, proxy_id, number, since, token_id, source, protocol, \
                   tls, operations) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
        let ListRequest { instance_id, requested_at } = request;
        write_unversioned!(self, tx => {
            sqlx::query(DELETE_LIST).bind(instance_id).bind(proxy_id).execute(&mut *tx).await?;
            sqlx::query(list).bind(instance_id).bind(proxy_id).bind(requested_at).bind(total)
                .execute(&mut *tx).await?;
            for it in connections {
                sqlx::query(add).bind(instance_id).bind(proxy_id).bind(it.id.number).bind(it.since)
                    .bind(&it.token_id).bind(&it.source).bind(&it.protocol).bind(i64::from(it.tls))
                    .bind(it.operations).execute(&mut *tx).await?;
            }
        });
        Ok(())
    }

    /// Deletes a proxy's list of an instance's connections, once its requests have expired.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn forget_connections(&self, proxy_id: &str, instance_id: &str) -> Result<(), StoreError> {
        write_unversioned!(self, tx => {
            sqlx::query(DELETE_LIST).bind(instance_id).bind(proxy_id).execute(&mut *tx).await?;
        });
        Ok(())
    }

    /// The connections that a proxy must close: pairs of instance id and connection.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn pending_closes(&self, proxy_id: &str) -> Result<Vec<(String, ConnectionId)>, StoreError> {
        let sql = "SELECT instance_id, number, since FROM connection_closes \
                   WHERE proxy_id = $1 AND closed_at IS NULL LIMIT $2";
        type Row = (String, i64, Timestamp);
        let rows: Vec<Result<Row, StoreError>> =
            read_rows!(self, SHORT_ROW_BYTES_MAX, sqlx::query(sql).bind(proxy_id).bind(REQUESTS_MAX))?;
        let rows = readable("requests to close connections", rows);
        let id = |number, since| ConnectionId { proxy: proxy_id.to_owned(), number, since };
        Ok(rows.into_iter().map(|(instance, number, since)| (instance, id(number, since))).collect())
    }

    /// Records that a connection was closed on request.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn mark_closed(&self, instance_id: &str, id: &ConnectionId) -> Result<(), StoreError> {
        let sql = "UPDATE connection_closes SET closed_at = $1 WHERE proxy_id = $2 AND instance_id = $3 \
                   AND number = $4 AND since = $5";
        write_unversioned!(self, tx => {
            sqlx::query(sql).bind(now()).bind(&id.proxy).bind(instance_id).bind(id.number).bind(id.since)
                .execute(&mut *tx).await?;
        });
        Ok(())
    }
}
