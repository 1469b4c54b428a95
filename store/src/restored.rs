//! What a restored backup must not bring back.

use crate::audit::note;
use crate::db::write;
use crate::{Store, StoreError};

/// Rows that were valid when the backup was made, and may have been ended since: everybody signs in again, and asks again for
/// links; and nobody is told again.
const END: [&str; 6] = [
    "DELETE FROM sessions",
    "DELETE FROM pending_sign_ins",
    "DELETE FROM account_links",
    "DELETE FROM mails WHERE state = 'waiting'",
    "DELETE FROM webhook_deliveries WHERE state = 'waiting'",
    "UPDATE webhooks SET next_attempt_at = NULL",
];

impl Store {
    /// Ends sessions, sign-ins that wait for a code and links, and drops mail and deliveries that wait, after a backup was restored.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn end_restored_sessions(&self) -> Result<(), StoreError> {
        write!(self, tx, revision => {
            for sql in END {
                sqlx::query(sql).execute(&mut *tx).await?;
            }
            note!(self, tx, "installation.restore", "installation", format!("revision {revision}"));
        });
        Ok(())
    }
}
