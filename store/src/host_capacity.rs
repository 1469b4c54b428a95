//! The memory that the machine has for caches, as the provisioner shares it out.

use std::time::Duration;

use crate::db::{read, write_unversioned};
use crate::rows::QUERIED_MAX;
use crate::{InstanceMemory, Plan, Store, StoreError, Timestamp, now};

/// What the provisioner said longer ago may be wrong.
const VALID_FOR: Duration = Duration::from_mins(1);

/// Memory for caches, by the sum of their containers' limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow, serde::Serialize)]
pub struct HostCapacity {
    /// Bytes that all limits together may have.
    pub budget_bytes: i64,
    /// Bytes that they have.
    pub reserved_bytes: i64,
    /// MiB by which the caches that run may grow together.
    pub growth_mb: i64,
    /// Instances that wait for memory.
    pub waiting: i64,
    /// When the provisioner wrote this.
    pub changed_at: Timestamp,
}

/// The machine's memory for caches as it is shared out now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostMemory {
    /// What the provisioner said last, however long ago that was.
    pub capacity: HostCapacity,
    /// Bytes that the caches that are to run have together, whether they run yet or not.
    pub promised_bytes: i64,
}

impl HostMemory {
    /// Bytes that aren't promised.
    #[must_use]
    pub fn free_bytes(&self) -> i64 {
        self.capacity.budget_bytes.saturating_sub(self.promised_bytes).max(0)
    }

    /// How many more caches of a plan fit.
    #[must_use]
    pub fn caches_that_fit(&self, plan: &Plan) -> i64 {
        self.free_bytes() / limit_of(plan).max(1)
    }
}

/// The sizes that instances are to run with, and how many have each. An invalid number counts as zero.
pub(crate) const SIZES: &str = "SELECT CAST(memory_mb AS BIGINT), CAST(connections AS BIGINT), \
     CAST(item_size_max AS BIGINT), COUNT(*) FROM instances WHERE desired = 'running' \
     GROUP BY memory_mb, connections, item_size_max LIMIT $1";
pub(crate) const READ: &str = "SELECT budget_bytes, reserved_bytes, growth_mb, waiting, changed_at FROM host_capacity \
     WHERE one = 1";
const SET: &str = "INSERT INTO host_capacity (one, budget_bytes, reserved_bytes, growth_mb, waiting, changed_at) \
     VALUES (1, $1, $2, $3, $4, $5) ON CONFLICT (one) DO UPDATE SET budget_bytes = excluded.budget_bytes, \
     reserved_bytes = excluded.reserved_bytes, growth_mb = excluded.growth_mb, waiting = excluded.waiting, \
     changed_at = excluded.changed_at";

/// A size, as memory, connections and item size, and how many instances have it.
pub(crate) type SizeCount = (i64, i64, i64, i64);

impl HostCapacity {
    /// Whether the provisioner has written it within a minute, as it does every few seconds while it works.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        now().since(self.changed_at) < VALID_FOR
    }

    /// Checks that one more cache of a plan fits, beside those that are to run. They count whether they run yet or not, so
    /// that any number of sign-ups at once gets what there is and no more.
    ///
    /// # Errors
    /// `LimitReached("memory")`.
    pub(crate) fn require_room(&self, sizes: &[SizeCount], plan: &Plan) -> Result<(), StoreError> {
        if promised(sizes).saturating_add(limit_of(plan)) <= self.budget_bytes {
            return Ok(());
        }
        Err(StoreError::LimitReached("memory"))
    }
}

/// The sum of the limits of instances.
fn promised(sizes: &[SizeCount]) -> i64 {
    sizes.iter().fold(0_i64, |sum, (memory_mb, connections, item_size_max, count)| {
        let limit = InstanceMemory::new(*memory_mb, *connections, *item_size_max).limit();
        sum.saturating_add(limit.saturating_mul(*count))
    })
}

/// The limit of an instance of a plan.
fn limit_of(plan: &Plan) -> i64 {
    InstanceMemory::new(plan.memory_mb, plan.connections, plan.item_size_max).limit()
}

/// Checks that the machine has memory for one more cache of a plan, if the provisioner tells how much it has.
macro_rules! require_memory {
    ($executor:expr, $plan:expr) => {{
        let capacity: Option<$crate::HostCapacity> =
            sqlx::query_as($crate::host_capacity::READ).fetch_optional($executor).await?;
        if let Some(capacity) = capacity.filter($crate::HostCapacity::is_valid) {
            let sizes: Vec<$crate::host_capacity::SizeCount> = sqlx::query_as($crate::host_capacity::SIZES)
                .bind($crate::rows::QUERIED_MAX)
                .fetch_all($executor)
                .await?;
            capacity.require_room(&sizes, $plan)?;
        }
    }};
}
pub(crate) use require_memory;

impl Store {
    /// Records the machine's capacity.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn set_host_capacity(&self, new: &HostCapacity) -> Result<(), StoreError> {
        write_unversioned!(self, tx => {
            sqlx::query(SET).bind(new.budget_bytes).bind(new.reserved_bytes).bind(new.growth_mb)
                .bind(new.waiting).bind(new.changed_at).execute(&mut *tx).await?;
        });
        Ok(())
    }

    /// The machine's capacity, unless the provisioner hasn't written it lately.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn host_capacity(&self) -> Result<Option<HostCapacity>, StoreError> {
        let found: Option<HostCapacity> =
            read!(self, pool => sqlx::query_as(READ).fetch_optional(pool).await)?;
        Ok(found.filter(HostCapacity::is_valid))
    }

    /// How the machine's memory is shared out; `None` if no provisioner has ever told.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn host_memory(&self) -> Result<Option<HostMemory>, StoreError> {
        let capacity: Option<HostCapacity> =
            read!(self, pool => sqlx::query_as(READ).fetch_optional(pool).await)?;
        let Some(capacity) = capacity else { return Ok(None) };
        let sizes: Vec<SizeCount> =
            read!(self, pool => sqlx::query_as(SIZES).bind(QUERIED_MAX).fetch_all(pool).await)?;
        Ok(Some(HostMemory { capacity, promised_bytes: promised(&sizes) }))
    }

    pub(crate) async fn growth_mb(&self) -> Result<Option<i64>, StoreError> {
        Ok(self.host_capacity().await?.map(|capacity| capacity.growth_mb.max(0)))
    }
}
