//! Tokens: what a user's application shows at the door. Their form is in `token/format.rs`.

mod cidr;
mod format;
mod permissions;
mod scopes;
mod scram;
mod verifier;

pub use cidr::{Cidr, ParseCidrError};
pub use format::{ParseTokenError, Token, TokenId, TokenSecret};
pub(crate) use permissions::Columns;
pub use permissions::{KeyPrefix, NetworkLimitError, ParseKeyPrefixError, Permissions};
pub use scopes::{ParseScopesError, Scopes};
pub use scram::ScramKeys;
pub use verifier::Verifier;
pub(crate) use verifier::matches;

use crate::audit::note;
use crate::db::{read, write};
use crate::{Millis, Store, StoreError, TokenKey, now};

/// A token as its owner sees it afterwards: everything but the secret.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct TokenRow {
    /// The public half: `mg_` and this is the username.
    pub id: String,
    /// Whose it is.
    pub user_id: String,
    /// What its owner calls it.
    pub name: String,
    /// When it was made.
    pub created_at: Millis,
    /// When it was revoked, if it was.
    pub revoked_at: Option<Millis>,
    /// What it may do.
    #[serde(flatten)]
    pub permissions: Permissions,
    /// The public id of the token that has taken its place.
    pub successor: Option<String>,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    user_id: String,
    name: String,
    created_at: Millis,
    revoked_at: Option<Millis>,
    #[sqlx(flatten)]
    permissions: Columns,
    successor: Option<String>,
}

impl From<Row> for TokenRow {
    fn from(row: Row) -> Self {
        let permissions = row.permissions.read_or_none(&row.id);
        let Row { id, user_id, name, created_at, revoked_at, successor, .. } = row;
        Self { id, user_id, name, created_at, revoked_at, permissions, successor }
    }
}

/// A token about to be kept: made by [`NewToken::generate`], shown to its owner once it is committed.
#[derive(Debug)]
pub struct NewToken {
    /// The whole token.
    pub token: Token,
    pub(crate) name: String,
    pub(crate) permissions: Permissions,
    pub(crate) verifier: Verifier,
}

impl TokenRow {
    /// Whether it lets anybody in at that time, as far as the token itself is concerned.
    #[must_use]
    pub fn is_active(&self, now: Millis) -> bool {
        self.revoked_at.is_none() && self.permissions.is_current(now)
    }
}

impl NewToken {
    /// Makes a token that may do everything. Takes about a millisecond (SCRAM's key derivation).
    #[must_use]
    pub fn generate(key: &TokenKey, name: &str) -> Self {
        let token = Token::generate();
        let verifier = Verifier::of(key, &token);
        Self { token, name: name.to_owned(), permissions: Permissions::ALL, verifier }
    }

    /// With these permissions and no others.
    #[must_use]
    pub fn limited_to(self, permissions: Permissions) -> Self {
        Self { permissions, ..self }
    }
}

pub(crate) const INSERT: &str = "INSERT INTO tokens (id, user_id, name, secret_hash, scram_salt, scram_iterations, \
     scram_stored_key, scram_server_key, created_at, revision, scopes, key_prefix, expires_at, allow_from) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)";

/// The insert, with everything bound, for whichever database `$tx` is of.
macro_rules! insert_token {
    ($tx:expr, $user_id:expr, $token:expr, $revision:expr) => {{
        let permissions = $crate::token::Columns::from(&$token.permissions);
        sqlx::query($crate::token::INSERT)
            .bind($token.token.id().as_str())
            .bind($user_id)
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
            .execute(&mut *$tx)
            .await
    }};
}
pub(crate) use insert_token;

const BY_ID: &str = "SELECT id, user_id, name, created_at, revoked_at, scopes, key_prefix, expires_at, allow_from, \
     successor FROM tokens WHERE id = $1";

impl Store {
    /// Keeps a new token of a user. Show it only after this has returned. `NotFound("user")`.
    pub async fn create_token(&self, user_id: &str, token: &NewToken) -> Result<(), StoreError> {
        self.create_token_within(user_id, token, usize::MAX).await
    }

    /// The same, for a user who may have so many that are good; `LimitReached("token")` if they are there.
    pub async fn create_token_within(
        &self,
        user_id: &str,
        token: &NewToken,
        most: usize,
    ) -> Result<(), StoreError> {
        let good = "SELECT COUNT(*) FROM tokens WHERE user_id = $1 AND revoked_at IS NULL \
                    AND (expires_at IS NULL OR expires_at > $2)";
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        write!(self, tx, revision => {
            let held: i64 = sqlx::query_scalar(good).bind(user_id).bind(now()).fetch_one(&mut *tx).await?;
            if held >= most {
                return Err(StoreError::LimitReached("token"));
            }
            insert_token!(tx, user_id, token, revision).map_err(|e| StoreError::reference(e, "user"))?;
            note!(self, tx, "token.create", format!("token {}", token.token.id()), format!("of user {user_id}, {}", token.permissions));
        });
        Ok(())
    }

