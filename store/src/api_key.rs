//! Keys of the JSON API: a user's credentials for programs that manage caches and tokens. They open no cache.

mod format;
mod scopes;

use subtle::ConstantTimeEq as _;

pub use self::format::{ApiKey, ApiKeyId, ParseApiKeyError};
pub use self::scopes::{ApiScope, ApiScopes, ParseApiScopesError};
use crate::audit::note;
use crate::db::{write, write_unversioned};
use crate::keys::{hex, unhex};
use crate::rows::{SHORT_ROW_BYTES_MAX, read_row, read_rows};
use crate::{Store, StoreError, Timestamp, TokenKey, now};

/// Keys of a user that are neither revoked nor expired.
const PER_USER_MAX: i64 = 20;
/// Keys of a user that are kept after they ended: the newest.
const ENDED_KEPT_MAX: i64 = 20;
/// A hash that no secret has: checked when the key doesn't exist, so that timing doesn't tell.
const DECOY_HASH: [u8; 32] = [0; 32];

/// An API key without its secret.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ApiKeyRow {
    /// The public half: 12 letters and digits.
    pub id: String,
    /// The user who has it.
    pub user_id: String,
    /// The name that its user chose.
    pub name: String,
    /// What it may do.
    pub scopes: ApiScopes,
    /// When it was created.
    pub created_at: Timestamp,
    /// It is refused from this time on; `None` is never.
    pub expires_at: Option<Timestamp>,
    /// When it was last used; a minute late at most while it is used.
    pub last_used_at: Option<Timestamp>,
    /// When it was revoked, if it was.
    pub revoked_at: Option<Timestamp>,
}

/// A key to create, with its secret. Show it to its user only after the store has committed it.
#[derive(Debug)]
pub struct NewApiKey<'a> {
    /// The whole key.
    pub key: ApiKey,
    /// Its name; the caller has validated it.
    pub name: &'a str,
    /// What it may do.
    pub scopes: ApiScopes,
    /// When it ends; `None` is never.
    pub expires_at: Option<Timestamp>,
}

impl ApiKeyRow {
    /// Whether the key is neither revoked nor expired at `now`. Its user may still be suspended.
    #[must_use]
    pub fn is_active(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|end| now < end)
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    user_id: String,
    name: String,
    secret_hash: String,
    scopes: String,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
    last_used_at: Option<Timestamp>,
    revoked_at: Option<Timestamp>,
}

impl From<Row> for ApiKeyRow {
    /// A row whose scopes can't be parsed allows nothing.
    fn from(row: Row) -> Self {
        let Row { id, user_id, name, scopes, created_at, expires_at, last_used_at, revoked_at, .. } = row;
        let scopes = scopes.parse().unwrap_or_else(|error| {
            tracing::error!(key = id, %error, "invalid scopes: refusing every request with the API key");
            ApiScopes::NONE
        });
        Self { id, user_id, name, scopes, created_at, expires_at, last_used_at, revoked_at }
    }
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, user_id, name, secret_hash, scopes, created_at, expires_at, last_used_at, revoked_at ",
            "FROM api_keys ",
            $rest
        )
    };
}

/// The key `$1`.
pub(crate) const BY_ID: &str = select!("WHERE id = $1");
/// The newest `$2` keys of the user `$1`.
pub(crate) const OF_USER: &str = select!("WHERE user_id = $1 ORDER BY created_at DESC, id DESC LIMIT $2");
/// Keys of the user `$1` that haven't ended at `$2`.
pub(crate) const COUNT_ACTIVE: &str = "SELECT COUNT(*) FROM api_keys WHERE user_id = $1 AND revoked_at IS NULL \
     AND COALESCE(expires_at, 9223372036854775807) > $2";
const INSERT: &str = "INSERT INTO api_keys (id, user_id, name, secret_hash, scopes, created_at, expires_at) \
     SELECT $1, id, $2, $3, $4, $5, $6 FROM users WHERE id = $7 AND deleted_at IS NULL";
/// Deletes the keys of the user `$1` that have ended at `$2`, but the newest `$3`.
pub(crate) const DELETE_SURPLUS: &str = "DELETE FROM api_keys WHERE user_id = $1 AND id IN (SELECT id FROM api_keys \
     WHERE user_id = $1 AND (revoked_at IS NOT NULL OR expires_at <= $2) ORDER BY created_at DESC, id DESC \
     LIMIT 1000 OFFSET $3)";
const REVOKE: &str =
    "UPDATE api_keys SET revoked_at = $1 WHERE id = $2 AND revoked_at IS NULL RETURNING user_id";
/// Ends all keys of the user `$2`.
pub(crate) const REVOKE_ALL: &str =
    "UPDATE api_keys SET revoked_at = $1 WHERE user_id = $2 AND revoked_at IS NULL";
