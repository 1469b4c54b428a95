//! Tokens in lists, of which no request reads more than a page shows, and the end of those that ended long ago.

use std::time::Duration;

use super::{TokenColumns, TokenRow, token_columns};
use crate::audit::note;
use crate::db::{read, write};
use crate::{Store, StoreError, now};

/// Active tokens in a list. Only an operator's commands make more.
const ACTIVE_LISTED_MAX: i64 = 500;
/// A token is deleted this long after it was revoked or has expired. The audit log keeps that it existed.
const KEPT_AFTER_END: Duration = Duration::from_hours(90 * 24);
/// Tokens deleted in one transaction: others wait for it.
const DELETED_AT_ONCE_MAX: i64 = 1000;

/// Tokens of a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedTokens {
    /// Neither revoked nor expired, the oldest first.
    pub active: Vec<TokenRow>,
    /// Some of the others, the newest first.
    pub inactive: Vec<TokenRow>,
}

/// Tokens that ended before `$1`, at most `$2`.
const ENDED: &str = "SELECT id FROM tokens WHERE revoked_at < $1 OR expires_at < $1 ORDER BY id LIMIT $2";

macro_rules! select {
    ($rest:literal) => {
        concat!("SELECT ", token_columns!(), " FROM tokens t JOIN caches c ON c.id = t.cache_id ", $rest)
    };
}

impl Store {
    /// The active tokens of a cache, at most 500, and the newest `inactive_max` of the others.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn list_tokens(&self, cache_id: &str, inactive_max: i64) -> Result<ListedTokens, StoreError> {
        let active = select!(
            "WHERE t.cache_id = $1 AND t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > $2) \
             ORDER BY t.created_at, t.id LIMIT $3"
        );
        let inactive = select!(
            "WHERE t.cache_id = $1 AND (t.revoked_at IS NOT NULL OR t.expires_at <= $2) \
             ORDER BY t.created_at DESC, t.id DESC LIMIT $3"
        );
        let list = async |sql: &'static str, max: i64| {
            let rows: Result<Vec<TokenColumns>, sqlx::Error> = read!(self, pool => sqlx::query_as(sql)
                .bind(cache_id).bind(now()).bind(max).fetch_all(pool).await);
            Ok::<_, StoreError>(rows?.into_iter().map(TokenRow::from).collect())
        };
        let active = list(active, ACTIVE_LISTED_MAX).await?;
        Ok(ListedTokens { active, inactive: list(inactive, inactive_max).await? })
    }

    /// The number of active tokens of a cache.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn count_active_tokens(&self, cache_id: &str) -> Result<usize, StoreError> {
        let active: i64 = read!(self, pool => sqlx::query_scalar(super::COUNT_ACTIVE)
            .bind(cache_id).bind(now()).fetch_one(pool).await)?;
        Ok(usize::try_from(active).unwrap_or(0))
    }

    /// Deletes tokens that were revoked or have expired 90 days ago, with their certificates, denials and leaks; at
    /// most 1,000. Returns how many.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn prune_tokens(&self) -> Result<usize, StoreError> {
        let before = now().saturating_sub(KEPT_AFTER_END);
        let ended: Vec<String> = read!(self, pool => sqlx::query_scalar(ENDED).bind(before)
            .bind(DELETED_AT_ONCE_MAX).fetch_all(pool).await)?;
        if ended.is_empty() {
            return Ok(0);
        }
        write!(self, tx, _revision => {
            for id in &ended {
                sqlx::query("DELETE FROM leaks WHERE token_id = $1").bind(id).execute(&mut *tx).await?;
                sqlx::query("DELETE FROM tokens WHERE id = $1").bind(id).execute(&mut *tx).await?;
            }
            let detail = format!("{} tokens that ended more than 90 days ago", ended.len());
            note!(self, tx, "token.prune", "tokens", detail);
        });
        Ok(ended.len())
    }
}
