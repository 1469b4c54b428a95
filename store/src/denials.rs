//! Denials: why logins and requests with a token were denied, counted and bounded. They contain no secrets.

mod cause;
pub(crate) mod recent;

pub use cause::DenialCause;
pub use recent::{DenialTotal, UserDenial};

use std::time::Duration;

use crate::db::write_unversioned;
use crate::rows::{SHORT_ROW_BYTES_MAX, read_rows};
use crate::{Store, StoreError, Timestamp, now};

/// Rows that are kept per token and cause: the newest.
const ROWS_PER_CAUSE_MAX: i64 = 5;
/// Older records are deleted.
const FORGOTTEN_AFTER: Duration = Duration::from_hours(30 * 24);
/// Rows that one call returns.
const LISTED_MAX: i64 = 50;
/// Stands for many addresses in the column `source`.
const MANY_SOURCES: &str = "*";

/// Denials with the same token, cause, source and detail.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct DenialRecord {
    /// The public id of the token that the client presented.
    pub token_id: String,
    /// The cause.
    pub cause: DenialCause,
    /// The client's IP address; `None` for many addresses.
    pub source: Option<String>,
    /// The login mechanism or the command.
    pub detail: String,
    /// `text` (which includes meta) or `binary`, of the last denial.
    pub protocol: String,
    /// Whether the last denial's connection used TLS.
    pub tls: bool,
    /// The number of denials.
    pub count: i64,
    /// The time of the first one.
    pub first_at: Timestamp,
    /// The time of the last one.
    pub last_at: Timestamp,
}

#[derive(sqlx::FromRow)]
struct Row {
    token_id: String,
    cause: String,
    source: String,
    detail: String,
    protocol: String,
    tls: i64,
    count: i64,
    first_at: Timestamp,
    last_at: Timestamp,
}

impl Row {
    /// `None` if a newer memgate has written an unknown cause.
    fn into_denial(self) -> Option<DenialRecord> {
        let cause = DenialCause::parse(&self.cause)?;
        let Self { token_id, source, detail, protocol, tls, count, first_at, last_at, .. } = self;
        let source = (source != MANY_SOURCES).then_some(source);
        Some(DenialRecord {
            token_id,
            cause,
            source,
            detail,
            protocol,
            tls: tls != 0,
            count,
            first_at,
            last_at,
        })
    }
}

const ADD: &str = "INSERT INTO denials (token_id, cache_id, cause, source, detail, protocol, tls, count, first_at, last_at) \
     SELECT t.id, t.cache_id, $2, $3, $4, $5, $6, $7, $8, $9 FROM tokens t JOIN caches c ON c.id = t.cache_id \
     WHERE t.id = $1 AND c.deleted_at IS NULL \
     ON CONFLICT (token_id, cause, source, detail) DO UPDATE SET count = denials.count + excluded.count, \
     protocol = excluded.protocol, tls = excluded.tls, last_at = excluded.last_at";
const DELETE_SURPLUS: &str = "DELETE FROM denials WHERE token_id = $1 AND cause = $2 AND (source, detail) NOT IN \
     (SELECT source, detail FROM denials WHERE token_id = $1 AND cause = $2 \
     ORDER BY last_at DESC, source, detail LIMIT $3)";
/// The newest `$2` denials of the token `$1`.
pub(crate) const OF_TOKEN: &str = "SELECT token_id, cause, source, detail, protocol, tls, count, first_at, last_at \
     FROM denials WHERE token_id = $1 ORDER BY last_at DESC, cause, source, detail LIMIT $2";
/// The newest `$2` denials of the cache `$1`.
pub(crate) const OF_CACHE: &str = "SELECT token_id, cause, source, detail, protocol, tls, count, first_at, last_at \
     FROM denials WHERE cache_id = $1 ORDER BY last_at DESC, token_id, cause, source, detail LIMIT $2";

impl Store {
    /// Adds denials that a proxy has counted, and deletes the oldest of each token and cause. Ignores unknown tokens
    /// and tokens of deleted caches.
    ///
    /// # Errors
    /// Fails if the database does, then nothing is added.
    pub async fn add_denials(&self, denials: &[DenialRecord]) -> Result<(), StoreError> {
        let mut ordered: Vec<&DenialRecord> = denials.iter().collect();
        // In one order, so that two proxies don't deadlock.
        ordered.sort_by_key(|it| (&it.token_id, it.cause.as_str(), &it.source, &it.detail));
        let forgotten = now().saturating_sub(FORGOTTEN_AFTER);
        write_unversioned!(self, tx => {
            for it in &ordered {
                sqlx::query(ADD).bind(&it.token_id).bind(it.cause.as_str())
                    .bind(it.source.as_deref().unwrap_or(MANY_SOURCES)).bind(&it.detail).bind(&it.protocol)
                    .bind(i64::from(it.tls)).bind(it.count).bind(it.first_at).bind(it.last_at)
                    .execute(&mut *tx).await?;
            }
            for same in ordered.chunk_by(|a, b| a.token_id == b.token_id && a.cause == b.cause) {
                sqlx::query(DELETE_SURPLUS).bind(&same[0].token_id).bind(same[0].cause.as_str()).bind(ROWS_PER_CAUSE_MAX)
                    .execute(&mut *tx).await?;
            }
            sqlx::query("DELETE FROM denials WHERE last_at < $1").bind(forgotten).execute(&mut *tx).await?;
        });
        Ok(())
    }

    /// The denials of a token, newest first, at most 50.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn denials_of(&self, token_id: &str) -> Result<Vec<DenialRecord>, StoreError> {
        self.read_denials(OF_TOKEN, token_id).await
    }

    /// The denials of all tokens of a cache, newest first, at most 50.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn denials_of_cache(&self, cache_id: &str) -> Result<Vec<DenialRecord>, StoreError> {
        self.read_denials(OF_CACHE, cache_id).await
    }

    async fn read_denials(&self, sql: &'static str, id: &str) -> Result<Vec<DenialRecord>, StoreError> {
        let rows = read_rows!(self, SHORT_ROW_BYTES_MAX, sqlx::query(sql).bind(id).bind(LISTED_MAX))?;
        let rows: Vec<Row> = rows.into_iter().collect::<Result<_, StoreError>>()?;
        Ok(rows.into_iter().filter_map(Row::into_denial).collect())
    }
}
