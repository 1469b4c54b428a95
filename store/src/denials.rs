//! Denials: why callers with a token were refused, lately, counted and bounded. Never with a secret.

mod cause;

pub use cause::DenialCause;

use crate::db::{read, write_unversioned};
use crate::{Millis, Store, StoreError, now};

/// So many places and ways are kept of each cause of a token's denials, the newest.
const KEPT: i64 = 5;
/// Older records are deleted.
const FORGOTTEN_AFTER: Millis = 30 * 24 * 60 * 60 * 1000;
/// What one look returns at most.
const SHOWN: i64 = 50;
/// In place of an address: many others.
const MANY: &str = "*";

/// Callers that were refused for the same reason, from the same place, in the same way.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct DenialRecord {
    /// Whose token they showed.
    pub token_id: String,
    /// Why.
    pub cause: DenialCause,
    /// Their IP address; `None` where it is many addresses.
    pub source: Option<String>,
    /// How they logged in, or which command they asked for.
    pub detail: String,
    /// `text` (meta is of it) or `binary`; the last one's.
    pub protocol: String,
    /// Whether it was encrypted; the last one's.
    pub tls: bool,
    /// How often.
    pub count: i64,
    /// When it began.
    pub first_at: Millis,
    /// When it was last so.
    pub last_at: Millis,
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
    first_at: Millis,
    last_at: Millis,
}

impl Row {
    /// `None` if a newer memgate wrote it.
    fn into_denial(self) -> Option<DenialRecord> {
        let cause = DenialCause::parse(&self.cause)?;
        let Self { token_id, source, detail, protocol, tls, count, first_at, last_at, .. } = self;
        let source = (source != MANY).then_some(source);
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

const ADD: &str = "INSERT INTO denials (token_id, cause, source, detail, protocol, tls, count, first_at, last_at) \
     SELECT t.id, $2, $3, $4, $5, $6, $7, $8, $9 FROM tokens t JOIN caches c ON c.id = t.cache_id \
     WHERE t.id = $1 AND c.deleted_at IS NULL \
     ON CONFLICT (token_id, cause, source, detail) DO UPDATE SET count = denials.count + excluded.count, \
     protocol = excluded.protocol, tls = excluded.tls, last_at = excluded.last_at";
const DROP_OLDEST: &str = "DELETE FROM denials WHERE token_id = $1 AND cause = $2 AND (source, detail) NOT IN \
     (SELECT source, detail FROM denials WHERE token_id = $1 AND cause = $2 \
     ORDER BY last_at DESC, source, detail LIMIT $3)";

impl Store {
    /// Adds denials that a proxy has seen, and drops the oldest. Those of tokens that there aren't, or
    /// whose account is deleted, are passed over. All or nothing.
    pub async fn add_denials(&self, denials: &[DenialRecord]) -> Result<(), StoreError> {
        let mut ordered: Vec<&DenialRecord> = denials.iter().collect();
        // Two proxies that add at once must not wait for each other.
        ordered.sort_by_key(|it| (&it.token_id, it.cause.as_str(), &it.source, &it.detail));
        let forgotten = now().saturating_sub(FORGOTTEN_AFTER);
        write_unversioned!(self, tx => {
            for it in &ordered {
                sqlx::query(ADD).bind(&it.token_id).bind(it.cause.as_str())
                    .bind(it.source.as_deref().unwrap_or(MANY)).bind(&it.detail).bind(&it.protocol)
                    .bind(i64::from(it.tls)).bind(it.count).bind(it.first_at).bind(it.last_at)
                    .execute(&mut *tx).await?;
            }
            for same in ordered.chunk_by(|a, b| a.token_id == b.token_id && a.cause == b.cause) {
                sqlx::query(DROP_OLDEST).bind(&same[0].token_id).bind(same[0].cause.as_str()).bind(KEPT)
                    .execute(&mut *tx).await?;
            }
            sqlx::query("DELETE FROM denials WHERE last_at < $1").bind(forgotten).execute(&mut *tx).await?;
        });
        Ok(())
    }

    /// The denials of one token, by its public id, the latest first.
    pub async fn denials_of(&self, token_id: &str) -> Result<Vec<DenialRecord>, StoreError> {
        let sql = "SELECT token_id, cause, source, detail, protocol, tls, count, first_at, last_at \
                   FROM denials WHERE token_id = $1 ORDER BY last_at DESC, cause, source, detail LIMIT $2";
        let rows: Vec<Row> =
            read!(self, pool => sqlx::query_as(sql).bind(token_id).bind(SHOWN).fetch_all(pool).await)?;
        Ok(rows.into_iter().filter_map(Row::into_denial).collect())
    }

    /// The denials of all tokens of a cache, the latest first.
    pub async fn denials_of_cache(&self, cache_id: &str) -> Result<Vec<DenialRecord>, StoreError> {
        let sql = "SELECT r.token_id, r.cause, r.source, r.detail, r.protocol, r.tls, r.count, r.first_at, r.last_at \
                   FROM denials r JOIN tokens t ON t.id = r.token_id WHERE t.cache_id = $1 \
                   ORDER BY r.last_at DESC, r.token_id, r.cause, r.source, r.detail LIMIT $2";
        let rows: Vec<Row> =
            read!(self, pool => sqlx::query_as(sql).bind(cache_id).bind(SHOWN).fetch_all(pool).await)?;
        Ok(rows.into_iter().filter_map(Row::into_denial).collect())
    }
}
