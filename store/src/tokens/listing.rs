//! Tokens in lists, of which no request reads more than a page shows, and the end of those that ended long ago.

use std::time::Duration;

use super::{TokenColumns, TokenRow, token_columns};
use crate::audit::note;
use crate::db::{read, write};
use crate::rows::{self, ROW_BYTES_MAX, read_rows};
use crate::{Store, StoreError, now};

/// Active tokens in a list of the web UI. Only an operator's commands make more.
const ACTIVE_LISTED_MAX: i64 = 500;
/// Active tokens in an operator's list, and as many of the others.
const LISTED_MAX: i64 = 5000;
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
        self.read_tokens(cache_id, ACTIVE_LISTED_MAX, inactive_max).await
    }

    /// The tokens of a cache, oldest first, revoked and expired ones too: the 5,000 oldest active ones, and the 5,000
    /// newest of the others.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn tokens_of_cache(&self, cache_id: &str) -> Result<Vec<TokenRow>, StoreError> {
        let ListedTokens { active, inactive } = self.read_tokens(cache_id, LISTED_MAX, LISTED_MAX).await?;
        let mut tokens: Vec<TokenRow> = active.into_iter().chain(inactive).collect();
        sort(&mut tokens);
        Ok(tokens)
    }

    /// The tokens of all caches of a user that aren't deleted, oldest first, each as [`Store::tokens_of_cache`] lists them.
    ///
    /// # Errors
    /// `TooMany("tokens")`.
    pub async fn tokens_of_user(&self, user_id: &str) -> Result<Vec<TokenRow>, StoreError> {
        let mut tokens = Vec::new();
        for cache in self.caches_of(user_id).await? {
            tokens.extend(self.tokens_of_cache(&cache.id).await?);
            if tokens.len() > rows::LISTED_MAX {
                return Err(StoreError::TooMany("tokens"));
            }
        }
        sort(&mut tokens);
        Ok(tokens)
    }

    async fn read_tokens(
        &self,
        cache_id: &str,
        active_max: i64,
        inactive_max: i64,
    ) -> Result<ListedTokens, StoreError> {
        let active = select!(
            "WHERE t.cache_id = $1 AND t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > $2) \
             ORDER BY t.created_at, t.id LIMIT $3"
        );
        let inactive = select!(
            "WHERE t.cache_id = $1 AND (t.revoked_at IS NOT NULL OR t.expires_at <= $2) \
             ORDER BY t.created_at DESC, t.id DESC LIMIT $3"
        );
        let list = async |sql: &'static str, max: i64| {
            let rows: Vec<Result<TokenColumns, StoreError>> =
                read_rows!(self, ROW_BYTES_MAX, sqlx::query(sql).bind(cache_id).bind(now()).bind(max))?;
            let rows = rows.into_iter().map(|row| Ok(TokenRow::from(row?)));
            rows.collect::<Result<Vec<TokenRow>, StoreError>>()
        };
        let active = list(active, active_max).await?;
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

/// Oldest first.
fn sort(tokens: &mut [TokenRow]) {
    tokens.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
}
