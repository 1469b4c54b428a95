//! Asking for operations: who may, when, and how often.

use std::time::Duration;

use super::OperationKind;
use crate::{Cache, DesiredState, Instance, InstanceState, OperationError};

/// memcached refuses a smaller limit at run time, in MiB.
pub const RESIZE_MB_MIN: i64 = 8;
/// In MiB, as for plans.
pub const RESIZE_MB_MAX: i64 = 1 << 20;
/// Operations that a user may ask for, for each cache.
pub(super) const REQUESTS_MAX: i64 = 20;
/// Finished operations that are kept for each cache: those asked for last. No fewer than the requests that count.
pub(crate) const FINISHED_MAX: i64 = REQUESTS_MAX;
pub(crate) const REQUESTS_WITHIN: Duration = Duration::from_hours(1);
const MIB: i64 = 1 << 20;

/// An operation to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewOperation {
    /// Stop and start memcached.
    Restart,
    /// Remove all items.
    Flush,
    /// Give memcached another limit.
    Resize {
        /// The new limit in MiB.
        memory_mb: i64,
    },
    /// Stop memcached and refuse the tokens, until the cache is resumed.
    Suspend,
    /// Start it again.
    Resume,
}

impl NewOperation {
    /// What kind it is.
    #[must_use]
    pub fn kind(self) -> OperationKind {
        match self {
            Self::Restart => OperationKind::Restart,
            Self::Flush => OperationKind::Flush,
            Self::Resize { .. } => OperationKind::Resize,
            Self::Suspend => OperationKind::Suspend,
            Self::Resume => OperationKind::Resume,
        }
    }

    pub(crate) fn memory_mb(self) -> Option<i64> {
        match self {
            Self::Resize { memory_mb } => Some(memory_mb),
            Self::Restart | Self::Flush | Self::Suspend | Self::Resume => None,
        }
    }

    /// Whether the cache is suspended afterwards, if that changes.
    pub(crate) fn suspends(self) -> Option<bool> {
        match self {
            Self::Suspend => Some(true),
            Self::Resume => Some(false),
            Self::Restart | Self::Flush | Self::Resize { .. } => None,
        }
    }

    /// Checks a request. `growth_mb` is how much more memory the machine has for caches, if that is known.
    ///
    /// # Errors
    /// If an instance isn't in a state for it, or can't have that size.
    pub(crate) fn check(self, instance: &Instance, growth_mb: Option<i64>) -> Result<(), OperationError> {
        if self.suspends().is_none() && instance.desired != DesiredState::Running {
            return Err(OperationError::Suspended);
        }
        let state = instance.state();
        match self {
            Self::Restart if state == InstanceState::Pending => {
                Err(OperationError::NotRunning(state.as_str()))
            }
            // One that sleeps is woken.
            Self::Flush if !matches!(state, InstanceState::Running | InstanceState::Asleep) => {
                Err(OperationError::NotRunning(state.as_str()))
            }
            Self::Restart | Self::Flush | Self::Suspend | Self::Resume => Ok(()),
            Self::Resize { memory_mb } => {
                let item_size_max = instance.item_size_max;
                let min = memory_mb_min(item_size_max);
                let available_mb = growth_mb.map(|growth| instance.memory_mb.saturating_add(growth));
                if memory_mb < min {
                    Err(OperationError::TooSmall { min, item_size_max })
                } else if memory_mb > RESIZE_MB_MAX {
                    Err(OperationError::TooLarge { max: RESIZE_MB_MAX })
                } else {
                    match available_mb {
                        Some(available_mb) if memory_mb > available_mb.max(instance.memory_mb) => {
                            Err(OperationError::NoRoom { memory_mb, available_mb })
                        }
                        _ => Ok(()),
                    }
                }
            }
        }
    }

    pub(crate) fn detail(self, cache: &Cache, instance: &Instance) -> String {
        let owner = format!("{} of user {}", cache.name, cache.user_id);
        match self {
            Self::Restart | Self::Flush | Self::Suspend | Self::Resume => owner,
            Self::Resize { memory_mb } => format!("{owner}, {memory_mb} MB (was {} MB)", instance.memory_mb),
        }
    }
}

