//! Tokens: what a user's application shows at the door. Their form is in `token/format.rs`.

mod format;
mod scram;
mod verifier;

pub use format::{Token, TokenFormatError, TokenId, TokenSecret};
pub use scram::ScramKeys;
pub use verifier::Verifier;
pub(crate) use verifier::matches;

use crate::db::{read, write};
use crate::{Millis, Store, StoreError, TokenKey, now};

/// A token as its owner sees it afterwards: everything but the secret.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow, serde::Serialize)]
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
}

/// A token about to be kept: made by [`NewToken::generate`], shown to its owner once it is committed.
#[derive(Debug)]
pub struct NewToken {
    /// The whole token.
    pub token: Token,
    pub(crate) name: String,
    pub(crate) verifier: Verifier,
}

impl NewToken {
    /// Makes a token. Takes about a millisecond (SCRAM's key derivation).
    #[must_use]
    pub fn generate(key: &TokenKey, name: &str) -> Self {
        let token = Token::generate();
        let verifier = Verifier::of(key, &token);
        Self { token, name: name.to_owned(), verifier }
    }
}

pub(crate) const INSERT: &str = "INSERT INTO tokens (id, user_id, name, secret_hash, scram_salt, scram_iterations, \
     scram_stored_key, scram_server_key, created_at, revision) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";

/// The insert, with everything bound, for whichever database `$tx` is of.
macro_rules! insert_token {
    ($tx:expr, $user_id:expr, $token:expr, $revision:expr) => {
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
            .execute(&mut *$tx)
            .await
    };
}
pub(crate) use insert_token;

impl Store {
    /// Keeps a new token of a user. Show it only after this has returned. `Missing("user")`.
    pub async fn create_token(&self, user_id: &str, token: &NewToken) -> Result<(), StoreError> {
        write!(self, tx, revision => {
            insert_token!(tx, user_id, token, revision).map_err(|e| StoreError::reference(e, "user"))?;
        });
        Ok(())
    }

    /// A user's tokens, oldest first, the revoked ones too.
    pub async fn tokens_of(&self, user_id: &str) -> Result<Vec<TokenRow>, StoreError> {
        let sql = "SELECT id, user_id, name, created_at, revoked_at FROM tokens WHERE user_id = $1 \
                   ORDER BY created_at, id";
        Ok(read!(self, pool => sqlx::query_as(sql).bind(user_id).fetch_all(pool).await)?)
    }

    /// One token by its public id.
    pub async fn token(&self, id: &TokenId) -> Result<Option<TokenRow>, StoreError> {
        let sql = "SELECT id, user_id, name, created_at, revoked_at FROM tokens WHERE id = $1";
        Ok(read!(self, pool => sqlx::query_as(sql).bind(id.as_str()).fetch_optional(pool).await)?)
    }

    /// Revokes a token for good. `Missing` if it isn't there; revoking twice keeps the first time.
    pub async fn revoke_token(&self, id: &TokenId) -> Result<(), StoreError> {
        let sql = "UPDATE tokens SET revoked_at = COALESCE(revoked_at, $1), revision = $2 WHERE id = $3";
        let touched = write!(self, tx, revision => sqlx::query(sql)
            .bind(now()).bind(revision).bind(id.as_str()).execute(&mut *tx).await?.rows_affected());
        if touched == 0 { Err(StoreError::Missing("token")) } else { Ok(()) }
    }
}
