//! Grants: everything that a proxy must know about a token, in one read.

use std::fmt;
use std::time::Duration;

use crate::rows::{LISTED_MAX, QUERIED_MAX, ROW_BYTES_MAX, read_row, read_rows};
use crate::token::{Permissions, ScramKeys, TokenId, TokenSecret};
use crate::tokens::{TokenColumns, token_columns};
use crate::{InstanceState, Store, StoreError, Timestamp, TokenKey, UserState, now, token};

/// A token with its user, cache, instance and route.
#[derive(Clone)]
pub struct Grant {
    /// The token.
    pub token: TokenId,
    /// The cache's user.
    pub user_id: String,
    /// The token's cache.
    pub cache_id: String,
    /// The cache's instance.
    pub instance_id: String,
    /// Whether the token has been revoked.
    pub revoked: bool,
    /// What the token may do, until when and from where.
    pub permissions: Permissions,
    /// Whether the user is active or suspended. One whose cache is suspended counts as suspended.
    pub user_state: UserState,
    /// Client connections that the instance may have, of all proxies together.
    pub connections: i64,
    /// The largest item, in bytes.
    pub item_size_max: i64,
    /// Operations per second that the plan allows, enforced by each proxy on its own; `None` is no limit.
    pub operations_per_second: Option<u64>,
    /// Bytes of requests and replies per second, likewise.
    pub bytes_per_second: Option<u64>,
    /// The address of the instance's memcached, if it runs.
    pub address: Option<String>,
    /// Whether the instance sleeps, so that a request must wake it.
    pub asleep: bool,
    /// Whether it comes back, but may take longer than others: it sleeps, or it restarts with the contents of a warm cache.
    pub comes_back_late: bool,
    /// The route's generation; 0 if there is no route.
    pub generation: i64,
    /// The store's revision before this was read; may include later changes.
    pub read_at: i64,
    /// What SCRAM needs; `None` if its columns are invalid, which denies only SCRAM.
    pub scram: Option<ScramKeys>,
    secret_hash: String,
}

impl fmt::Debug for Grant {
    /// Without the hash of the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant")
            .field("token", &self.token)
            .field("user_id", &self.user_id)
            .field("cache_id", &self.cache_id)
            .field("instance_id", &self.instance_id)
            .field("revoked", &self.revoked)
            .field("permissions", &self.permissions)
            .finish_non_exhaustive()
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    #[sqlx(flatten)]
    token: TokenColumns,
    secret_hash: String,
    scram_salt: String,
    scram_iterations: i64,
    scram_stored_key: String,
    scram_server_key: String,
    user_state: String,
    instance_id: String,
    connections: i64,
    item_size_max: i64,
    operations_per_second: Option<i64>,
    bytes_per_second: Option<i64>,
    warm: bool,
    route_state: Option<String>,
    generation: Option<i64>,
    address: Option<String>,
}

impl Grant {
    /// Whether `secret` is this token's. Takes the same time for every answer.
    #[must_use]
    pub fn matches(&self, key: &TokenKey, secret: &TokenSecret) -> bool {
        token::matches(key, &self.token, secret.reveal(), &self.secret_hash)
    }

    /// Whether the token is not revoked and neither its user nor its cache suspended. Its permissions decide about expiry and
    /// networks.
    #[must_use]
    pub fn is_active(&self) -> bool {
        !self.revoked && self.user_state == UserState::Active
    }

    /// Client connections that the token may have: its own limit, or half of the instance's.
    #[must_use]
    pub fn token_connections(&self) -> i64 {
        let half = self.connections - self.connections / 2;
        self.permissions.connections.unwrap_or(half).min(self.connections)
    }

    /// Verifies a secret for an unknown token, so that timing doesn't tell that it is unknown. Always false.
    #[must_use]
    pub fn verify_decoy(key: &TokenKey, id: &TokenId, secret: &TokenSecret) -> bool {
        const DECOY_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";
        token::matches(key, id, secret.reveal(), DECOY_HASH)
    }
}

impl Row {
    /// # Errors
    /// `Corrupt` if the user's state is invalid.
    fn into_grant(self, token: TokenId, read_at: i64) -> Result<Grant, StoreError> {
        let scram = ScramKeys::read(
            &self.scram_salt,
            self.scram_iterations,
            &self.scram_stored_key,
            &self.scram_server_key,
        );
        let is = |state: InstanceState| self.route_state.as_deref() == Some(state.as_str());
        let (runs, asleep) = (is(InstanceState::Running), is(InstanceState::Asleep));
        Ok(Grant {
            token,
            user_id: self.token.user_id,
            cache_id: self.token.cache_id,
            instance_id: self.instance_id,
            revoked: self.token.revoked_at.is_some(),
            permissions: self.token.permissions.parse_or_none(token.as_str()),
            user_state: UserState::parse(&self.user_state)?,
            connections: self.connections,
            item_size_max: self.item_size_max,
            operations_per_second: self.operations_per_second.map(rate),
            bytes_per_second: self.bytes_per_second.map(rate),
            asleep,
            comes_back_late: asleep || self.warm && is(InstanceState::Restarting),
            address: self.address.filter(|_| runs),
            generation: self.generation.unwrap_or(0),
            read_at,
            scram,
            secret_hash: self.secret_hash,
        })
    }
}