impl Instance {
    /// The least memory in MiB to which it can be resized.
    #[must_use]
    pub fn memory_mb_min(&self) -> i64 {
        memory_mb_min(self.item_size_max)
    }
}

/// The least memory in MiB to which a cache with such items can be resized.
pub(crate) fn memory_mb_min(item_size_max: i64) -> i64 {
    // An item has at most half of the memory, see `Spec::of` in the provisioner.
    let for_items = item_size_max.saturating_mul(2).saturating_add(MIB - 1) / MIB;
    for_items.max(RESIZE_MB_MIN)
}

/// Who has suspended a cache. Only requests to suspend or resume follow, so that it is among those that are kept.
pub(crate) const SUSPENDED_BY: &str = "SELECT requested_by FROM operations WHERE cache_id = $1 AND kind = 'suspend' \
     ORDER BY number DESC LIMIT 1";
/// `$1` asks from now on for the operation `$3`.
pub(crate) const TAKE_OVER: &str = "UPDATE operations SET requested_by = $1, revision = $2 WHERE id = $3";
pub(crate) const MEMORY_OF_PLAN: &str = "SELECT memory_mb FROM plans WHERE name = $1";
pub(super) const ASKED: &str =
    "SELECT CAST(COALESCE(SUM(requests), 0) AS BIGINT) FROM operations WHERE cache_id = $1 AND asked_at > $2";
/// However old the operation is, each change counts.
pub(crate) const CHANGE_SIZE: &str = "UPDATE operations SET memory_mb = $1, revision = $2, \
     requests = CASE WHEN asked_at > $4 THEN requests + 1 ELSE 1 END, asked_at = $5 WHERE id = $3";
pub(crate) const SET_MEMORY: &str = "UPDATE instances SET memory_mb = $1, revision = $2 WHERE cache_id = $3";
/// By the time of the last request, so that with one that counts, as many are kept as a user may ask for.
pub(crate) const DELETE_SURPLUS: &str = "DELETE FROM operations WHERE cache_id = $1 AND id IN (SELECT o.id FROM operations o \
     JOIN operation_progress p ON p.operation_id = o.id WHERE o.cache_id = $1 AND p.finished_at IS NOT NULL \
     ORDER BY o.asked_at DESC, o.number DESC LIMIT 1000 OFFSET $2)";

/// Refuses to let the owner of a cache take over its suspension from an operator: only who has suspended it may resume it.
macro_rules! require_own_suspension {
    ($store:expr, $tx:expr, $cache:expr, $new:expr) => {{
        let cache: &$crate::Cache = $cache;
        if cache.suspended && $store.acts_as_user(&cache.user_id) {
            let by: Option<String> = sqlx::query_scalar($crate::operation::request::SUSPENDED_BY)
                .bind(&cache.id)
                .fetch_optional(&mut *$tx)
                .await?;
            if $new.suspends().is_some() && by.as_deref() != Some(&*$store.actor) {
                return Err($crate::OperationError::SuspendedByOperator.into());
            }
        }
    }};
}
pub(crate) use require_own_suspension;

/// Refuses a resize to more memory than the plan has, or the cache, if its owner asks.
macro_rules! require_memory_of_plan {
    ($store:expr, $tx:expr, $cache:expr, $instance:expr, $new:expr) => {{
        let (cache, instance): (&$crate::Cache, &$crate::Instance) = ($cache, $instance);
        if let Some(memory_mb) = $new.memory_mb()
            && memory_mb > instance.memory_mb
            && $store.acts_as_user(&cache.user_id)
        {
            let of_plan: Option<i64> = sqlx::query_scalar($crate::operation::request::MEMORY_OF_PLAN)
                .bind(&cache.plan)
                .fetch_optional(&mut *$tx)
                .await?;
            let max = of_plan.unwrap_or(0).max(instance.memory_mb);
            if memory_mb > max {
                return Err($crate::OperationError::AbovePlan { max }.into());
            }
        }
    }};
}
pub(crate) use require_memory_of_plan;

