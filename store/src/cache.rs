//! Caches: what users have and pay for. A cache has a plan, tokens and an instance.

pub(crate) mod listing;
pub(crate) mod sleep;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::audit::note;
use crate::db::{read, write};
use crate::host_capacity::require_memory;
use crate::plan::{self, Plan};
use crate::rows::{QUERIED_MAX, SHORT_ROW_BYTES_MAX, complete, read_rows};
use crate::{DesiredState, Store, StoreError, Timestamp, UserState, now};

pub use listing::ListedCache;

/// The longest name, in bytes.
const NAME_MAX: usize = 40;

/// A cache's name: 1 to 40 lower-case letters, digits and hyphens; it starts with a letter or a digit. The
/// default is `default`, the name of the cache that sign-up creates.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct CacheName(String);

/// The text can't be a cache's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid cache name: use 1 to {NAME_MAX} lower-case letters, digits and hyphens, a letter or digit first"
)]
pub struct ParseCacheNameError;

/// A cache that is not deleted.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow, serde::Serialize)]
pub struct Cache {
    /// 24 lower-case letters and digits.
    pub id: String,
    /// The user who has it.
    pub user_id: String,
    /// Unique among the user's caches.
    pub name: String,
    /// The name of the plan that decides its limits.
    pub plan: String,
    /// Whether it is suspended itself, whatever its user is.
    pub suspended: bool,
    /// After how many seconds without a command its user wants it to sleep; `None`: after the plan's time, which counts too if it
    /// is shorter: see [`Instance::sleep_after`](crate::Instance::sleep_after).
    pub sleep_after_seconds: Option<i64>,
    /// When it was created.
    pub created_at: Timestamp,
}

/// A cache to create.
#[derive(Debug, Clone)]
pub struct NewCache<'a> {
    /// The user who gets it.
    pub user_id: &'a str,
    /// Its name.
    pub name: &'a CacheName,
    /// The name of its plan; `None` takes the user's.
    pub plan: Option<&'a str>,
}

impl CacheName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for CacheName {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl fmt::Display for CacheName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for CacheName {
    type Err = ParseCacheNameError;

    fn from_str(text: &str) -> Result<Self, ParseCacheNameError> {
        let fits = (1..=NAME_MAX).contains(&text.len()) && !text.starts_with('-');
        let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if fits && text.bytes().all(is_allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseCacheNameError)
        }
    }
}

/// Caches that a user may create within a day, deleted ones included: the row of each is kept for ever.
pub const CREATED_MAX: i64 = 20;
const CREATED_WITHIN: Duration = Duration::from_hours(24);

pub(crate) const CREATED_LATELY: &str = "SELECT COUNT(*) FROM caches WHERE user_id = $1 AND created_at > $2";
pub(crate) const INSERT: &str =
    "INSERT INTO caches (id, user_id, name, plan, created_at, revision) VALUES ($1, $2, $3, $4, $5, $6)";
pub(crate) const INSERT_INSTANCE: &str = "INSERT INTO instances (id, cache_id, memory_mb, connections, \
     item_size_max, desired, created_at, revision) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
pub(crate) const LIVE_CACHES: &str = "SELECT id, user_id, name, plan, suspended <> 0 AS suspended, sleep_after_seconds, created_at \
     FROM caches \
     WHERE user_id = $1 AND deleted_at IS NULL ORDER BY created_at, id LIMIT $2";
pub(crate) const BY_ID: &str = "SELECT id, user_id, name, plan, suspended <> 0 AS suspended, sleep_after_seconds, created_at \
     FROM caches \
     WHERE id = $1 AND deleted_at IS NULL";
const BY_NAME: &str = "SELECT id, user_id, name, plan, suspended <> 0 AS suspended, sleep_after_seconds, created_at \
     FROM caches \
     WHERE user_id = $1 AND name = $2 AND deleted_at IS NULL";
