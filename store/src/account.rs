//! What becomes of a whole account: a new password, a suspension, its end.

use crate::audit::note;
use crate::db::write;
use crate::{DesiredState, Store, StoreError, UserState, now};

/// A password about to take the place of the old one.
#[derive(Debug)]
pub struct NewPassword<'a> {
    /// Argon2id in PHC form.
    pub hash: &'a str,
    /// The hash that the old password was right for, if it was asked for: one that has changed since counts
    /// as wrong.
    pub replaces: Option<&'a str>,
    /// Whether all tokens end with the sessions.
    pub end_tokens: bool,
}

const LIVE_TOKENS: &str =
    "SELECT id FROM tokens WHERE user_id = $1 AND revoked_at IS NULL ORDER BY created_at, id";
const REVOKE_ALL: &str =
    "UPDATE tokens SET revoked_at = $1, revision = $2 WHERE user_id = $3 AND revoked_at IS NULL";
/// Addresses of who was refused are in them.
const FORGET_REFUSALS: &str =
    "DELETE FROM denials WHERE token_id IN (SELECT id FROM tokens WHERE user_id = $1)";
const PLACES: &str = "DELETE FROM leaks WHERE token_id IN (SELECT id FROM tokens WHERE user_id = $1)";
const END_SESSIONS: &str = "DELETE FROM sessions WHERE user_id = $1";

/// Revokes all of a user's tokens, each with its own entry in the audit log; gives how many.
macro_rules! revoke_all {
    ($store:expr, $tx:expr, $revision:expr, $user_id:expr, $why:expr) => {{
        let ids: Vec<String> = sqlx::query_scalar(LIVE_TOKENS).bind($user_id).fetch_all(&mut *$tx).await?;
        sqlx::query(REVOKE_ALL).bind(now()).bind($revision).bind($user_id).execute(&mut *$tx).await?;
        for id in &ids {
            note!($store, $tx, "token.revoke", format!("token {id}"), $why);
        }
        ids.len()
    }};
}

impl Store {
    /// Gives a user another password and ends all sessions, and all tokens if that was asked for: all in one
    /// transaction. Returns how many tokens were revoked. `NotFound("user")`, `NotFound("password")` if it isn't
    /// the one that was to be replaced.
    pub async fn change_password(&self, user_id: &str, new: &NewPassword<'_>) -> Result<usize, StoreError> {
        let read = "SELECT password_hash FROM users WHERE id = $1 AND deleted_at IS NULL";
        let sql = "UPDATE users SET password_hash = $1, revision = $2 WHERE id = $3";
        Ok(write!(self, tx, revision => {
            let held: Option<Option<String>> =
                sqlx::query_scalar(read).bind(user_id).fetch_optional(&mut *tx).await?;
            let held = held.ok_or(StoreError::NotFound("user"))?;
            if new.replaces.is_some() && new.replaces != held.as_deref() {
                return Err(StoreError::NotFound("password"));
            }
            sqlx::query(sql).bind(new.hash).bind(revision).bind(user_id).execute(&mut *tx).await?;
            sqlx::query(END_SESSIONS).bind(user_id).execute(&mut *tx).await?;
            let tokens = if new.end_tokens {
                revoke_all!(self, tx, revision, user_id, "with the password")
            } else {
                0
            };
            note!(self, tx, "user.password", format!("user {user_id}"), format!("{tokens} tokens revoked"));
            tokens
        }))
    }

    /// Suspends a user, or lets one back in, and the instance with it. Nobody logs in with a suspended user's
    /// tokens, connections end, and the memcached is stopped. `NotFound("user")`.
    pub async fn set_user_state(&self, user_id: &str, state: UserState) -> Result<(), StoreError> {
        let user = "UPDATE users SET state = $1, revision = $2 WHERE id = $3 AND deleted_at IS NULL";
        let instance = "UPDATE instances SET wanted = $1, revision = $2 WHERE user_id = $3";
        let (wanted, action) = match state {
            UserState::Active => (DesiredState::Running, "user.resume"),
            UserState::Suspended => (DesiredState::Suspended, "user.suspend"),
        };
        write!(self, tx, revision => {
            let touched = sqlx::query(user).bind(state.as_str()).bind(revision).bind(user_id)
                .execute(&mut *tx).await?.rows_affected();
            if touched == 0 {
                return Err(StoreError::NotFound("user"));
            }
            sqlx::query(instance).bind(wanted.as_str()).bind(revision).bind(user_id).execute(&mut *tx).await?;
            note!(self, tx, action, format!("user {user_id}"), "");
        });
        Ok(())
    }

    /// Ends an account: address and password are forgotten, sessions and tokens end, the instance goes with
    /// all that is in it. The address is free at once. `NotFound("user")`.
    pub async fn delete_user(&self, user_id: &str) -> Result<(), StoreError> {
        // No address has this shape, so nobody ever finds it by one.
        let user = "UPDATE users SET email = $1, password_hash = NULL, state = 'suspended', deleted_at = $2, \
                    revision = $3 WHERE id = $4 AND deleted_at IS NULL";
        let instance = "UPDATE instances SET wanted = $1, revision = $2 WHERE user_id = $3";
        let names = "UPDATE tokens SET name = '', key_prefix = NULL, allow_from = NULL, revision = $1 \
                     WHERE user_id = $2";
        write!(self, tx, revision => {
            let touched = sqlx::query(user).bind(format!("deleted {user_id}")).bind(now()).bind(revision)
                .bind(user_id).execute(&mut *tx).await?.rows_affected();
            if touched == 0 {
                return Err(StoreError::NotFound("user"));
            }
            let tokens = revoke_all!(self, tx, revision, user_id, "with the account");
            sqlx::query(PLACES).bind(user_id).execute(&mut *tx).await?;
            sqlx::query(FORGET_REFUSALS).bind(user_id).execute(&mut *tx).await?;
            sqlx::query(names).bind(revision).bind(user_id).execute(&mut *tx).await?;
            sqlx::query(END_SESSIONS).bind(user_id).execute(&mut *tx).await?;
            sqlx::query(instance).bind(DesiredState::Deleting.as_str()).bind(revision).bind(user_id)
                .execute(&mut *tx).await?;
            note!(self, tx, "user.delete", format!("user {user_id}"), format!("{tokens} tokens revoked"));
        });
        Ok(())
    }
}
