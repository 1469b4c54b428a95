//! The memory that the machine has for caches, as the provisioner shares it out.

use std::time::Duration;

use crate::db::{read, write_unversioned};
use crate::{Store, StoreError, Timestamp, now};

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

const SET: &str = "INSERT INTO host_capacity (one, budget_bytes, reserved_bytes, growth_mb, waiting, changed_at) \
     VALUES (1, $1, $2, $3, $4, $5) ON CONFLICT (one) DO UPDATE SET budget_bytes = excluded.budget_bytes, \
     reserved_bytes = excluded.reserved_bytes, growth_mb = excluded.growth_mb, waiting = excluded.waiting, \
     changed_at = excluded.changed_at";

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
        let sql = "SELECT budget_bytes, reserved_bytes, growth_mb, waiting, changed_at FROM host_capacity \
                   WHERE one = 1";
        let found: Option<HostCapacity> =
            read!(self, pool => sqlx::query_as(sql).fetch_optional(pool).await)?;
        Ok(found.filter(|capacity| now().since(capacity.changed_at) < VALID_FOR))
    }

    pub(crate) async fn growth_mb(&self) -> Result<Option<i64>, StoreError> {
        Ok(self.host_capacity().await?.map(|capacity| capacity.growth_mb.max(0)))
    }
}