/// Asks for an operation within a transaction that has taken a revision, with an entry in the audit log. Returns the
/// id of it, or of the same one that is unfinished. The caller has checked that it is allowed.
macro_rules! ask_for {
    ($store:expr, $tx:expr, $revision:expr, $cache:expr, $instance:expr, $new:expr) => {{
        let (cache, instance): (&$crate::Cache, &$crate::Instance) = ($cache, $instance);
        let new: $crate::NewOperation = $new;
        let memory_mb = new.memory_mb();
        let open: Vec<$crate::operation::Row> =
            sqlx::query_as($crate::operation::OPEN_OF_CACHE).bind(&cache.id).fetch_all(&mut *$tx).await?;
        let same = open.into_iter().find(|row| row.is(new.kind()));
        match same {
            Some(same) if same.memory_mb == memory_mb => {
                // It counts as an operator's from now on.
                if new.suspends() == Some(true) && same.requested_by != *$store.actor {
                    sqlx::query($crate::operation::request::TAKE_OVER)
                        .bind(&*$store.actor)
                        .bind($revision)
                        .bind(&same.id)
                        .execute(&mut *$tx)
                        .await?;
                    note!(
                        $store,
                        $tx,
                        "cache.suspend",
                        format!("cache {}", cache.id),
                        new.detail(cache, instance)
                    );
                }
                same.id
            }
            same => {
                let id = match same {
                    Some(same) => {
                        sqlx::query($crate::operation::request::CHANGE_SIZE)
                            .bind(memory_mb)
                            .bind($revision)
                            .bind(&same.id)
                            .bind($crate::now().saturating_sub($crate::operation::request::REQUESTS_WITHIN))
                            .bind($crate::now())
                            .execute(&mut *$tx)
                            .await?;
                        same.id
                    }
                    None => {
                        let id = $crate::id::random();
                        sqlx::query($crate::operation::kind::INSERT)
                            .bind(&id)
                            .bind(&cache.id)
                            .bind(new.kind().as_str())
                            .bind(memory_mb)
                            .bind(&*$store.actor)
                            .bind($crate::now())
                            .bind($revision)
                            .execute(&mut *$tx)
                            .await?;
                        sqlx::query($crate::operation::request::DELETE_SURPLUS)
                            .bind(&cache.id)
                            .bind($crate::operation::request::FINISHED_MAX)
                            .execute(&mut *$tx)
                            .await?;
                        id
                    }
                };
                if memory_mb.is_some() {
                    sqlx::query($crate::operation::request::SET_MEMORY)
                        .bind(memory_mb)
                        .bind($revision)
                        .bind(&cache.id)
                        .execute(&mut *$tx)
                        .await?;
                }
                let action = format!("cache.{}", new.kind().as_str());
                note!($store, $tx, &action, format!("cache {}", cache.id), new.detail(cache, instance));
                id
            }
        }
    }};
}
pub(crate) use ask_for;

/// Gives a cache the memory of its new plan: one that runs by an operation, a stopped one at its next start. Returns the
/// instance as it was, if that changes anything.
macro_rules! follow_memory {
    ($store:expr, $tx:expr, $revision:expr, $cache:expr, $memory_mb:expr, $growth:ident) => {{
        let (cache, memory_mb): (&$crate::Cache, i64) = ($cache, $memory_mb);
        let row: Option<$crate::instance::Row> =
            sqlx::query_as($crate::instance::OF_CACHE).bind(&cache.id).fetch_optional(&mut *$tx).await?;
        let instance = row.map($crate::Instance::try_from).transpose()?;
        let instance = instance.ok_or($crate::StoreError::NotFound("instance"))?;
        let fits = memory_mb >= $crate::operation::request::memory_mb_min(instance.item_size_max);
        if fits && memory_mb != instance.memory_mb {
            if instance.desired == $crate::DesiredState::Running {
                let new = $crate::NewOperation::Resize { memory_mb };
                new.check(&instance, $growth)?;
                $crate::operation::request::ask_for!($store, $tx, $revision, cache, &instance, new);
            } else {
                sqlx::query($crate::operation::request::SET_MEMORY)
                    .bind(memory_mb)
                    .bind($revision)
                    .bind(&cache.id)
                    .execute(&mut *$tx)
                    .await?;
            }
            $growth = $growth.map(|left| left - (memory_mb - instance.memory_mb).max(0));
            Some(instance)
        } else {
            None
        }
    }};
}
pub(crate) use follow_memory;
