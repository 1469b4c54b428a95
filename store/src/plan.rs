//! Plans: resource limits of a cache. Written by operators.

use crate::audit::note;
use crate::db::{read, write};
use crate::rows::{LISTED_MAX, QUERIED_MAX, SHORT_ROW_BYTES_MAX, complete, read_rows, readable};
use crate::{DesiredState, Instance, OperationError, Store, StoreError};

/// Resource limits of a cache.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow, serde::Serialize)]
pub struct Plan {
    /// Its name.
    pub name: String,
    /// memcached's `-m`, in MiB.
    pub memory_mb: i64,
    /// Client connections.
    pub connections: i64,
    /// memcached's `-I`, in bytes.
    pub item_size_max: i64,
    /// Operations per second, enforced by each proxy on its own; `None` is no limit.
    pub operations_per_second: Option<i64>,
    /// Bytes of requests and replies per second, likewise.
    pub bytes_per_second: Option<i64>,
    /// Whether a cache keeps its contents while its memcached is stopped on purpose.
    pub warm: bool,
    /// Seconds without a command after which a cache is put to sleep; `None` is never.
    pub sleep_after_seconds: Option<i64>,
    /// The share of the CPU that its caches get while others want it too, in parts of [`CPU_WEIGHT_DEFAULT`].
    pub cpu_weight: i64,
    /// Caches that a user with this plan may have; `None` leaves that to the setting.
    pub caches_per_user: Option<i64>,
    /// What users are told that it costs: free text, for people only.
    pub price_label: Option<String>,
}

/// The weight of a plan that was given none: Docker's own for every container.
pub const CPU_WEIGHT_DEFAULT: i64 = 100;
/// The weights that control groups know.
pub const CPU_WEIGHTS: std::ops::RangeInclusive<i64> = 1..=10_000;

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let limit = |limit: Option<i64>| limit.map_or("no limit".to_owned(), |limit| limit.to_string());
        std::write!(
            f,
            "{} MB, {} connections, items of {} bytes, operations/s: {}, bytes/s: {}, CPU weight {}, warm: {}, sleep after s: {}",
            self.memory_mb,
            self.connections,
            self.item_size_max,
            limit(self.operations_per_second),
            limit(self.bytes_per_second),
            self.cpu_weight,
            if self.warm { "yes" } else { "no" },
            self.sleep_after_seconds.map_or("never".to_owned(), |seconds| seconds.to_string()),
        )?;
        if let Some(caches) = self.caches_per_user {
            std::write!(f, ", {caches} caches per user")?;
        }
        self.price_label.as_ref().map_or(Ok(()), |label| std::write!(f, ", price: {label}"))
    }
}

impl Plan {
    /// Checks that a memcached of this size can hold an item of this size.
    ///
    /// # Errors
    /// `Operation(TooSmall)`.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let item_size_max = self.item_size_max;
        // As in the provisioner: an item has at most half of the memory.
        let for_items = item_size_max.saturating_mul(2);
        if for_items <= self.memory_mb.saturating_mul(1 << 20) {
            return Ok(());
        }
        let min = for_items.saturating_add((1 << 20) - 1) >> 20;
        Err(OperationError::TooSmall { min, item_size_max }.into())
    }

    /// Whether an instance that runs, or sleeps, loses its contents by getting this plan and its other memory: its memcached can
    /// neither give back a part of a warm cache's memory nor keep the contents for one that isn't warm.
    pub(crate) fn empties(&self, instance: &Instance) -> bool {
        let is_warm = instance.warm && instance.memory_mb >= WARM_MB_MIN;
        let keeps_contents = self.warm && self.memory_mb > instance.memory_mb;
        is_warm && instance.desired == DesiredState::Running && !keeps_contents
    }
}

/// MiB that a warm cache has at least: its memcached begins with a page of 1 MiB for each size of items.
pub const WARM_MB_MIN: i64 = 64;

/// The plan that sign-up and new plans start from; it can't be deleted.
pub const DEFAULT_PLAN: &str = "default";

const USES: &str = "SELECT (SELECT COUNT(*) FROM users WHERE plan = $1 AND deleted_at IS NULL) \
                    + (SELECT COUNT(*) FROM caches WHERE plan = $1 AND deleted_at IS NULL)";
/// Rows of deleted users and caches stay, and refer to a plan.
const FORGET: [&str; 2] = [
    "UPDATE users SET plan = 'default' WHERE plan = $1 AND deleted_at IS NOT NULL",
    "UPDATE caches SET plan = 'default' WHERE plan = $1 AND deleted_at IS NOT NULL",
];
const OTHER_SIZE: &str = "SELECT c.id FROM caches c JOIN plans p ON p.name = c.plan \
     JOIN instances i ON i.cache_id = c.id WHERE p.name = $1 AND c.deleted_at IS NULL \
     AND (i.memory_mb <> p.memory_mb OR i.connections <> p.connections OR i.item_size_max <> p.item_size_max) \
     ORDER BY c.created_at, c.id LIMIT $2";

