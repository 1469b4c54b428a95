//! Browser sessions, identified by the hash of their cookie.

use std::fmt;
use std::time::Duration;

use crate::account::DELETE_PENDING;
use crate::audit::note;
use crate::db::{read, write, write_unversioned};
use crate::{Store, StoreError, Timestamp, now};

/// Sessions of one user: the one that was used least recently ends when there is one more.
const SESSIONS_PER_USER_MAX: i64 = 20;
/// Characters of a browser's name for itself.
const USER_AGENT_MAX: usize = 200;

/// Sessions of the user `$1` but `$2`, and sign-ins that wait for a code.
pub(crate) const OTHERS_AND_PENDING: &str = "SELECT (SELECT COUNT(*) FROM sessions WHERE user_id = $1 AND id_hash <> $2) \
     + (SELECT COUNT(*) FROM pending_sign_ins WHERE user_id = $1)";

/// A session to create.
pub struct NewSession<'a> {
    /// SHA-256 of the cookie, hexadecimal.
    pub id_hash: &'a str,
    /// The user who signed in.
    pub user_id: &'a str,
    /// The CSRF token of the session's forms.
    pub form_token: &'a str,
    /// The client's address.
    pub source: &'a str,
    /// The browser's name for itself; kept up to 200 characters.
    pub user_agent: &'a str,
}

impl fmt::Debug for NewSession<'_> {
    /// Without the hash of the cookie and the CSRF token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewSession").field("user_id", &self.user_id).finish_non_exhaustive()
    }
}

/// A session that is not expired.
#[derive(Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Session {
    /// SHA-256 of the cookie, hexadecimal.
    pub id_hash: String,
    /// The user who signed in.
    pub user_id: String,
    /// The CSRF token of the session's forms.
    pub form_token: String,
    /// When the user signed in.
    pub created_at: Timestamp,
    /// When a page was last requested.
    pub last_seen_at: Timestamp,
    /// When the user entered the password again, after the sign-in.
    pub confirmed_at: Option<Timestamp>,
}

impl Session {
    /// When the user last entered the password: to sign in, or again later.
    #[must_use]
    pub fn password_entered_at(&self) -> Timestamp {
        self.confirmed_at.map_or(self.created_at, |at| at.max(self.created_at))
    }
}

impl fmt::Debug for Session {
    /// Without the hash of the cookie and the CSRF token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("user_id", &self.user_id)
            .field("created_at", &self.created_at)
            .field("last_seen_at", &self.last_seen_at)
            .finish_non_exhaustive()
    }
}

/// A session as its user sees it in a list.
#[derive(Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct SessionRow {
    /// SHA-256 of the cookie, hexadecimal.
    pub id_hash: String,
    /// The client's address; empty if it isn't known.
    pub source: String,
    /// The browser's name for itself; empty if it isn't known.
    pub user_agent: String,
    /// When the user signed in.
    pub created_at: Timestamp,
    /// When a page was last requested.
    pub last_seen_at: Timestamp,
}

impl fmt::Debug for SessionRow {
    /// Without the hash of the cookie.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionRow").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Store {
    /// Creates a session. Of a user's other sessions, only the 19 that were used last go on.
    ///
    /// # Errors
    /// `NotFound("user")`.
    pub async fn create_session(&self, new: &NewSession<'_>) -> Result<(), StoreError> {
        let sql = "INSERT INTO sessions (id_hash, user_id, form_token, created_at, last_seen_at, source, user_agent) \
                   VALUES ($1, $2, $3, $4, $4, $5, $6)";
        let user_agent: String = new.user_agent.chars().take(USER_AGENT_MAX).collect();
        let others = "DELETE FROM sessions WHERE user_id = $1 AND id_hash NOT IN (SELECT id_hash FROM sessions \
                      WHERE user_id = $1 ORDER BY last_seen_at DESC, created_at DESC, id_hash LIMIT $2)";
        write_unversioned!(self, tx => {
            sqlx::query(others).bind(new.user_id).bind(SESSIONS_PER_USER_MAX - 1).execute(&mut *tx).await?;
            sqlx::query(sql).bind(new.id_hash).bind(new.user_id).bind(new.form_token).bind(now()).bind(new.source)
                .bind(&user_agent).execute(&mut *tx).await.map_err(|e| StoreError::reference(e, "user"))?;
        });
        Ok(())
    }

