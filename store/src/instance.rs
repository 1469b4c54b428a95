//! Instances: the desired state of each, beside its observed state.

mod memory;
mod state;

use std::time::Duration;

use crate::db::write;
use crate::route::{Route, RouteColumns};
use crate::rows::{LISTED_MAX, QUERIED_MAX, SHORT_ROW_BYTES_MAX, read_row, read_rows, readable};
use crate::{Store, StoreError, Timestamp};

pub use memory::InstanceMemory;
pub use state::InstanceState;

/// What the owner or an operator wants of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DesiredState {
    /// memcached runs.
    Running,
    /// memcached is stopped.
    Suspended,
    /// The instance and everything of it is removed.
    Deleting,
}

impl DesiredState {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Suspended => "suspended",
            Self::Deleting => "deleting",
        }
    }
}

/// An instance: what is desired, and the route that the provisioner has recorded for it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Instance {
    /// 24 letters and digits.
    pub id: String,
    /// The cache that it serves.
    pub cache_id: String,
    /// The cache's name.
    pub cache: String,
    /// The cache's user.
    pub user_id: String,
    /// memcached's `-m`, in MiB.
    pub memory_mb: i64,
    /// Client connections.
    pub connections: i64,
    /// memcached's `-I`, in bytes.
    pub item_size_max: i64,
    /// Whether its contents are kept while it is stopped on purpose, by its plan.
    pub warm: bool,
    /// After how many seconds without a command it is put to sleep: its plan's time, or its user's if that is shorter. `None`: never.
    #[serde(rename = "sleep_after_seconds_in_effect")]
    pub effective_sleep_after_seconds: Option<i64>,
    /// Whether it sleeps and a proxy has asked for it since.
    pub wake_requested: bool,
    /// The CPU weight of its cache's plan.
    pub cpu_weight: i64,
    /// The desired state.
    pub desired: DesiredState,
    /// When it was created.
    pub created_at: Timestamp,
    /// The observed state; `None` until the provisioner has recorded one.
    pub route: Option<Route>,
}

impl Instance {
    /// Its observed state; pending until the provisioner has recorded one.
    #[must_use]
    pub fn state(&self) -> InstanceState {
        self.route.as_ref().map_or(InstanceState::Pending, |route| route.state)
    }

    /// After which time without a command it is put to sleep.
    #[must_use]
    pub fn sleep_after(&self) -> Option<Duration> {
        self.effective_sleep_after_seconds
            .map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
    }

    /// Whether it was to be deleted, and its container is gone.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        let nothing_left =
            |route: &Route| route.state == InstanceState::Deleting && route.container.is_none();
        self.desired == DesiredState::Deleting && self.route.as_ref().is_some_and(nothing_left)
    }
}

#[derive(sqlx::FromRow)]
pub(crate) struct Row {
    id: String,
    cache_id: String,
    cache: String,
    user_id: String,
    memory_mb: i64,
    connections: i64,
    item_size_max: i64,
    warm: bool,
    plan_sleep_after: Option<i64>,
    sleep_after: Option<i64>,
    wake_requested: bool,
    cpu_weight: i64,
    desired: String,
    created_at: Timestamp,
    #[sqlx(flatten)]
    route: RouteColumns,
}

impl TryFrom<Row> for Instance {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let desired = match row.desired.as_str() {
            "running" => DesiredState::Running,
            "suspended" => DesiredState::Suspended,
            "deleting" => DesiredState::Deleting,
            _ => return Err(StoreError::Corrupt("desired state")),
        };
        Ok(Self {
            id: row.id,
            cache_id: row.cache_id,
            cache: row.cache,
            user_id: row.user_id,
            memory_mb: row.memory_mb,
            connections: row.connections,
            item_size_max: row.item_size_max,
            warm: row.warm,
            // Never later than the plan says, whatever that said when the user chose.
            effective_sleep_after_seconds: [row.plan_sleep_after, row.sleep_after]
                .into_iter()
                .flatten()
                .min(),
            wake_requested: row.wake_requested,
            cpu_weight: row.cpu_weight,
            desired,
            created_at: row.created_at,
            route: row.route.into_route()?,
        })
    }
}

/// `i.` is the instance, `c.` its cache, `p.` that one's plan, `r.` its route and `w.` a request to wake it if there is one.
/// Nothing is read of the user, whose row could be joined with very many.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT i.id, i.cache_id, c.name AS cache, c.user_id, i.memory_mb, i.connections, ",
            "i.item_size_max, COALESCE(p.warm <> 0, FALSE) AS warm, ",
            "p.sleep_after_seconds AS plan_sleep_after, c.sleep_after_seconds AS sleep_after, ",
            "COALESCE(w.revision > r.revision, FALSE) AS wake_requested, ",
            "CAST(COALESCE(p.cpu_weight, 100) AS BIGINT) AS cpu_weight, ",
            "i.desired, i.created_at, r.state, r.generation, r.address, r.container, r.version, r.message, r.changed_at ",
            "FROM instances i JOIN caches c ON c.id = i.cache_id ",
            "LEFT JOIN plans p ON p.name = c.plan LEFT JOIN routes r ON r.instance_id = i.id ",
            "LEFT JOIN wake_requests w ON w.instance_id = i.id ",
            $rest
        )
    };
}

