//! Changes to a whole account: a new password, suspension, deletion.

use std::fmt;

use crate::api_key;
use crate::api_request;
use crate::audit::note;
use crate::cache::{SET_DESIRED, delete_cache, live_caches};
use crate::db::write;
use crate::notification::{self, preferences};
use crate::operation::request::follow_memory;
use crate::plan::{self, Plan};
use crate::webhook::{self, lock_webhooks};
use crate::{Cache, DesiredState, Store, StoreError, UserState, now};

/// A password that replaces the current one.
pub struct NewPassword<'a> {
    /// Argon2id in PHC form.
    pub hash: &'a str,
    /// The current hash that the user's old password was checked against, if it was asked for. The change fails
    /// if the hash has changed meanwhile.
    pub replaces: Option<&'a str>,
    /// Whether to revoke the tokens of all caches, and the user's API keys.
    pub revoke_tokens: bool,
}

impl fmt::Debug for NewPassword<'_> {
    /// Without the hashes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewPassword").field("revoke_tokens", &self.revoke_tokens).finish_non_exhaustive()
    }
}

/// What changes of a user; `None` keeps it.
#[derive(Debug, Clone, Copy, Default)]
pub struct UserChange<'a> {
    /// The name of the plan.
    pub plan: Option<&'a str>,
    /// Whether the user is an administrator.
    pub is_admin: Option<bool>,
    /// Whether the other plan may empty warm caches.
    pub may_empty: bool,
}

const SET_USER: &str = "UPDATE users SET plan = $1, is_admin = $2, revision = $3 WHERE id = $4";
const FOLLOW_PLAN: &str =
    "UPDATE caches SET plan = $1, revision = $2 WHERE user_id = $3 AND plan = $4 AND deleted_at IS NULL";

/// Statements that remove a user's personal data from all the user's caches, deleted ones too.
const DELETE_LEAKS: &str = "DELETE FROM leaks WHERE user_id = $1";
const CLEAR_TOKENS: &str = "UPDATE tokens SET name = '', key_prefix = NULL, allow_from = NULL, revision = $1 \
     WHERE cache_id IN (SELECT id FROM caches WHERE user_id = $2)";
const CLEAR_CERTIFICATES: &str = "UPDATE certificates SET name = '' WHERE token_id IN (SELECT t.id FROM tokens t \
     JOIN caches c ON c.id = t.cache_id WHERE c.user_id = $1)";
pub(crate) const DELETE_SESSIONS: &str = "DELETE FROM sessions WHERE user_id = $1";
pub(crate) const DELETE_LINKS: &str = "DELETE FROM account_links WHERE user_id = $1";
const DELETE_MAILS: &str = "DELETE FROM mails WHERE user_id = $1";
pub(crate) const DELETE_PENDING: &str = "DELETE FROM pending_sign_ins WHERE user_id = $1";
/// What somebody else may have begun to set up.
pub(crate) const DELETE_UNCONFIRMED: &str =
    "DELETE FROM second_factors WHERE user_id = $1 AND confirmed_at IS NULL";
const DELETE_FACTOR: &str = "DELETE FROM second_factors WHERE user_id = $1";
pub(crate) const DELETE_CODES: &str = "DELETE FROM recovery_codes WHERE user_id = $1";
pub(crate) const PASSWORD_HASH: &str = "SELECT password_hash FROM users WHERE id = $1 AND deleted_at IS NULL";