/// Tokens of the cache `$1` that aren't revoked, in the order of their ids behind `$2`, at most `$3`.
pub(crate) const LIVE_TOKENS: &str =
    "SELECT id FROM tokens WHERE cache_id = $1 AND revoked_at IS NULL AND id > $2 ORDER BY id LIMIT $3";
/// Tokens that are read at a time while all of a cache are revoked.
pub(crate) const REVOKED_AT_ONCE: i64 = 1000;
pub(crate) const REVOKE_TOKENS: &str =
    "UPDATE tokens SET revoked_at = $1, revision = $2 WHERE cache_id = $3 AND revoked_at IS NULL";
/// Denials contain clients' addresses.
pub(crate) const DELETE_DENIALS: &str = "DELETE FROM denials WHERE cache_id = $1";
pub(crate) const DELETE_OPERATIONS: &str = "DELETE FROM operations WHERE cache_id = $1";
pub(crate) const SET_SUSPENDED: &str = "UPDATE caches SET suspended = $1, revision = $2 WHERE id = $3";
pub(crate) const SET_DESIRED: &str = "UPDATE instances SET desired = $1, revision = $2 WHERE cache_id = $3";
pub(crate) const DELETE: &str =
    "UPDATE caches SET name = $1, deleted_at = $2, revision = $3 WHERE id = $4 AND deleted_at IS NULL";

/// Inserts a cache and its instance, within a transaction that has taken a revision. If an instance of its size was made
/// ahead, it is that one.
macro_rules! insert_cache {
    ($tx:expr, $revision:expr, $cache:expr, $plan:expr, $desired:expr) => {{
        let (cache, plan): (&$crate::Cache, &$crate::Plan) = ($cache, $plan);
        sqlx::query($crate::cache::INSERT)
            .bind(&cache.id)
            .bind(&cache.user_id)
            .bind(&cache.name)
            .bind(&cache.plan)
            .bind(cache.created_at)
            .bind($revision)
            .execute(&mut *$tx)
            .await
            .map_err(|error| StoreError::unique(error, "cache name"))?;
        let ready: Option<String> = if $desired == $crate::DesiredState::Running {
            sqlx::query_scalar($crate::ready_instance::TAKE)
                .bind(plan.memory_mb)
                .bind(plan.connections)
                .bind(plan.item_size_max)
                .fetch_optional(&mut *$tx)
                .await?
        } else {
            None
        };
        let ready = ready.filter(|id| $crate::id::is_valid(id));
        sqlx::query($crate::cache::INSERT_INSTANCE)
            .bind(ready.unwrap_or_else($crate::id::random))
            .bind(&cache.id)
            .bind(plan.memory_mb)
            .bind(plan.connections)
            .bind(plan.item_size_max)
            .bind($crate::DesiredState::as_str($desired))
            .bind(cache.created_at)
            .bind($revision)
            .execute(&mut *$tx)
            .await?;
    }};
}
pub(crate) use insert_cache;

/// A user's caches that aren't deleted, within a transaction.
macro_rules! live_caches {
    ($tx:expr, $user_id:expr) => {{
        let rows: Vec<Result<$crate::Cache, StoreError>> = sqlx::query($crate::cache::LIVE_CACHES)
            .bind($user_id)
            .bind($crate::rows::QUERIED_MAX)
            .map(|row| $crate::rows::decode(&row, $crate::rows::SHORT_ROW_BYTES_MAX))
            .fetch_all(&mut *$tx)
            .await?;
        $crate::rows::complete("caches", rows)?
    }};
}
pub(crate) use live_caches;

