//! Denials of all users, for administrators: those of the last hour or day.

use super::{DenialCause, DenialRecord, Row};
use crate::db::read;
use crate::rows::{SHORT_ROW_BYTES_MAX, read_rows, readable};
use crate::{Store, StoreError, Timestamp};

/// Rows that a sum of denials is made of at most, the newest.
const COUNTED_MAX: i64 = 20_000;

/// Denials with one cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DenialTotal {
    /// The cause.
    pub cause: DenialCause,
    /// Tokens that were denied for it.
    pub tokens: i64,
    /// When the last of them was.
    pub last_at: Timestamp,
}

/// A denial, and whose token it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserDenial {
    /// The denial.
    pub denial: DenialRecord,
    /// The token's name.
    pub token: String,
    /// The cache's id.
    pub cache_id: String,
    /// The cache's name.
    pub cache: String,
    /// The user.
    pub user_id: String,
    /// The user's e-mail address.
    pub email: String,
}

#[derive(sqlx::FromRow)]
struct UserRow {
    #[sqlx(flatten)]
    denial: Row,
    token: String,
    cache_id: String,
    cache: String,
    user_id: String,
    email: String,
}

/// How many tokens were denied since `$1`, by cause, of the newest `$2` denials.
pub(crate) const TOTALS: &str = "SELECT cause, COUNT(DISTINCT token_id) AS tokens, CAST(MAX(last_at) AS BIGINT) AS last_at \
     FROM (SELECT cause, token_id, last_at FROM denials WHERE last_at >= $1 ORDER BY last_at DESC LIMIT $2) newest \
     GROUP BY cause ORDER BY cause LIMIT 100";

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT d.token_id, d.cause, d.source, d.detail, d.protocol, d.tls, d.count, d.first_at, d.last_at, ",
            "t.name AS token, d.cache_id, c.name AS cache, c.user_id, u.email FROM denials d ",
            "JOIN tokens t ON t.id = d.token_id JOIN caches c ON c.id = d.cache_id JOIN users u ON u.id = c.user_id ",
            $rest
        )
    };
}
/// The newest denials since `$1`, with the cause `$2` or any; at most `$3`.
pub(crate) const NEWEST: &str = select!(
    "WHERE d.last_at >= $1 AND ($2 = '' OR d.cause = $2) ORDER BY d.last_at DESC, d.token_id, d.cause, d.source, d.detail \
     LIMIT $3"
);
/// The newest `$2` denials of the caches of the user `$1`.
pub(crate) const OF_USER: &str = select!(
    "WHERE c.user_id = $1 AND c.deleted_at IS NULL ORDER BY d.last_at DESC, d.token_id, d.cause, d.source, d.detail LIMIT $2"
);
/// The newest `$2` denials of the cache `$1`.
pub(crate) const OF_CACHE: &str = select!(
    "WHERE d.cache_id = $1 ORDER BY d.last_at DESC, d.token_id, d.cause, d.source, d.detail LIMIT $2"
);

impl Store {
    /// How many tokens of all users were denied since a time, by cause: of the newest 20,000 denials.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn denial_totals(&self, since: Timestamp) -> Result<Vec<DenialTotal>, StoreError> {
        let rows: Vec<(String, i64, Timestamp)> = read!(self, pool => sqlx::query_as(TOTALS)
            .bind(since).bind(COUNTED_MAX).fetch_all(pool).await)?;
        let known = |(cause, tokens, last_at): (String, i64, Timestamp)| {
            Some(DenialTotal { cause: DenialCause::parse(&cause)?, tokens, last_at })
        };
        Ok(rows.into_iter().filter_map(known).collect())
    }

    /// Up to `limit` denials of all users since a time, with a cause or any, the newest first.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn denials_since(
        &self,
        since: Timestamp,
        cause: Option<DenialCause>,
        limit: i64,
    ) -> Result<Vec<UserDenial>, StoreError> {
        let cause = cause.map_or("", DenialCause::as_str);
        let rows =
            read_rows!(self, SHORT_ROW_BYTES_MAX, sqlx::query(NEWEST).bind(since).bind(cause).bind(limit))?;
        Ok(denials(rows))
    }

    /// Up to `limit` denials of a cache, the newest first, with the names of its tokens.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn named_denials_of_cache(
        &self,
        cache_id: &str,
        limit: i64,
    ) -> Result<Vec<UserDenial>, StoreError> {
        Ok(denials(read_rows!(self, SHORT_ROW_BYTES_MAX, sqlx::query(OF_CACHE).bind(cache_id).bind(limit))?))
    }

    /// Up to `limit` denials of all caches of a user, the newest first.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn denials_of_user(&self, user_id: &str, limit: i64) -> Result<Vec<UserDenial>, StoreError> {
        Ok(denials(read_rows!(self, SHORT_ROW_BYTES_MAX, sqlx::query(OF_USER).bind(user_id).bind(limit))?))
    }
}

fn denials(rows: Vec<Result<UserRow, StoreError>>) -> Vec<UserDenial> {
    let known = |row: UserRow| {
        let UserRow { denial, token, cache_id, cache, user_id, email } = row;
        Some(UserDenial { denial: denial.into_denial()?, token, cache_id, cache, user_id, email })
    };
    readable("denials", rows).into_iter().filter_map(known).collect()
}