macro_rules! select_grants {
    ($rest:literal) => {
        concat!(
            "SELECT ",
            token_columns!(),
            ", t.secret_hash, t.scram_salt, t.scram_iterations, t.scram_stored_key, t.scram_server_key, \
             CASE WHEN c.suspended <> 0 THEN 'suspended' ELSE u.state END AS user_state, i.id AS instance_id, i.connections, i.item_size_max, \
             p.operations_per_second, p.bytes_per_second, p.warm <> 0 AS warm, r.state AS route_state, r.generation, r.address \
             FROM tokens t JOIN caches c ON c.id = t.cache_id JOIN users u ON u.id = c.user_id \
             JOIN plans p ON p.name = c.plan JOIN instances i ON i.cache_id = c.id \
             LEFT JOIN routes r ON r.instance_id = i.id ",
            $rest
        )
    };
}

/// Tokens that have expired for less than this are read with those of their cache: clocks differ.
const ENDED_READ: Duration = Duration::from_hours(1);
/// Grants of the cache `$1` whose tokens aren't revoked and expire after `$2`, at most `$3`.
pub(crate) const OF_CACHE: &str = select_grants!(
    "WHERE t.cache_id = $1 AND t.revoked_at IS NULL AND COALESCE(t.expires_at, 9223372036854775807) > $2 LIMIT $3"
);

impl Store {
    /// Reads the grant of a token; `None` if there is no such token.
    ///
    /// # Errors
    /// `Corrupt` if the user's state is invalid.
    pub async fn grant(&self, token: &TokenId) -> Result<Option<Grant>, StoreError> {
        let read_at = self.revision().await?;
        let sql = select_grants!("WHERE t.id = $1");
        let row: Option<Result<Row, StoreError>> =
            read_row!(self, ROW_BYTES_MAX, sqlx::query(sql).bind(token.as_str()))?;
        row.map(|row| row?.into_grant(*token, read_at)).transpose()
    }

    /// Reads the grants of a cache's tokens that aren't revoked, nor expired an hour ago. An invalid one is left out.
    ///
    /// # Errors
    /// `TooMany("grants")`.
    pub async fn grants_of_cache(&self, cache_id: &str) -> Result<Vec<Grant>, StoreError> {
        let read_at = self.revision().await?;
        let rows = read_rows!(
            self,
            ROW_BYTES_MAX,
            sqlx::query(OF_CACHE).bind(cache_id).bind(now().saturating_sub(ENDED_READ)).bind(QUERIED_MAX)
        )?;
        if rows.len() > LISTED_MAX {
            return Err(StoreError::TooMany("grants"));
        }
        Ok(valid(rows, read_at))
    }

    /// Reads the first `limit` grants, in the order of their tokens' ids behind `after`, of tokens that have been used
    /// since `since`, are not revoked, and whose users and caches aren't suspended. An invalid one is left out.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn grants_used_since(
        &self,
        since: Timestamp,
        after: Option<&TokenId>,
        limit: i64,
    ) -> Result<Vec<Grant>, StoreError> {
        let read_at = self.revision().await?;
        let sql = select_grants!(
            "JOIN token_uses x ON x.token_id = t.id WHERE x.used_at >= $1 AND x.token_id > $2 AND t.revoked_at IS NULL \
             AND u.state = 'active' AND c.suspended = 0 ORDER BY x.token_id LIMIT $3"
        );
        let after = after.map_or("", TokenId::as_str);
        let rows = read_rows!(self, ROW_BYTES_MAX, sqlx::query(sql).bind(since).bind(after).bind(limit))?;
        Ok(valid(rows, read_at))
    }
}

fn valid(rows: Vec<Result<Row, StoreError>>, read_at: i64) -> Vec<Grant> {
    let grant = |row: Result<Row, StoreError>| {
        let row = row.ok()?;
        let token = TokenId::parse(&row.token.id)?;
        row.into_grant(token, read_at).ok()
    };
    rows.into_iter().filter_map(grant).collect()
}

/// An invalid limit counts as 1.
fn rate(limit: i64) -> u64 {
    u64::try_from(limit).unwrap_or(0).max(1)
}