/// Revokes all tokens of a cache, each with an entry in the audit log; returns how many.
macro_rules! revoke_tokens {
    ($store:expr, $tx:expr, $revision:expr, $cache:expr, $why:expr) => {{
        let cache: &$crate::Cache = $cache;
        let (mut revoked, mut last) = (0, String::new());
        loop {
            let ids: Vec<String> = sqlx::query_scalar($crate::cache::LIVE_TOKENS)
                .bind(&cache.id)
                .bind(&last)
                .bind($crate::cache::REVOKED_AT_ONCE)
                .fetch_all(&mut *$tx)
                .await?;
            for id in &ids {
                let detail = format!("{}, cache {} ({})", $why, cache.name, cache.id);
                note!($store, $tx, "token.revoke", format!("token {id}"), detail);
            }
            revoked += ids.len();
            let Some(id) = ids.into_iter().next_back() else { break };
            last = id;
        }
        sqlx::query($crate::cache::REVOKE_TOKENS)
            .bind($crate::now())
            .bind($revision)
            .bind(&cache.id)
            .execute(&mut *$tx)
            .await?;
        revoked
    }};
}
pub(crate) use revoke_tokens;

/// Deletes a cache, with an entry in the audit log: revokes its tokens and asks the provisioner to delete its instance.
/// Returns how many tokens were revoked.
macro_rules! delete_cache {
    ($store:expr, $tx:expr, $revision:expr, $cache:expr, $why:expr) => {{
        let cache: &$crate::Cache = $cache;
        let tokens = $crate::cache::revoke_tokens!($store, $tx, $revision, cache, $why);
        sqlx::query($crate::cache::DELETE_DENIALS).bind(&cache.id).execute(&mut *$tx).await?;
        sqlx::query($crate::instance_event::DELETE_EVENTS).bind(&cache.id).execute(&mut *$tx).await?;
        sqlx::query($crate::cache::DELETE_OPERATIONS).bind(&cache.id).execute(&mut *$tx).await?;
        sqlx::query($crate::operation::kind::INSERT)
            .bind($crate::id::random())
            .bind(&cache.id)
            .bind($crate::OperationKind::Delete.as_str())
            .bind(None::<i64>)
            .bind(&*$store.actor)
            .bind($crate::now())
            .bind($revision)
            .execute(&mut *$tx)
            .await?;
        sqlx::query($crate::cache::SET_DESIRED)
            .bind($crate::DesiredState::Deleting.as_str())
            .bind($revision)
            .bind(&cache.id)
            .execute(&mut *$tx)
            .await?;
        sqlx::query($crate::cache::DELETE)
            .bind(format!("deleted {}", cache.id))
            .bind($crate::now())
            .bind($revision)
            .bind(&cache.id)
            .execute(&mut *$tx)
            .await?;
        let detail = format!("{} of user {}, {tokens} tokens revoked", cache.name, cache.user_id);
        note!($store, $tx, "cache.delete", format!("cache {}", cache.id), detail);
        tokens
    }};
}
pub(crate) use delete_cache;

impl Store {
    /// Creates a cache with its instance, for a user who may have `max` caches, if the user's plan doesn't say how many. It
    /// has no token yet. A suspended user's cache starts suspended. The user creates [`CREATED_MAX`] a day at most.
    ///
    /// # Errors
    /// `NotFound("user")`, `NotFound("plan")`, `AlreadyExists("cache name")`, `LimitReached("cache")`,
    /// `LimitReached("caches a day")`, `LimitReached("memory")`.
    pub async fn create_cache(&self, new: &NewCache<'_>, max: usize) -> Result<Cache, StoreError> {
        let user = "SELECT plan, state FROM users WHERE id = $1 AND deleted_at IS NULL";
        Ok(write!(self, tx, revision => {
            let user: Option<(String, String)> =
                sqlx::query_as(user).bind(new.user_id).fetch_optional(&mut *tx).await?;
            let (default_plan, state) = user.ok_or(StoreError::NotFound("user"))?;
            let of_user: Option<Plan> =
                sqlx::query_as(plan::BY_NAME).bind(&default_plan).fetch_optional(&mut *tx).await?;
            let max = of_user.as_ref().and_then(|plan| plan.caches_per_user)
                .map_or(max, |max| usize::try_from(max).unwrap_or(0));
            let plan: Option<Plan> = match new.plan {
                Some(name) => sqlx::query_as(plan::BY_NAME).bind(name).fetch_optional(&mut *tx).await?,
                None => of_user,
            };
            let plan = plan.ok_or(StoreError::NotFound("plan"))?;
            if live_caches!(tx, new.user_id).len() >= max {
                return Err(StoreError::LimitReached("cache"));
            }
            if !self.acts_as_operator() {
                let since = now().saturating_sub(CREATED_WITHIN);
                let created: i64 = sqlx::query_scalar(CREATED_LATELY).bind(new.user_id).bind(since)
                    .fetch_one(&mut *tx).await?;
                if created >= CREATED_MAX {
                    return Err(StoreError::LimitReached("caches a day"));
                }
            }
            let cache = Cache::new(new.user_id, new.name, &plan.name);
            let desired = match UserState::parse(&state)? {
                UserState::Active => DesiredState::Running,
                UserState::Suspended => DesiredState::Suspended,
            };
            if desired == DesiredState::Running {
                require_memory!(&mut *tx, &plan);
            }
            insert_cache!(tx, revision, &cache, &plan, desired);
            let detail = format!("{} of user {}, plan {}", cache.name, cache.user_id, cache.plan);
            note!(self, tx, "cache.create", format!("cache {}", cache.id), detail);
            cache
        }))
    }