/// All columns of a plan but its revision.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT name, memory_mb, connections, item_size_max, operations_per_second, bytes_per_second, ",
            "warm <> 0 AS warm, sleep_after_seconds, cpu_weight, caches_per_user, price_label FROM plans ",
            $rest
        )
    };
}

/// Binds all columns of a plan but its name, and a revision, in the order of [`INSERT`] and [`UPDATE`].
macro_rules! bind_plan {
    ($sql:expr, $plan:expr, $revision:expr) => {
        sqlx::query($sql)
            .bind($plan.memory_mb)
            .bind($plan.connections)
            .bind($plan.item_size_max)
            .bind($plan.operations_per_second)
            .bind($plan.bytes_per_second)
            .bind(i64::from($plan.warm))
            .bind($plan.sleep_after_seconds)
            .bind($plan.cpu_weight)
            .bind($plan.caches_per_user)
            .bind(&$plan.price_label)
            .bind($revision)
            .bind(&$plan.name)
    };
}
pub(crate) use bind_plan;

pub(crate) const BY_NAME: &str = select!("WHERE name = $1");
const INSERT: &str = "INSERT INTO plans (memory_mb, connections, item_size_max, operations_per_second, bytes_per_second, \
     warm, sleep_after_seconds, cpu_weight, caches_per_user, price_label, revision, name) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";
pub(crate) const UPDATE: &str = "UPDATE plans SET memory_mb = $1, connections = $2, item_size_max = $3, operations_per_second = $4, \
     bytes_per_second = $5, warm = $6, sleep_after_seconds = $7, cpu_weight = $8, caches_per_user = $9, price_label = $10, \
     revision = $11 WHERE name = $12";

impl Store {
    /// All plans, ordered by name, the first 20,000 at most. Invalid rows are logged and skipped.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn plans(&self) -> Result<Vec<Plan>, StoreError> {
        let sql = select!("ORDER BY name LIMIT $1");
        let limit = i64::try_from(LISTED_MAX).unwrap_or(i64::MAX);
        Ok(readable("plans", read_rows!(self, SHORT_ROW_BYTES_MAX, sqlx::query(sql).bind(limit))?))
    }

    /// A plan by name.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn plan(&self, name: &str) -> Result<Option<Plan>, StoreError> {
        Ok(read!(self, pool => sqlx::query_as(BY_NAME).bind(name).fetch_optional(pool).await)?)
    }

    /// Creates a plan; the caller has validated its numbers and texts.
    ///
    /// # Errors
    /// `AlreadyExists("plan's name")`, `Operation(TooSmall)`.
    pub async fn create_plan(&self, plan: &Plan) -> Result<(), StoreError> {
        plan.check()?;
        write!(self, tx, revision => {
            bind_plan!(INSERT, plan, revision)
                .execute(&mut *tx).await.map_err(|error| StoreError::unique(error, "plan's name"))?;
            note!(self, tx, "plan.create", format!("plan {}", plan.name), plan.to_string());
        });
        Ok(())
    }

    /// Deletes a plan that no user and no cache has.
    ///
    /// # Errors
    /// `NotFound("plan")`, `InUse("plan")`; the default plan is always in use.
    pub async fn delete_plan(&self, name: &str) -> Result<(), StoreError> {
        write!(self, tx, _revision => {
            let plan: Option<Plan> = sqlx::query_as(BY_NAME).bind(name).fetch_optional(&mut *tx).await?;
            let plan = plan.ok_or(StoreError::NotFound("plan"))?;
            let uses: i64 = sqlx::query_scalar(USES).bind(name).fetch_one(&mut *tx).await?;
            if uses > 0 || name == DEFAULT_PLAN {
                return Err(StoreError::InUse("plan"));
            }
            for forget in FORGET {
                sqlx::query(forget).bind(name).execute(&mut *tx).await?;
            }
            sqlx::query("DELETE FROM plans WHERE name = $1").bind(name).execute(&mut *tx).await?;
            note!(self, tx, "plan.delete", format!("plan {name}"), plan.to_string());
        });
        Ok(())
    }

    /// How many users and caches have a plan.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn plan_uses(&self, name: &str) -> Result<i64, StoreError> {
        Ok(read!(self, pool => sqlx::query_scalar(USES).bind(name).fetch_one(pool).await)?)
    }

    /// The ids of caches whose instances have another memory, item size or number of connections than their plan: they
    /// were created before the plan, or their plan, was changed.
    ///
    /// # Errors
    /// `TooMany("caches")`.
    pub async fn caches_of_other_size(&self, plan: &str) -> Result<Vec<String>, StoreError> {
        let rows: Vec<Result<(String,), StoreError>> =
            read_rows!(self, SHORT_ROW_BYTES_MAX, sqlx::query(OTHER_SIZE).bind(plan).bind(QUERIED_MAX))?;
        Ok(complete("caches", rows)?.into_iter().map(|(id,)| id).collect())
    }
}
