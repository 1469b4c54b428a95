//! Tokens as rows: creates, lists, changes, rotates and revokes them.

pub(crate) mod listing;

use crate::audit::note;
use crate::db::{read, write};
use crate::token::{PermissionColumns, Permissions, Token, TokenId, Verifier};
use crate::tokens::listing::delete_surplus;
use crate::{Store, StoreError, Timestamp, TokenKey, now};

pub use listing::ListedTokens;

/// A token without its secret.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct TokenRow {
    /// The public id: 12 letters and digits; the username is `mg_` and the id.
    pub id: String,
    /// The cache that it is of.
    pub cache_id: String,
    /// The cache's name.
    pub cache: String,
    /// The cache's user.
    pub user_id: String,
    /// The name that its user chose.
    pub name: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was revoked, if it was.
    pub revoked_at: Option<Timestamp>,
    /// What it may do.
    #[serde(flatten)]
    pub permissions: Permissions,
    /// The public id of the token that replaces it.
    pub successor: Option<String>,
    /// When a client last logged in or sent a request with it, if one has; half a minute late at most while it is used.
    pub last_used_at: Option<Timestamp>,
    /// The client's IP address.
    pub last_used_from: Option<String>,
}

/// The columns of [`TokenRow`], as [`token_columns`] selects them.
#[derive(sqlx::FromRow)]
pub(crate) struct TokenColumns {
    pub(crate) id: String,
    pub(crate) cache_id: String,
    cache: String,
    pub(crate) user_id: String,
    name: String,
    created_at: Timestamp,
    pub(crate) revoked_at: Option<Timestamp>,
    #[sqlx(flatten)]
    pub(crate) permissions: PermissionColumns,
    successor: Option<String>,
    /// Only lists of tokens read these two.
    #[sqlx(default)]
    last_used_at: Option<Timestamp>,
    #[sqlx(default)]
    last_used_from: Option<String>,
}

impl From<TokenColumns> for TokenRow {
    fn from(row: TokenColumns) -> Self {
        let permissions = row.permissions.parse_or_none(&row.id);
        let TokenColumns { id, cache_id, cache, user_id, name, created_at, revoked_at, .. } = row;
        let TokenColumns { successor, last_used_at, last_used_from, .. } = row;
        Self {
            id,
            cache_id,
            cache,
            user_id,
            name,
            created_at,
            revoked_at,
            permissions,
            successor,
            last_used_at,
            last_used_from,
        }
    }
}

/// What its user may change of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenChange {
    /// Its name; the caller has validated it.
    pub name: String,
    /// What it may do.
    pub permissions: Permissions,
}

/// A token to create, with its secret. Show it to its user only after the store has committed it.
#[derive(Debug)]
pub struct NewToken {
    /// The whole token.
    pub token: Token,
    pub(crate) name: String,
    pub(crate) permissions: Permissions,
    pub(crate) verifier: Verifier,
}

impl TokenRow {
    /// Whether the token is neither revoked nor expired at `now`. Its user may still be suspended.
    #[must_use]
    pub fn is_active(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.permissions.is_valid_at(now)
    }
}

impl NewToken {
    /// Generates a token with all permissions. Takes about a millisecond (SCRAM's key derivation).
    #[must_use]
    pub fn generate(key: &TokenKey, name: &str) -> Self {
        let token = Token::generate();
        let verifier = Verifier::of(key, &token);
        Self { token, name: name.to_owned(), permissions: Permissions::ALL, verifier }
    }

    /// The same token with these permissions instead.
    #[must_use]
    pub fn limited_to(self, permissions: Permissions) -> Self {
        Self { permissions, ..self }
    }
}

/// The columns of [`TokenColumns`]: `t.` is the token, `c.` its cache.
macro_rules! token_columns {
    () => {
        "t.id, t.cache_id, c.name AS cache, c.user_id, t.name, t.created_at, t.revoked_at, t.scopes, \
         t.key_prefix, t.expires_at, t.allow_from, \
         t.connections AS token_connections, t.successor"
    };
}
pub(crate) use token_columns;

/// Selects tokens as [`TokenColumns`], with all columns.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT ",
            $crate::tokens::token_columns!(),
            ", u.used_at AS last_used_at, u.source AS last_used_from FROM tokens t ",
            "JOIN caches c ON c.id = t.cache_id LEFT JOIN token_uses u ON u.token_id = t.id ",
            $rest
        )
    };
}
pub(crate) use select;

