//! Which kinds of notifications a user gets by mail.

use super::{NotificationKinds, mail_kinds};
use crate::audit::note;
use crate::db::{read, write};
use crate::{Store, StoreError};

pub(crate) const MAIL_KINDS: &str = "SELECT mail_kinds FROM notification_preferences WHERE user_id = $1";
const SET: &str = "INSERT INTO notification_preferences (user_id, mail_kinds) \
     SELECT id, $1 FROM users WHERE id = $2 AND deleted_at IS NULL \
     ON CONFLICT (user_id) DO UPDATE SET mail_kinds = excluded.mail_kinds";
/// Forgets what the user `$1` has chosen.
pub(crate) const DELETE: &str = "DELETE FROM notification_preferences WHERE user_id = $1";

impl Store {
    /// The kinds that a user gets by mail.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn mail_kinds_of(&self, user_id: &str) -> Result<NotificationKinds, StoreError> {
        let chosen: Option<String> =
            read!(self, pool => sqlx::query_scalar(MAIL_KINDS).bind(user_id).fetch_optional(pool).await)?;
        Ok(mail_kinds(chosen.as_deref()))
    }

    /// Chooses the kinds that a user gets by mail. Writes nothing if they are the same.
    ///
    /// # Errors
    /// `NotFound("user")`.
    pub async fn set_mail_kinds(&self, user_id: &str, kinds: NotificationKinds) -> Result<(), StoreError> {
        if self.mail_kinds_of(user_id).await? == kinds {
            return Ok(());
        }
        write!(self, tx, _revision => {
            let set = sqlx::query(SET).bind(kinds.to_string()).bind(user_id).execute(&mut *tx).await?;
            if set.rows_affected() == 0 {
                return Err(StoreError::NotFound("user"));
            }
            note!(self, tx, "user.mail_kinds", format!("user {user_id}"), format!("mail for: {kinds}"));
        });
        Ok(())
    }
}
