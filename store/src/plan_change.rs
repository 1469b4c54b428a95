//! Changes of a plan, and what becomes of the caches that have it.

use crate::audit::note;
use crate::db::write;
use crate::operation::request::follow_memory;
use crate::plan::{BY_NAME, Plan, UPDATE, bind_plan};
use crate::rows::QUERIED_MAX;
use crate::{Cache, Instance, Store, StoreError};

/// What becomes of the caches of a plan whose memory changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExistingCaches {
    /// They keep theirs.
    Keep,
    /// Those that have the plan's former memory get the new one, unless one of them holds more than that, or is warm and
    /// would be emptied.
    Resize,
    /// The same, also if items have to go.
    ResizeAndEvict,
}

/// A plan after a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanUpdate {
    /// As it is now.
    pub plan: Plan,
    /// How many of its caches get its memory.
    pub resized: usize,
}

/// Caches of the plan `$1` with the memory `$2`.
pub(crate) const OF_SIZE: &str = "SELECT c.id, c.user_id, c.name, c.plan, c.suspended <> 0 AS suspended, \
     c.sleep_after_seconds, c.created_at FROM caches c \
     JOIN instances i ON i.cache_id = c.id WHERE c.plan = $1 AND i.memory_mb = $2 AND c.deleted_at IS NULL \
     ORDER BY c.created_at, c.id LIMIT $3";
/// How many of them hold more than `$3` bytes, and the most that one holds. memcached may say anything: no cache holds
/// more than its memory.
pub(crate) const HOLDING_MORE: &str = "SELECT COUNT(*), CAST(COALESCE(MAX(s.bytes), 0) AS BIGINT) FROM caches c \
     JOIN instances i ON i.cache_id = c.id JOIN instance_statistics s ON s.instance_id = i.id \
     WHERE c.plan = $1 AND i.memory_mb = $2 AND c.deleted_at IS NULL AND i.desired = 'running' AND s.bytes > $3";

impl Store {
    /// Changes a plan: `change` gets the current one, in the same transaction. New rates and another CPU weight apply to
    /// all caches of the plan within a second; memory, connections and item size only to caches that are created later.
    ///
    /// # Errors
    /// `NotFound("plan")`, `Operation(TooSmall)`.
    pub async fn update_plan(&self, name: &str, change: impl FnOnce(&mut Plan)) -> Result<Plan, StoreError> {
        Ok(self.update_plan_and(name, ExistingCaches::Keep, change).await?.plan)
    }

    /// Changes a plan as [`Store::update_plan`] does, and the memory of its caches: by resizing those that run.
    ///
    /// # Errors
    /// `NotFound("plan")`, `Operation(TooSmall)`, `Operation(NoRoom)`, `PlanHolds`, `PlanEmpties`; then nothing is changed.
    pub async fn update_plan_and(
        &self,
        name: &str,
        existing: ExistingCaches,
        change: impl FnOnce(&mut Plan),
    ) -> Result<PlanUpdate, StoreError> {
        let growth = self.growth_mb().await?;
        Ok(write!(self, tx, revision => {
            let plan: Option<Plan> = sqlx::query_as(BY_NAME).bind(name).fetch_optional(&mut *tx).await?;
            let mut plan = plan.ok_or(StoreError::NotFound("plan"))?;
            let (former_mb, was_warm) = (plan.memory_mb, plan.warm);
            change(&mut plan);
            plan.check()?;
            bind_plan!(UPDATE, plan, revision).execute(&mut *tx).await?;
            let mut resized = 0;
            if plan.memory_mb != former_mb && existing != ExistingCaches::Keep {
                let bytes = plan.memory_mb.saturating_mul(1 << 20);
                let (caches, most): (i64, i64) = sqlx::query_as(HOLDING_MORE)
                    .bind(name).bind(former_mb).bind(bytes).fetch_one(&mut *tx).await?;
                if caches > 0 && existing == ExistingCaches::Resize {
                    let most_mb = (most >> 20).saturating_add(1).min(former_mb);
                    return Err(StoreError::PlanHolds { caches, memory_mb: plan.memory_mb, most_mb });
                }
                let mut growth = growth;
                let all: Vec<Cache> = sqlx::query_as(OF_SIZE)
                    .bind(name).bind(former_mb).bind(QUERIED_MAX).fetch_all(&mut *tx).await?;
                let mut emptied = 0;
                for cache in &all {
                    let Some(before) = follow_memory!(self, tx, revision, cache, plan.memory_mb, growth) else {
                        continue;
                    };
                    resized += 1;
                    // The row says already whether the plan is warm now.
                    emptied += i64::from(plan.empties(&Instance { warm: was_warm, ..before }));
                }
                if emptied > 0 && existing == ExistingCaches::Resize {
                    return Err(StoreError::PlanEmpties { caches: emptied });
                }
            }
            note!(self, tx, "plan.update", format!("plan {name}"), plan.to_string());
            PlanUpdate { plan, resized }
        }))
    }
}