pub(crate) const INSERT: &str = "INSERT INTO tokens (id, cache_id, name, secret_hash, scram_salt, scram_iterations, \
     scram_stored_key, scram_server_key, created_at, revision, scopes, key_prefix, expires_at, allow_from, \
     connections) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)";
const UPDATE: &str = "UPDATE tokens SET scopes = $1, key_prefix = $2, expires_at = $3, allow_from = $4, \
     connections = $5, successor = $6, name = $7, revision = $8 WHERE id = $9";
/// Active tokens of the cache `$1` at `$2`.
pub(crate) const COUNT_ACTIVE: &str = "SELECT COUNT(*) FROM tokens WHERE cache_id = $1 AND revoked_at IS NULL \
     AND COALESCE(expires_at, 9223372036854775807) > $2";
const BY_ID: &str = select!("WHERE t.id = $1");

/// Inserts a [`NewToken`], within a transaction that has taken a revision.
macro_rules! insert_token {
    ($tx:expr, $cache_id:expr, $token:expr, $revision:expr) => {{
        let permissions = $crate::token::PermissionColumns::from(&$token.permissions);
        sqlx::query($crate::tokens::INSERT)
            .bind($token.token.id().as_str())
            .bind($cache_id)
            .bind(&$token.name)
            .bind(&$token.verifier.secret_hash)
            .bind(&$token.verifier.scram_salt)
            .bind($token.verifier.scram_iterations)
            .bind(&$token.verifier.scram_stored_key)
            .bind(&$token.verifier.scram_server_key)
            .bind($crate::now())
            .bind($revision)
            .bind(&permissions.scopes)
            .bind(&permissions.key_prefix)
            .bind(permissions.expires_at)
            .bind(&permissions.allow_from)
            .bind(permissions.connections)
            .execute(&mut *$tx)
            .await
    }};
}
pub(crate) use insert_token;

/// Writes what may change of a token: its name, its permissions and its successor.
macro_rules! update_token {
    ($tx:expr, $row:expr, $revision:expr) => {{
        let columns = PermissionColumns::from(&$row.permissions);
        sqlx::query(UPDATE)
            .bind(columns.scopes)
            .bind(columns.key_prefix)
            .bind(columns.expires_at)
            .bind(columns.allow_from)
            .bind(columns.connections)
            .bind(&$row.successor)
            .bind(&$row.name)
            .bind($revision)
            .bind(&$row.id)
            .execute(&mut *$tx)
            .await?
    }};
}

impl Store {
    /// Creates a token of a cache. Show it only after this has returned.
    ///
    /// # Errors
    /// `NotFound("cache")`.
    pub async fn create_token(&self, cache_id: &str, token: &NewToken) -> Result<(), StoreError> {
        self.create_token_within(cache_id, token, usize::MAX).await
    }

    /// Creates a token of a cache that may have `max` active tokens. Show it only after this has returned.
    ///
    /// # Errors
    /// `NotFound("cache")`, `LimitReached("token")`.
    pub async fn create_token_within(
        &self,
        cache_id: &str,
        token: &NewToken,
        max: usize,
    ) -> Result<(), StoreError> {
        let cache = "SELECT name FROM caches WHERE id = $1 AND deleted_at IS NULL";
        let max = i64::try_from(max).unwrap_or(i64::MAX);
        write!(self, tx, revision => {
            let cache: Option<String> = sqlx::query_scalar(cache).bind(cache_id).fetch_optional(&mut *tx).await?;
            let cache = cache.ok_or(StoreError::NotFound("cache"))?;
            let active: i64 = sqlx::query_scalar(COUNT_ACTIVE).bind(cache_id).bind(now()).fetch_one(&mut *tx).await?;
            if active >= max {
                return Err(StoreError::LimitReached("token"));
            }
            insert_token!(tx, cache_id, token, revision)?;
            let detail = format!("cache {cache} ({cache_id}), {}", token.permissions);
            note!(self, tx, "token.create", format!("token {}", token.token.id()), detail);
            delete_surplus!(self, tx, cache_id);
        });
        Ok(())
    }