    /// A user's tokens, oldest first, the revoked and expired ones too.
    pub async fn tokens_of(&self, user_id: &str) -> Result<Vec<TokenRow>, StoreError> {
        let sql = "SELECT id, user_id, name, created_at, revoked_at, scopes, key_prefix, expires_at, allow_from, \
                   successor FROM tokens WHERE user_id = $1 ORDER BY created_at, id";
        let rows: Vec<Row> = read!(self, pool => sqlx::query_as(sql).bind(user_id).fetch_all(pool).await)?;
        Ok(rows.into_iter().map(TokenRow::from).collect())
    }

    /// One token by its public id.
    pub async fn token(&self, id: &TokenId) -> Result<Option<TokenRow>, StoreError> {
        let row: Option<Row> = read!(self, pool => sqlx::query_as(BY_ID)
            .bind(id.as_str()).fetch_optional(pool).await)?;
        Ok(row.map(TokenRow::from))
    }

    /// Revokes a token for good. `NotFound` if it isn't there; revoking twice keeps the first time.
    pub async fn revoke_token(&self, id: &TokenId) -> Result<(), StoreError> {
        let sql = "UPDATE tokens SET revoked_at = COALESCE(revoked_at, $1), revision = $2 WHERE id = $3";
        write!(self, tx, revision => {
            let touched = sqlx::query(sql).bind(now()).bind(revision).bind(id.as_str())
                .execute(&mut *tx).await?.rows_affected();
            if touched == 0 {
                return Err(StoreError::NotFound("token"));
            }
            note!(self, tx, "token.revoke", format!("token {id}"), "");
        });
        Ok(())
    }

    /// Changes the permissions of a token that is still good; what it has now is told to `change`, in the same
    /// transaction. Connections that it has opened are held to the new ones within a second.
    /// `NotFound("token that is still good")`: one that is over stays so.
    pub async fn update_permissions(
        &self,
        id: &TokenId,
        change: impl FnOnce(&mut Permissions),
    ) -> Result<TokenRow, StoreError> {
        let sql = "UPDATE tokens SET scopes = $1, key_prefix = $2, expires_at = $3, allow_from = $4, \
                   revision = $5 WHERE id = $6";
        Ok(write!(self, tx, revision => {
            let row: Option<Row> = sqlx::query_as(BY_ID).bind(id.as_str()).fetch_optional(&mut *tx).await?;
            let mut token = still_good(row.map(TokenRow::from))?;
            change(&mut token.permissions);
            let columns = Columns::from(&token.permissions);
            sqlx::query(sql).bind(columns.scopes).bind(columns.key_prefix).bind(columns.expires_at)
                .bind(columns.allow_from).bind(revision).bind(id.as_str()).execute(&mut *tx).await?;
            note!(self, tx, "token.change", format!("token {id}"), token.permissions.to_string());
            token
        }))
    }

    /// Puts `new` in the place of a token that is still good: of the same user, with the same name and
    /// permissions whatever `new` says. The old one lets nobody in from `ends_at` on, or from when it would have
    /// ended anyway. Show the new one only after this has returned. `NotFound("token that is still good")`,
    /// `AlreadyExists("token's place")` if another has it already.
    pub async fn rotate_token(
        &self,
        old: &TokenId,
        new: NewToken,
        ends_at: Millis,
    ) -> Result<(NewToken, TokenRow), StoreError> {
        let sql = "UPDATE tokens SET expires_at = $1, successor = $2, revision = $3 WHERE id = $4";
        Ok(write!(self, tx, revision => {
            let row: Option<Row> = sqlx::query_as(BY_ID).bind(old.as_str()).fetch_optional(&mut *tx).await?;
            let mut row = still_good(row.map(TokenRow::from))?;
            if row.successor.is_some() {
                return Err(StoreError::AlreadyExists("token's place"));
            }
            let new = NewToken { name: row.name.clone(), permissions: row.permissions.clone(), ..new };
            insert_token!(tx, &row.user_id, new, revision)?;
            row.permissions.expires_at = Some(row.permissions.expires_at.map_or(ends_at, |end| end.min(ends_at)));
            row.successor = Some(new.token.id().to_string());
            sqlx::query(sql).bind(row.permissions.expires_at).bind(&row.successor).bind(revision)
                .bind(old.as_str()).execute(&mut *tx).await?;
            note!(self, tx, "token.rotate", format!("token {old}"), format!("successor {}, the old one ends at {ends_at}", new.token.id()));
            (new, row)
        }))
    }
}

/// A token that lets somebody in. One whose permissions can't be read does not.
fn still_good(token: Option<TokenRow>) -> Result<TokenRow, StoreError> {
    token.filter(|token| token.is_active(now())).ok_or(StoreError::NotFound("token that is still good"))
}
