//! Requests to wake instances that sleep, written by the proxies.
//!
//! Only an instance that is recorded as asleep can be asked for, and once for each time that it sleeps: however often a proxy
//! asks, the store changes no more often than the provisioner puts instances to sleep.

use crate::db::{read, write};
use crate::{Store, StoreError, now};

/// Whether an instance sleeps and nobody has asked for it since.
pub(crate) const IS_WANTED: &str = "SELECT r.instance_id FROM routes r LEFT JOIN wake_requests w ON w.instance_id = r.instance_id \
     WHERE r.instance_id = $1 AND r.state = 'asleep' AND COALESCE(w.revision, 0) < r.revision";
const REQUEST: &str = "INSERT INTO wake_requests (instance_id, wake_requested_at, revision) \
     SELECT instance_id, $2, $3 FROM routes WHERE instance_id = $1 AND state = 'asleep' \
     ON CONFLICT (instance_id) DO UPDATE SET wake_requested_at = excluded.wake_requested_at, revision = excluded.revision";

impl Store {
    /// Asks the provisioner to wake those of these instances that sleep.
    ///
    /// # Errors
    /// Fails if the database does, then none is asked for.
    pub async fn request_wake(&self, instance_ids: &[String]) -> Result<(), StoreError> {
        let mut wanted = Vec::new();
        for id in instance_ids {
            let found: Option<String> =
                read!(self, pool => sqlx::query_scalar(IS_WANTED).bind(id).fetch_optional(pool).await)?;
            wanted.extend(found);
        }
        if wanted.is_empty() {
            return Ok(());
        }
        write!(self, tx, revision => {
            for id in &wanted {
                sqlx::query(REQUEST).bind(id).bind(now()).bind(revision).execute(&mut *tx).await?;
            }
        });
        Ok(())
    }
}
