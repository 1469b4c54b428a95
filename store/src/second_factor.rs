//! Second factors: one-time passwords by time, and recovery codes. A code is used once, and so is each time step.
//!
//! The secret is [`TokenKey::second_factor_secret`](crate::TokenKey::second_factor_secret) of the seed, which the store doesn't
//! hold.

use std::time::Duration;

use crate::account::{DELETE_CODES, DELETE_PENDING, DELETE_UNCONFIRMED};
use crate::audit::note;
use crate::db::{read, write, write_unversioned};
use crate::{Store, StoreError, Timestamp, id, now};

/// How long it may take to set one up.
const SET_UP_TIMEOUT: Duration = Duration::from_mins(15);
/// How long a sign-in waits for its code.
const PENDING_AGE: Duration = Duration::from_mins(5);
/// Codes that may be tried in one sign-in.
const ATTEMPTS_MAX: i64 = 5;
/// Sign-ins of one user that wait for a code: the oldest ends when there is one more.
const PENDING_PER_USER_MAX: i64 = 10;

/// A user's second factor.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct SecondFactor {
    /// What the secret is made of.
    pub seed: String,
    /// The hash of the session's id that began to set it up.
    pub begun_by: String,
    /// When that was.
    pub created_at: Timestamp,
    /// Since when it is asked for; `None` until a code was entered.
    pub confirmed_at: Option<Timestamp>,
    /// Recovery codes that are left.
    pub recovery_codes: i64,
}

impl SecondFactor {
    /// Whether a session may see the secret and confirm it: the one that has begun, for a quarter of an hour.
    #[must_use]
    pub fn is_set_up_by(&self, session: &str, at: Timestamp) -> bool {
        self.confirmed_at.is_none() && self.begun_by == session && at.since(self.created_at) < SET_UP_TIMEOUT
    }
}

/// What proves that somebody has the second factor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeProof<'a> {
    /// A code of this time step.
    Step(i64),
    /// A recovery code with this hash.
    RecoveryCode(&'a str),
}

/// A sign-in that waits for its code.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct PendingSignIn {
    /// The user whose password was right.
    pub user_id: String,
    /// Codes that may be tried after this one.
    pub attempts_left: i64,
}

pub(crate) const OF_USER: &str = "SELECT f.seed, f.begun_by, f.created_at, f.confirmed_at, \
     (SELECT COUNT(*) FROM recovery_codes r WHERE r.user_id = f.user_id) AS recovery_codes \
     FROM second_factors f WHERE f.user_id = $1";
const BEGIN: &str = "INSERT INTO second_factors (user_id, seed, begun_by, created_at, last_step) VALUES ($1, $2, $3, $4, 0) \
     ON CONFLICT (user_id) DO UPDATE SET seed = excluded.seed, begun_by = excluded.begun_by, \
     created_at = excluded.created_at, last_step = 0 \
     WHERE second_factors.confirmed_at IS NULL";
const CONFIRM: &str = "UPDATE second_factors SET confirmed_at = $1, last_step = $2 \
     WHERE user_id = $3 AND seed = $4 AND confirmed_at IS NULL";
/// Ends the sessions of the user `$1`, but the one that has set the second factor up.
pub(crate) const END_OTHER_SESSIONS: &str = "DELETE FROM sessions WHERE user_id = $1 \
     AND id_hash <> (SELECT begun_by FROM second_factors WHERE user_id = $1)";
/// Uses a time step up, and all before it.
const USE_STEP: &str = "UPDATE second_factors SET last_step = $1 \
     WHERE user_id = $2 AND last_step < $1 AND confirmed_at IS NOT NULL";
const USE_CODE: &str = "DELETE FROM recovery_codes WHERE user_id = $1 AND code_hash = $2";
const ADD_CODE: &str = "INSERT INTO recovery_codes (user_id, code_hash) VALUES ($1, $2)";
const REMOVE: &str = "DELETE FROM second_factors WHERE user_id = $1 RETURNING confirmed_at";
const ADD_PENDING: &str =
    "INSERT INTO pending_sign_ins (id_hash, user_id, expires_at, attempts_left) VALUES ($1, $2, $3, $4)";