/// Instances of which something is left, or may be: see [`Instance::is_gone`].
macro_rules! not_gone {
    () => {
        "NOT (i.desired = 'deleting' AND COALESCE(r.state = 'deleting' AND r.container IS NULL, FALSE))"
    };
}

/// The oldest `$1` that aren't gone.
pub(crate) const ALL: &str = concat!(select!("WHERE "), not_gone!(), " ORDER BY i.created_at, i.id LIMIT $1");
pub(crate) const IDS: &str = concat!(
    "SELECT CAST(i.id AS TEXT) FROM instances i LEFT JOIN routes r ON r.instance_id = i.id WHERE ",
    not_gone!(),
    " LIMIT $1"
);
/// The instance of the cache `$1`.
pub(crate) const OF_CACHE: &str = select!("WHERE i.cache_id = $1");
/// The instance of the oldest cache of the user `$1`.
pub(crate) const FIRST_OF_USER: &str =
    select!("WHERE c.user_id = $1 AND c.deleted_at IS NULL ORDER BY c.created_at, c.id LIMIT 1");

impl Store {
    /// All instances that aren't gone, the 20,000 oldest ones at most, oldest first. Invalid rows are logged and skipped, so that
    /// they affect their own user only.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn instances(&self) -> Result<Vec<Instance>, StoreError> {
        let limit = i64::try_from(LISTED_MAX).unwrap_or(i64::MAX);
        let rows: Vec<Result<Row, StoreError>> =
            read_rows!(self, SHORT_ROW_BYTES_MAX, sqlx::query(ALL).bind(limit))?;
        Ok(readable("instances", rows.into_iter().map(|row| Instance::try_from(row?))))
    }

    /// An instance by id.
    ///
    /// # Errors
    /// `Corrupt` if the row is invalid.
    pub async fn instance(&self, id: &str) -> Result<Option<Instance>, StoreError> {
        let sql = select!("WHERE i.id = $1");
        let instance = self.read_instance(sql, id).await?;
        // An id is compared as the table says, which another process may have changed.
        let is_other = instance.as_ref().is_some_and(|instance| instance.id != id);
        if is_other { Err(StoreError::Corrupt("instance id")) } else { Ok(instance) }
    }

    /// The ids of all instances that aren't gone, also of invalid rows: a container of any other id is an orphan.
    ///
    /// # Errors
    /// `TooMany("instances")`: then nobody knows which containers are orphans.
    pub async fn instance_ids(&self) -> Result<Vec<String>, StoreError> {
        let ids: Vec<Result<(String,), StoreError>> =
            read_rows!(self, SHORT_ROW_BYTES_MAX, sqlx::query(IDS).bind(QUERIED_MAX))?;
        if ids.len() > LISTED_MAX {
            return Err(StoreError::TooMany("instances"));
        }
        Ok(readable("instance ids", ids.into_iter().map(|id| Ok(id?.0))))
    }

    /// Sets an instance's desired state.
    ///
    /// # Errors
    /// `NotFound("instance")`.
    pub async fn set_desired_state(&self, id: &str, desired: DesiredState) -> Result<(), StoreError> {
        let sql = "UPDATE instances SET desired = $1, revision = $2 WHERE id = $3";
        let touched = write!(self, tx, revision => sqlx::query(sql)
            .bind(desired.as_str()).bind(revision).bind(id).execute(&mut *tx).await?.rows_affected());
        if touched == 0 { Err(StoreError::NotFound("instance")) } else { Ok(()) }
    }

    /// The instance of a cache.
    ///
    /// # Errors
    /// `Corrupt` if the row is invalid.
    pub async fn instance_of_cache(&self, cache_id: &str) -> Result<Option<Instance>, StoreError> {
        self.read_instance(OF_CACHE, cache_id).await
    }

    /// The instance of a user's oldest cache.
    ///
    /// # Errors
    /// `Corrupt` if the row is invalid.
    pub async fn first_instance_of(&self, user_id: &str) -> Result<Option<Instance>, StoreError> {
        self.read_instance(FIRST_OF_USER, user_id).await
    }

    async fn read_instance(&self, sql: &'static str, id: &str) -> Result<Option<Instance>, StoreError> {
        let row: Option<Result<Row, StoreError>> =
            read_row!(self, SHORT_ROW_BYTES_MAX, sqlx::query(sql).bind(id))?;
        row.map(|row| Instance::try_from(row?)).transpose()
    }
}
