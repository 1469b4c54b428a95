//! When a cache sleeps: as its plan says, or earlier if its user wants that.

use crate::audit::note;
use crate::cache::BY_ID;
use crate::db::write;
use crate::plan::{self, Plan};
use crate::{Cache, Store, StoreError};

pub(crate) const SET_SLEEP: &str =
    "UPDATE caches SET sleep_after_seconds = $1, revision = $2 WHERE id = $3 AND deleted_at IS NULL";

impl Store {
    /// Puts a cache to sleep after so many seconds without a command; `None`: after the plan's time.
    ///
    /// # Errors
    /// `NotFound("cache")`; `SleepsEarlier` if its plan puts it to sleep before.
    pub async fn set_sleep_after(&self, cache_id: &str, seconds: Option<i64>) -> Result<(), StoreError> {
        write!(self, tx, revision => {
            let cache: Option<Cache> = sqlx::query_as(BY_ID).bind(cache_id).fetch_optional(&mut *tx).await?;
            let cache = cache.ok_or(StoreError::NotFound("cache"))?;
            let plan: Option<Plan> =
                sqlx::query_as(plan::BY_NAME).bind(&cache.plan).fetch_optional(&mut *tx).await?;
            let max = plan.and_then(|plan| plan.sleep_after_seconds);
            if let (Some(seconds), Some(max)) = (seconds, max)
                && seconds > max
            {
                return Err(StoreError::SleepsEarlier { max });
            }
            sqlx::query(SET_SLEEP).bind(seconds).bind(revision).bind(cache_id).execute(&mut *tx).await?;
            let text = |seconds: Option<i64>| seconds.map_or("plan".to_owned(), |seconds| format!("{seconds} s"));
            let detail = format!(
                "{} of user {}, sleeps after {} (was {})",
                cache.name, cache.user_id, text(seconds), text(cache.sleep_after_seconds)
            );
            note!(self, tx, "cache.update", format!("cache {cache_id}"), detail);
        });
        Ok(())
    }
}