    /// A user's caches, oldest first.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn caches_of(&self, user_id: &str) -> Result<Vec<Cache>, StoreError> {
        let sql = LIVE_CACHES;
        let rows = read_rows!(self, SHORT_ROW_BYTES_MAX, sqlx::query(sql).bind(user_id).bind(QUERIED_MAX))?;
        complete("caches", rows)
    }

    /// A user's oldest cache.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn first_cache_of(&self, user_id: &str) -> Result<Option<Cache>, StoreError> {
        Ok(
            read!(self, pool => sqlx::query_as(LIVE_CACHES).bind(user_id).bind(1_i64).fetch_optional(pool).await)?,
        )
    }

    /// A cache by id. Nobody has one whose id isn't as memgate makes them, and PostgreSQL isn't asked: a NUL is an error there.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn cache(&self, id: &str) -> Result<Option<Cache>, StoreError> {
        if !crate::id::is_valid(id) {
            return Ok(None);
        }
        Ok(read!(self, pool => sqlx::query_as(BY_ID).bind(id).fetch_optional(pool).await)?)
    }

    /// A user's cache by name.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn cache_by_name(&self, user_id: &str, name: &str) -> Result<Option<Cache>, StoreError> {
        Ok(read!(self, pool => sqlx::query_as(BY_NAME).bind(user_id).bind(name).fetch_optional(pool).await)?)
    }

    /// Deletes a cache: revokes its tokens and asks the provisioner to delete its instance, by the one operation that the
    /// cache has then. The name is free at once. Returns how many tokens were revoked.
    ///
    /// # Errors
    /// `NotFound("cache")`.
    pub async fn delete_cache(&self, id: &str) -> Result<usize, StoreError> {
        Ok(write!(self, tx, revision => {
            let cache: Option<Cache> = sqlx::query_as(BY_ID).bind(id).fetch_optional(&mut *tx).await?;
            let cache = cache.ok_or(StoreError::NotFound("cache"))?;
            delete_cache!(self, tx, revision, &cache, "cache deleted")
        }))
    }
}

impl Cache {
    /// A cache that is created now.
    pub(crate) fn new(user_id: &str, name: &CacheName, plan: &str) -> Self {
        Self {
            id: crate::id::random(),
            user_id: user_id.to_owned(),
            name: name.to_string(),
            plan: plan.to_owned(),
            suspended: false,
            sleep_after_seconds: None,
            created_at: now(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_name_is_validated() {
        for good in ["default", "a", "0", "sessions-2", &"x".repeat(NAME_MAX)] {
            assert_eq!(good.parse::<CacheName>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "A", "a b", "a_b", "é", "deleted x", &"x".repeat(NAME_MAX + 1)] {
            assert_eq!(bad.parse::<CacheName>(), Err(ParseCacheNameError), "{bad:?}");
        }
    }
}