    /// A session that was created within `absolute` and used within `idle`.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn session(
        &self,
        id_hash: &str,
        idle: Duration,
        absolute: Duration,
    ) -> Result<Option<Session>, StoreError> {
        let sql = "SELECT id_hash, user_id, form_token, created_at, last_seen_at, confirmed_at FROM sessions \
                   WHERE id_hash = $1 AND last_seen_at > $2 AND created_at > $3";
        Ok(read!(self, pool => sqlx::query_as(sql).bind(id_hash).bind(before(idle)).bind(before(absolute))
            .fetch_optional(pool).await)?)
    }

    /// Records that a session is used. Once a minute is enough.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn touch_session(&self, id_hash: &str) -> Result<(), StoreError> {
        let sql = "UPDATE sessions SET last_seen_at = $1 WHERE id_hash = $2";
        write_unversioned!(self, tx => {
            sqlx::query(sql).bind(now()).bind(id_hash).execute(&mut *tx).await?;
        });
        Ok(())
    }

    /// Deletes a session.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn end_session(&self, id_hash: &str) -> Result<(), StoreError> {
        write_unversioned!(self, tx => {
            sqlx::query("DELETE FROM sessions WHERE id_hash = $1").bind(id_hash).execute(&mut *tx).await?;
        });
        Ok(())
    }

    /// A user's sessions that haven't expired, those used last first.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn sessions_of(
        &self,
        user_id: &str,
        idle: Duration,
        absolute: Duration,
    ) -> Result<Vec<SessionRow>, StoreError> {
        let sql = "SELECT id_hash, source, user_agent, created_at, last_seen_at FROM sessions WHERE user_id = $1 \
                   AND last_seen_at > $2 AND created_at > $3 ORDER BY last_seen_at DESC, created_at DESC, id_hash LIMIT $4";
        Ok(read!(self, pool => sqlx::query_as(sql).bind(user_id).bind(before(idle)).bind(before(absolute))
            .bind(SESSIONS_PER_USER_MAX).fetch_all(pool).await)?)
    }

    /// Records that a session's user has entered the password again, with an entry in the audit log.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn confirm_session(&self, session: &Session) -> Result<(), StoreError> {
        let sql = "UPDATE sessions SET confirmed_at = $1 WHERE id_hash = $2";
        write!(self, tx, _revision => {
            sqlx::query(sql).bind(now()).bind(&session.id_hash).execute(&mut *tx).await?;
            note!(self, tx, "user.confirm", format!("user {}", session.user_id), "password entered again");
        });
        Ok(())
    }

    /// Ends all sessions of a user. Returns how many.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn end_sessions_of(&self, user_id: &str) -> Result<u64, StoreError> {
        let sql = "DELETE FROM sessions WHERE user_id = $1";
        Ok(write!(self, tx, _revision => {
            let ended = sqlx::query(sql).bind(user_id).execute(&mut *tx).await?.rows_affected();
            note!(self, tx, "user.sessions", format!("user {user_id}"), format!("all sessions ended: {ended}"));
            ended
        }))
    }

    /// Ends all sessions of a user but one, and sign-ins that wait for a code. Returns how many sessions.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn end_other_sessions(&self, user_id: &str, kept: &str) -> Result<u64, StoreError> {
        let sql = "DELETE FROM sessions WHERE user_id = $1 AND id_hash <> $2";
        // Without others nothing is written, however often it is asked for.
        let others: i64 = read!(self, pool => sqlx::query_scalar(OTHERS_AND_PENDING).bind(user_id).bind(kept).fetch_one(pool).await)?;
        if others == 0 {
            return Ok(0);
        }
        Ok(write!(self, tx, _revision => {
            let ended = sqlx::query(sql).bind(user_id).bind(kept).execute(&mut *tx).await?.rows_affected();
            let waiting = sqlx::query(DELETE_PENDING).bind(user_id).execute(&mut *tx).await?.rows_affected();
            if ended + waiting > 0 {
                let detail = format!("other sessions ended: {ended}, sign-ins that waited for a code: {waiting}");
                note!(self, tx, "user.sessions", format!("user {user_id}"), detail);
            }
            ended
        }))
    }

    /// Deletes expired sessions; returns how many.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn end_old_sessions(&self, idle: Duration, absolute: Duration) -> Result<u64, StoreError> {
        let sql = "DELETE FROM sessions WHERE last_seen_at <= $1 OR created_at <= $2";
        Ok(write_unversioned!(self, tx => sqlx::query(sql).bind(before(idle)).bind(before(absolute))
            .execute(&mut *tx).await?.rows_affected()))
    }
}

fn before(age: Duration) -> Timestamp {
    now().saturating_sub(age)
}