    /// A token by its public id.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn token(&self, id: &TokenId) -> Result<Option<TokenRow>, StoreError> {
        let row: Option<TokenColumns> =
            read!(self, pool => sqlx::query_as(BY_ID).bind(id.as_str()).fetch_optional(pool).await)?;
        Ok(row.map(TokenRow::from))
    }

    /// Revokes a token for good. Revoking it again changes nothing.
    ///
    /// # Errors
    /// `NotFound("token")`.
    pub async fn revoke_token(&self, id: &TokenId) -> Result<(), StoreError> {
        let sql = "UPDATE tokens SET revoked_at = $1, revision = $2 WHERE id = $3 AND revoked_at IS NULL";
        let exists = "SELECT COUNT(*) FROM tokens WHERE id = $1";
        write!(self, tx, revision => {
            let updated = sqlx::query(sql).bind(now()).bind(revision).bind(id.as_str())
                .execute(&mut *tx).await?.rows_affected();
            if updated == 0 {
                let tokens: i64 = sqlx::query_scalar(exists).bind(id.as_str()).fetch_one(&mut *tx).await?;
                // Rolls back: nothing changes, so nothing is noted.
                return if tokens > 0 { Ok(()) } else { Err(StoreError::NotFound("token")) };
            }
            note!(self, tx, "token.revoke", format!("token {id}"), "");
        });
        Ok(())
    }

    /// Changes the permissions of an active token: `change` gets the current ones, in the same transaction. The
    /// proxies apply the new ones to open connections within a second.
    ///
    /// # Errors
    /// `NotFound("active token")`: an inactive one stays inactive.
    pub async fn update_permissions(
        &self,
        id: &TokenId,
        change: impl FnOnce(&mut Permissions),
    ) -> Result<TokenRow, StoreError> {
        let change = |_: &TokenRow, new: &mut TokenChange| {
            change(&mut new.permissions);
            true
        };
        self.change_token(id, change).await?.ok_or(StoreError::NotFound("active token"))
    }

    /// Changes the name and the permissions of an active token, as [`Store::update_permissions`] does. `change` gets the
    /// token as it is, and says whether to write what it has changed: `None` if not.
    ///
    /// # Errors
    /// `NotFound("active token")`.
    pub async fn change_token(
        &self,
        id: &TokenId,
        change: impl FnOnce(&TokenRow, &mut TokenChange) -> bool,
    ) -> Result<Option<TokenRow>, StoreError> {
        Ok(write!(self, tx, revision => {
            let row: Option<TokenColumns> =
                sqlx::query_as(BY_ID).bind(id.as_str()).fetch_optional(&mut *tx).await?;
            let mut token = active(row)?;
            let mut new = TokenChange { name: token.name.clone(), permissions: token.permissions.clone() };
            if !change(&token, &mut new) {
                // Rolls back.
                return Ok(None);
            }
            let renamed = if new.name == token.name { "" } else { ", renamed" };
            (token.name, token.permissions) = (new.name, new.permissions);
            update_token!(tx, token, revision);
            note!(self, tx, "token.update", format!("token {id}"), format!("{}{renamed}", token.permissions));
            Some(token)
        }))
    }

    /// Replaces an active token by `new`, which gets the cache, name and permissions of the old one. The old one
    /// expires at `expires_at`, or earlier if it would have anyway. Show the new one only after this has returned.
    ///
    /// # Errors
    /// `NotFound("active token")`; `AlreadyExists("successor")` if the token was rotated before.
    pub async fn rotate_token(
        &self,
        old: &TokenId,
        new: NewToken,
        expires_at: Timestamp,
    ) -> Result<(NewToken, TokenRow), StoreError> {
        Ok(write!(self, tx, revision => {
            let row: Option<TokenColumns> =
                sqlx::query_as(BY_ID).bind(old.as_str()).fetch_optional(&mut *tx).await?;
            let mut row = active(row)?;
            if row.successor.is_some() {
                return Err(StoreError::AlreadyExists("successor"));
            }
            let new = NewToken { name: row.name.clone(), permissions: row.permissions.clone(), ..new };
            insert_token!(tx, &row.cache_id, new, revision)?;
            let expires_at = row.permissions.expires_at.map_or(expires_at, |earlier| earlier.min(expires_at));
            row.permissions.expires_at = Some(expires_at);
            row.successor = Some(new.token.id().to_string());
            update_token!(tx, row, revision);
            let detail = format!("successor {}, the old one expires at {expires_at}", new.token.id());
            note!(self, tx, "token.rotate", format!("token {old}"), detail);
            delete_surplus!(self, tx, &row.cache_id);
            (new, row)
        }))
    }
}

/// The token, if it is active. One whose permissions can't be parsed is not.
fn active(row: Option<TokenColumns>) -> Result<TokenRow, StoreError> {
    let token = row.map(TokenRow::from).filter(|token| token.is_active(now()));
    token.ok_or(StoreError::NotFound("active token"))
}
