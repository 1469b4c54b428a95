//! Tokens in lists, of which no request reads more than a page shows, and the end of those that ended long ago.

use std::time::Duration;

use super::{TokenColumns, TokenRow, select};
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
pub(crate) const DELETED_AT_ONCE_MAX: i64 = 1000;
/// Tokens of a cache that are kept after they ended: the newest.
pub(crate) const ENDED_KEPT_MAX: i64 = 1000;
/// So many more are deleted together, with one entry in the audit log.
pub(crate) const SURPLUS_MIN: usize = 100;

/// Tokens of a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedTokens {
    /// Neither revoked nor expired, the oldest first.
    pub active: Vec<TokenRow>,
    /// Some of the others, the newest first.
    pub inactive: Vec<TokenRow>,
}

/// Tokens that ended before `$1`, at most `$2`.
pub(crate) const ENDED: &str = "SELECT id FROM tokens WHERE COALESCE(revoked_at, expires_at) < $1 LIMIT $2";
/// The newest `$3` of the cache `$1`'s tokens that have ended at `$2`, without the newest `$4`.
pub(crate) const SURPLUS: &str = "SELECT id FROM tokens WHERE cache_id = $1 \
     AND (revoked_at IS NOT NULL OR expires_at <= $2) ORDER BY created_at DESC, id DESC LIMIT $3 OFFSET $4";

/// The oldest `$3` of the cache `$1`'s active tokens at `$2`. They are sorted, and not read in the order of an index, in which
/// PostgreSQL would look at all tokens of the cache.
pub(crate) const ACTIVE: &str = select!(
    "WHERE t.cache_id = $1 AND t.revoked_at IS NULL AND COALESCE(t.expires_at, 9223372036854775807) > $2 \
     ORDER BY t.created_at + 0, t.id LIMIT $3"
);
/// The newest `$3` of the cache `$1`'s other tokens.
pub(crate) const INACTIVE: &str = select!(
    "WHERE t.cache_id = $1 AND (t.revoked_at IS NOT NULL OR t.expires_at <= $2) \
     ORDER BY t.created_at DESC, t.id DESC LIMIT $3"
);

/// The oldest `$3` active tokens at `$2` of all caches of the user `$1`.
pub(crate) const ACTIVE_OF_USER: &str = select!(
    "WHERE c.user_id = $1 AND c.deleted_at IS NULL AND t.revoked_at IS NULL \
     AND COALESCE(t.expires_at, 9223372036854775807) > $2 ORDER BY t.created_at + 0, t.id LIMIT $3"
);

/// Deletes the oldest tokens of a cache that have ended, if there are many: pages and followers read past the others.
macro_rules! delete_surplus {
    ($store:expr, $tx:expr, $cache_id:expr) => {{
        use $crate::tokens::listing::{DELETED_AT_ONCE_MAX, ENDED_KEPT_MAX, SURPLUS, SURPLUS_MIN};
        let surplus: Vec<String> = sqlx::query_scalar(SURPLUS)
            .bind($cache_id)
            .bind($crate::now())
            .bind(DELETED_AT_ONCE_MAX)
            .bind(ENDED_KEPT_MAX)
            .fetch_all(&mut *$tx)
            .await?;
        if surplus.len() >= SURPLUS_MIN {
            $crate::tokens::listing::delete_tokens!($tx, &surplus);
            let detail = format!("the oldest {} of those that ended", surplus.len());
            note!($store, $tx, "token.prune", format!("cache {}", $cache_id), detail);
        }
    }};
}
pub(crate) use delete_surplus;

/// Deletes tokens with their certificates, denials and leaks.
macro_rules! delete_tokens {
    ($tx:expr, $ids:expr) => {
        for id in $ids {
            sqlx::query("DELETE FROM leaks WHERE token_id = $1").bind(id).execute(&mut *$tx).await?;
            sqlx::query("DELETE FROM tokens WHERE id = $1").bind(id).execute(&mut *$tx).await?;
        }
    };
}
pub(crate) use delete_tokens;

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

    /// Up to `limit` active tokens of all caches of a user, the oldest first.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn active_tokens_of_user(
        &self,
        user_id: &str,
        limit: i64,
    ) -> Result<Vec<TokenRow>, StoreError> {
        let rows: Vec<Result<TokenColumns, StoreError>> = read_rows!(
            self,
            ROW_BYTES_MAX,
            sqlx::query(ACTIVE_OF_USER).bind(user_id).bind(now()).bind(limit)
        )?;
        rows.into_iter().map(|row| Ok(TokenRow::from(row?))).collect()
    }

    async fn read_tokens(
        &self,
        cache_id: &str,
        active_max: i64,
        inactive_max: i64,
    ) -> Result<ListedTokens, StoreError> {
        let list = async |sql: &'static str, max: i64| {
            let rows: Vec<Result<TokenColumns, StoreError>> =
                read_rows!(self, ROW_BYTES_MAX, sqlx::query(sql).bind(cache_id).bind(now()).bind(max))?;
            let rows = rows.into_iter().map(|row| Ok(TokenRow::from(row?)));
            rows.collect::<Result<Vec<TokenRow>, StoreError>>()
        };
        let active = list(ACTIVE, active_max).await?;
        Ok(ListedTokens { active, inactive: list(INACTIVE, inactive_max).await? })
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
            delete_tokens!(tx, &ended);
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