pub(crate) const DELETE_SURPLUS: &str = "DELETE FROM pending_sign_ins WHERE user_id = $1 AND id_hash NOT IN \
     (SELECT id_hash FROM pending_sign_ins WHERE user_id = $1 ORDER BY expires_at DESC, id_hash LIMIT $2)";
pub(crate) const TRY: &str = "UPDATE pending_sign_ins SET attempts_left = attempts_left - 1 \
     WHERE id_hash = $1 AND expires_at > $2 AND attempts_left > 0 RETURNING user_id, attempts_left";
pub(crate) const IS_PENDING: &str =
    "SELECT COUNT(*) FROM pending_sign_ins WHERE id_hash = $1 AND expires_at > $2 AND attempts_left > 0";
pub(crate) const DELETE_EXPIRED: &str = "DELETE FROM pending_sign_ins WHERE expires_at <= $1";

impl Store {
    /// A user's second factor, whether it is confirmed or not.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn second_factor(&self, user_id: &str) -> Result<Option<SecondFactor>, StoreError> {
        Ok(read!(self, pool => sqlx::query_as(OF_USER).bind(user_id).fetch_optional(pool).await)?)
    }

    /// Begins to set a second factor up, with a new seed, in a session. Nothing asks for it before it is confirmed.
    ///
    /// # Errors
    /// `AlreadyExists("second factor")` if it is confirmed; `NotFound("user")`.
    pub async fn begin_second_factor(&self, user_id: &str, session: &str) -> Result<(), StoreError> {
        write_unversioned!(self, tx => {
            let begun = sqlx::query(BEGIN).bind(user_id).bind(id::random()).bind(session).bind(now()).execute(&mut *tx).await
                .map_err(|e| StoreError::reference(e, "user"))?.rows_affected();
            if begun == 0 {
                return Err(StoreError::AlreadyExists("second factor"));
            }
        });
        Ok(())
    }

    /// Confirms the second factor with this seed by a code of `step`, and stores the hashes of its recovery codes. Ends all other
    /// sessions of the user, which were begun without a code.
    ///
    /// # Errors
    /// `NotFound("second factor")` if there is none with this seed that isn't confirmed.
    pub async fn confirm_second_factor(
        &self,
        user_id: &str,
        seed: &str,
        step: i64,
        code_hashes: &[String],
    ) -> Result<(), StoreError> {
        write!(self, tx, _revision => {
            let confirmed = sqlx::query(CONFIRM).bind(now()).bind(step).bind(user_id).bind(seed)
                .execute(&mut *tx).await?.rows_affected();
            if confirmed == 0 {
                return Err(StoreError::NotFound("second factor"));
            }
            sqlx::query(DELETE_CODES).bind(user_id).execute(&mut *tx).await?;
            for hash in code_hashes {
                sqlx::query(ADD_CODE).bind(user_id).bind(hash).execute(&mut *tx).await?;
            }
            let ended = sqlx::query(END_OTHER_SESSIONS).bind(user_id).execute(&mut *tx).await?.rows_affected();
            sqlx::query(DELETE_PENDING).bind(user_id).execute(&mut *tx).await?;
            let detail = format!("switched on, other sessions ended: {ended}");
            note!(self, tx, "user.second_factor", format!("user {user_id}"), detail);
        });
        Ok(())
    }

    /// Ends a set-up that wasn't finished.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn cancel_second_factor(&self, user_id: &str) -> Result<(), StoreError> {
        write_unversioned!(self, tx => {
            sqlx::query(DELETE_UNCONFIRMED).bind(user_id).execute(&mut *tx).await?;
        });
        Ok(())
    }

    /// Replaces a user's recovery codes.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn replace_recovery_codes(
        &self,
        user_id: &str,
        code_hashes: &[String],
    ) -> Result<(), StoreError> {
        write!(self, tx, _revision => {
            sqlx::query(DELETE_CODES).bind(user_id).execute(&mut *tx).await?;
            for hash in code_hashes {
                sqlx::query(ADD_CODE).bind(user_id).bind(hash).execute(&mut *tx).await?;
            }
            note!(self, tx, "user.recovery_codes", format!("user {user_id}"), "new recovery codes");
        });
        Ok(())
    }

    /// Uses a code up.
    ///
    /// # Errors
    /// `NotFound("code")` if it, or a later one, was used before; or if there is no such recovery code.
    pub async fn use_code(&self, user_id: &str, proof: CodeProof<'_>) -> Result<(), StoreError> {
        write!(self, tx, _revision => {
            let used = match proof {
                CodeProof::Step(step) => sqlx::query(USE_STEP).bind(step).bind(user_id)
                    .execute(&mut *tx).await?.rows_affected(),
                CodeProof::RecoveryCode(hash) => sqlx::query(USE_CODE).bind(user_id).bind(hash)
                    .execute(&mut *tx).await?.rows_affected(),
            };
            if used == 0 {
                return Err(StoreError::NotFound("code"));
            }
            if matches!(proof, CodeProof::RecoveryCode(_)) {
                note!(self, tx, "user.recovery_code", format!("user {user_id}"), "a recovery code is used up");
            }
        });
        Ok(())
    }

    /// Removes a user's second factor with its recovery codes. Returns whether it was confirmed.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn remove_second_factor(&self, user_id: &str) -> Result<bool, StoreError> {
        Ok(write!(self, tx, _revision => {
            let removed: Option<Option<Timestamp>> =
                sqlx::query_scalar(REMOVE).bind(user_id).fetch_optional(&mut *tx).await?;
            for delete in [DELETE_CODES, DELETE_PENDING] {
                sqlx::query(delete).bind(user_id).execute(&mut *tx).await?;
            }
            let was_on = removed.flatten().is_some();
            if was_on {
                note!(self, tx, "user.second_factor", format!("user {user_id}"), "switched off");
            }
            was_on
        }))
    }

    /// Adds a sign-in that waits for its code. `id_hash` is the SHA-256 of its cookie.
    ///
    /// # Errors
    /// `NotFound("user")`.
    pub async fn add_pending_sign_in(&self, id_hash: &str, user_id: &str) -> Result<(), StoreError> {
        write_unversioned!(self, tx => {
            sqlx::query(ADD_PENDING).bind(id_hash).bind(user_id).bind(now().saturating_add(PENDING_AGE))
                .bind(ATTEMPTS_MAX).execute(&mut *tx).await.map_err(|e| StoreError::reference(e, "user"))?;
            sqlx::query(DELETE_SURPLUS).bind(user_id).bind(PENDING_PER_USER_MAX).execute(&mut *tx).await?;
        });
        Ok(())
    }

    /// Whether a sign-in still waits for its code.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn is_sign_in_pending(&self, id_hash: &str) -> Result<bool, StoreError> {
        let found: i64 = read!(self, pool => sqlx::query_scalar(IS_PENDING).bind(id_hash).bind(now()).fetch_one(pool).await)?;
        Ok(found > 0)
    }

    /// Counts an attempt to enter a code. `None` if the sign-in has expired, or no attempt is left.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn try_pending_sign_in(&self, id_hash: &str) -> Result<Option<PendingSignIn>, StoreError> {
        Ok(write_unversioned!(self, tx => sqlx::query_as(TRY).bind(id_hash).bind(now())
            .fetch_optional(&mut *tx).await?))
    }

    /// Ends a sign-in that waits for its code. Returns whether it did: of two who end it, one does.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn end_pending_sign_in(&self, id_hash: &str) -> Result<bool, StoreError> {
        let sql = "DELETE FROM pending_sign_ins WHERE id_hash = $1";
        Ok(write_unversioned!(self, tx => sqlx::query(sql).bind(id_hash)
            .execute(&mut *tx).await?.rows_affected() > 0))
    }

    /// Deletes sign-ins that have waited for too long; returns how many.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn delete_expired_sign_ins(&self) -> Result<u64, StoreError> {
        Ok(write_unversioned!(self, tx => sqlx::query(DELETE_EXPIRED).bind(now())
            .execute(&mut *tx).await?.rows_affected()))
    }
}