/// Sets a user's password, and deletes the user's sessions and links. Returns how many tokens were revoked.
macro_rules! set_password {
    ($store:expr, $tx:expr, $revision:expr, $user_id:expr, $new:expr) => {{
        let (user_id, new): (&str, &$crate::NewPassword<'_>) = ($user_id, $new);
        let set = "UPDATE users SET password_hash = $1, revision = $2 WHERE id = $3";
        sqlx::query(set).bind(new.hash).bind($revision).bind(user_id).execute(&mut *$tx).await?;
        use $crate::account::{DELETE_LINKS, DELETE_PENDING, DELETE_SESSIONS, DELETE_UNCONFIRMED};
        for delete in [DELETE_SESSIONS, DELETE_LINKS, DELETE_PENDING, DELETE_UNCONFIRMED] {
            sqlx::query(delete).bind(user_id).execute(&mut *$tx).await?;
        }
        let (mut tokens, mut keys) = (0, 0);
        if new.revoke_tokens {
            let caches = $crate::cache::live_caches!($tx, user_id);
            for cache in &caches {
                tokens += $crate::cache::revoke_tokens!($store, $tx, $revision, cache, "password changed");
            }
            let revoke = sqlx::query($crate::api_key::REVOKE_ALL).bind($crate::now()).bind(user_id);
            keys = revoke.execute(&mut *$tx).await?.rows_affected();
        }
        $crate::audit::note!(
            $store,
            $tx,
            "user.password",
            format!("user {user_id}"),
            format!("{tokens} tokens revoked, {keys} API keys revoked")
        );
        tokens
    }};
}
pub(crate) use set_password;

impl Store {
    /// Replaces a user's password and deletes all the user's sessions and links; revokes the tokens of all caches and the API keys if
    /// `new.revoke_tokens` is set. Returns how many tokens were revoked.
    ///
    /// # Errors
    /// `NotFound("user")`; `NotFound("password")` if the current hash isn't `new.replaces`.
    pub async fn change_password(&self, user_id: &str, new: &NewPassword<'_>) -> Result<usize, StoreError> {
        Ok(write!(self, tx, revision => {
            let current: Option<Option<String>> =
                sqlx::query_scalar(PASSWORD_HASH).bind(user_id).fetch_optional(&mut *tx).await?;
            let current = current.ok_or(StoreError::NotFound("user"))?;
            if new.replaces.is_some() && new.replaces != current.as_deref() {
                return Err(StoreError::NotFound("password"));
            }
            set_password!(self, tx, revision, user_id, new)
        }))
    }

    /// Changes a user. With another plan, the user's caches that have the former plan get the new one: its rates apply
    /// within a second, its memory by resizing, while instances keep their connections and item size. One whose items are
    /// too large for that memory keeps its memory, too.
    ///
    /// # Errors
    /// `NotFound("user")`, `NotFound("plan")`; `Operation(NoRoom)`; `PlanEmpties`. Then nothing is changed.
    pub async fn update_user(&self, user_id: &str, change: &UserChange<'_>) -> Result<(), StoreError> {
        let growth = self.growth_mb().await?;
        let read = "SELECT plan, is_admin FROM users WHERE id = $1 AND deleted_at IS NULL";
        write!(self, tx, revision => {
            let user: Option<(String, i64)> = sqlx::query_as(read).bind(user_id).fetch_optional(&mut *tx).await?;
            let (former, was_admin) = user.ok_or(StoreError::NotFound("user"))?;
            let plan = change.plan.unwrap_or(&former);
            let found: Option<Plan> =
                sqlx::query_as(plan::BY_NAME).bind(plan).fetch_optional(&mut *tx).await?;
            let found = found.ok_or(StoreError::NotFound("plan"))?;
            let is_admin = change.is_admin.map_or(was_admin, i64::from);
            sqlx::query(SET_USER).bind(plan).bind(is_admin).bind(revision).bind(user_id)
                .execute(&mut *tx).await?;
            if change.plan.is_some() {
                let mut growth = growth;
                let live: Vec<Cache> = live_caches!(tx, user_id);
                let mut emptied = 0;
                for cache in live.iter().filter(|cache| cache.plan == former) {
                    let before = follow_memory!(self, tx, revision, cache, found.memory_mb, growth);
                    emptied += i64::from(before.is_some_and(|before| found.empties(&before)));
                }
                if emptied > 0 && !change.may_empty {
                    return Err(StoreError::PlanEmpties { caches: emptied });
                }
            }
            let caches = sqlx::query(FOLLOW_PLAN).bind(plan).bind(revision).bind(user_id).bind(&former)
                .execute(&mut *tx).await?.rows_affected();
            let admin = if is_admin == 0 { "no" } else { "yes" };
            let detail = format!("plan {plan} (was {former}), {caches} caches with it, admin: {admin}");
            note!(self, tx, "user.update", format!("user {user_id}"), detail);
        });
        Ok(())
    }

    /// Suspends or resumes a user with all caches, but those that are suspended themselves stay so. While a user is suspended,
    /// tokens are refused, connections are closed, and the instances are stopped.
    ///
    /// # Errors
    /// `NotFound("user")`.
    pub async fn set_user_state(&self, user_id: &str, state: UserState) -> Result<(), StoreError> {
        let user = "UPDATE users SET state = $1, revision = $2 WHERE id = $3 AND deleted_at IS NULL";
        let action = if state == UserState::Active { "user.resume" } else { "user.suspend" };
        write!(self, tx, revision => {
            let updated = sqlx::query(user).bind(state.as_str()).bind(revision).bind(user_id)
                .execute(&mut *tx).await?.rows_affected();
            if updated == 0 {
                return Err(StoreError::NotFound("user"));
            }
            let caches = live_caches!(tx, user_id);
            for cache in &caches {
                let is_suspended = cache.suspended || state == UserState::Suspended;
                let desired = if is_suspended { DesiredState::Suspended } else { DesiredState::Running };
                sqlx::query(SET_DESIRED).bind(desired.as_str()).bind(revision).bind(&cache.id)
                    .execute(&mut *tx).await?;
            }
            note!(self, tx, action, format!("user {user_id}"), format!("{} caches", caches.len()));
        });
        Ok(())
    }

    /// Deletes an account: clears its e-mail address, password and sessions, deletes all caches with their
    /// tokens, and marks the instances for deletion. The e-mail address is free at once.
    ///
    /// # Errors
    /// `NotFound("user")`.
    pub async fn delete_user(&self, user_id: &str) -> Result<(), StoreError> {
        // Not an e-mail address, so no look-up finds it.
        let user = "UPDATE users SET email = $1, password_hash = NULL, state = 'suspended', region = NULL, \
                    deleted_at = $2, revision = $3 WHERE id = $4 AND deleted_at IS NULL";
        write!(self, tx, revision => {
            let updated = sqlx::query(user).bind(format!("deleted {user_id}")).bind(now()).bind(revision)
                .bind(user_id).execute(&mut *tx).await?.rows_affected();
            if updated == 0 {
                return Err(StoreError::NotFound("user"));
            }
            let caches = live_caches!(tx, user_id);
            let mut tokens = 0;
            for cache in &caches {
                tokens += delete_cache!(self, tx, revision, cache, "account deleted");
            }
            sqlx::query(CLEAR_TOKENS).bind(revision).bind(user_id).execute(&mut *tx).await?;
            sqlx::query(CLEAR_CERTIFICATES).bind(user_id).execute(&mut *tx).await?;
            let of_account = [DELETE_LEAKS, DELETE_SESSIONS, DELETE_LINKS, DELETE_MAILS];
            for delete in of_account.into_iter().chain([DELETE_PENDING, DELETE_FACTOR, DELETE_CODES]) {
                sqlx::query(delete).bind(user_id).execute(&mut *tx).await?;
            }
            let _ = lock_webhooks!(tx, user_id);
            let of_notifications = [webhook::DELETE_ALL, notification::DELETE_ALL, preferences::DELETE];
            for delete in [api_key::DELETE_ALL, api_request::DELETE_ALL].into_iter().chain(of_notifications) {
                sqlx::query(delete).bind(user_id).execute(&mut *tx).await?;
            }
            let detail = format!("{} caches deleted, {tokens} tokens revoked", caches.len());
            note!(self, tx, "user.delete", format!("user {user_id}"), detail);
        });
        Ok(())
    }
}