/// Forgets all keys of the user `$1`.
pub(crate) const DELETE_ALL: &str = "DELETE FROM api_keys WHERE user_id = $1";
const TOUCH: &str = "UPDATE api_keys SET last_used_at = $1 WHERE id = $2";

impl Store {
    /// Creates an API key. Show it only after this has returned.
    ///
    /// # Errors
    /// `NotFound("user")`, `LimitReached("API key")`.
    pub async fn create_api_key(
        &self,
        token_key: &TokenKey,
        user_id: &str,
        new: &NewApiKey<'_>,
    ) -> Result<(), StoreError> {
        let (id, at) = (new.key.id(), now());
        let hash = hex(&secret_hash(token_key, &new.key));
        write!(self, tx, _revision => {
            let active: i64 = sqlx::query_scalar(COUNT_ACTIVE).bind(user_id).bind(at).fetch_one(&mut *tx).await?;
            if active >= PER_USER_MAX {
                return Err(StoreError::LimitReached("API key"));
            }
            let inserted = sqlx::query(INSERT).bind(id.as_str()).bind(new.name).bind(&hash)
                .bind(new.scopes.to_string()).bind(at).bind(new.expires_at).bind(user_id)
                .execute(&mut *tx).await?.rows_affected();
            if inserted == 0 {
                return Err(StoreError::NotFound("user"));
            }
            sqlx::query(DELETE_SURPLUS).bind(user_id).bind(at).bind(ENDED_KEPT_MAX).execute(&mut *tx).await?;
            let until = new.expires_at.map_or_else(String::new, |end| format!(", until {end}"));
            let detail = format!("user {user_id}, scopes {}{until}", new.scopes);
            note!(self, tx, "api_key.create", format!("api_key {id}"), detail);
        });
        Ok(())
    }

    /// The key that a request shows, if its secret is right; it may have ended. Takes as long for a key that doesn't exist.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn verify_api_key(
        &self,
        token_key: &TokenKey,
        shown: &ApiKey,
    ) -> Result<Option<ApiKeyRow>, StoreError> {
        let row = self.read_api_key(&shown.id()).await?;
        let stored = row.as_ref().and_then(|row| unhex::<32>(row.secret_hash.as_bytes()));
        let matches: bool = secret_hash(token_key, shown).ct_eq(&stored.unwrap_or(DECOY_HASH)).into();
        Ok(row.filter(|_| matches && stored.is_some()).map(ApiKeyRow::from))
    }

    /// An API key by its public half.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn api_key(&self, id: &ApiKeyId) -> Result<Option<ApiKeyRow>, StoreError> {
        Ok(self.read_api_key(id).await?.map(ApiKeyRow::from))
    }

    async fn read_api_key(&self, id: &ApiKeyId) -> Result<Option<Row>, StoreError> {
        let row: Option<Result<Row, StoreError>> =
            read_row!(self, SHORT_ROW_BYTES_MAX, sqlx::query(BY_ID).bind(id.as_str()))?;
        row.transpose()
    }

    /// A user's API keys, the newest first: all that haven't ended, and some that have.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn api_keys_of(&self, user_id: &str) -> Result<Vec<ApiKeyRow>, StoreError> {
        let max = PER_USER_MAX + ENDED_KEPT_MAX;
        let rows: Vec<Result<Row, StoreError>> =
            read_rows!(self, SHORT_ROW_BYTES_MAX, sqlx::query(OF_USER).bind(user_id).bind(2 * max))?;
        rows.into_iter().map(|row| Ok(ApiKeyRow::from(row?))).collect()
    }

    /// Revokes an API key for good. Revoking it again changes nothing.
    ///
    /// # Errors
    /// `NotFound("API key")`.
    pub async fn revoke_api_key(&self, id: &ApiKeyId) -> Result<(), StoreError> {
        let exists = "SELECT COUNT(*) FROM api_keys WHERE id = $1";
        write!(self, tx, _revision => {
            let user: Option<String> =
                sqlx::query_scalar(REVOKE).bind(now()).bind(id.as_str()).fetch_optional(&mut *tx).await?;
            let Some(user) = user else {
                let keys: i64 = sqlx::query_scalar(exists).bind(id.as_str()).fetch_one(&mut *tx).await?;
                // Rolls back: nothing changes, so nothing is noted.
                return if keys > 0 { Ok(()) } else { Err(StoreError::NotFound("API key")) };
            };
            note!(self, tx, "api_key.revoke", format!("api_key {id}"), format!("user {user}"));
        });
        Ok(())
    }

    /// Records that a key is used. Once a minute is enough.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn touch_api_key(&self, id: &ApiKeyId) -> Result<(), StoreError> {
        write_unversioned!(self, tx => {
            sqlx::query(TOUCH).bind(now()).bind(id.as_str()).execute(&mut *tx).await?;
        });
        Ok(())
    }
}

fn secret_hash(token_key: &TokenKey, key: &ApiKey) -> [u8; 32] {
    token_key.hash(&["api-key", key.id().as_str(), key.secret()])
}
