//! A user's caches: found, created, deleted, and operated on.

use std::time::Duration;

use identity::sleep::{self, SLEEP_AFTER_MAX_SECONDS, SLEEP_AFTER_MIN_SECONDS};
use store::{
    CREATED_MAX, Cache, CacheName, Instance, NewCache, NewOperation, Operation, OperationError, Plan,
    StoreError, User, UserState,
};

use super::{ActionError, Cause, Refusal, acting};
use crate::http::reject::PageError;
use crate::state::AppState;
use crate::view::date::{exactly, retry_in};
use crate::view::operation::refusal;

const BAD_NAME: &str = "This isn’t a name for a cache. Use 1 to 40 lower-case letters, digits and hyphens, a letter or \
                        digit first.";
/// Operations of a cache that are listed: more than the store keeps.
pub(crate) const OPERATIONS_MAX: i64 = 40;
/// When to try again after a limit that the store counts by the hour or the day.
const HOUR: Duration = Duration::from_hours(1);
const DAY_SECONDS: i64 = 24 * 3600;
/// Length of a cache's id, which has lower-case letters and digits.
const ID_LEN: usize = 24;

/// The user's cache with this id.
///
/// # Errors
///
/// [`PageError::NotFound`] if there is none, or another user has it.
pub(crate) async fn find(app: &AppState, user: &User, id: &str) -> Result<(Cache, Instance), PageError> {
    if !is_id(id) {
        return Err(PageError::NotFound);
    }
    let cache = app.store.cache(id).await?.filter(|cache| cache.user_id == user.id);
    let cache = cache.ok_or(PageError::NotFound)?;
    let instance = app.store.instance_of_cache(&cache.id).await?.ok_or(PageError::NotFound)?;
    Ok((cache, instance))
}

/// Whether a text may be the id of a cache or of an operation: others cost no look-up.
pub(crate) fn is_id(text: &str) -> bool {
    text.len() == ID_LEN && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// Creates a cache with the name that was typed. It has no token yet.
///
/// # Errors
///
/// Why it isn't created.
pub(crate) async fn create(app: &AppState, user: &User, typed: &str) -> Result<Cache, ActionError> {
    if user.state == UserState::Suspended {
        return Err(Refusal::suspended().into());
    }
    let Ok(name) = typed.trim().parse::<CacheName>() else {
        return Err(Refusal::new(Cause::Invalid("name"), BAD_NAME).into());
    };
    acquire_change(app, user)?;
    let new = NewCache { user_id: &user.id, name: &name, plan: None };
    match acting(app, user).create_cache(&new, app.config.caches_per_user).await {
        Ok(cache) => Ok(cache),
        Err(StoreError::AlreadyExists(_)) => {
            let error = format!("You already have a cache {name}. Choose another name.");
            Err(Refusal::new(Cause::AlreadyExists, error).into())
        }
        Err(StoreError::LimitReached("memory")) => {
            tracing::warn!(
                "cache refused: the machine has no memory for another (`memgate status` shows its room)"
            );
            let error =
                "This service has no memory for another cache now. Try again later, or ask its operator.";
            Err(Refusal::new(Cause::NoRoom, error).into())
        }
        Err(StoreError::LimitReached("caches a day")) => {
            let error =
                format!("You created {CREATED_MAX} caches within a day, which is the most. Try again later.");
            Err(Refusal::new(Cause::RateLimited(HOUR), error).into())
        }
        Err(StoreError::LimitReached(_)) => {
            let plan = app.store.plan(&user.plan).await?;
            let max = caches_max(app, plan.as_ref());
            let error = format!(
                "You have reached the limit of your plan ({max}). Delete a cache, or ask the operator for a larger plan."
            );
            Err(Refusal::new(Cause::LimitReached, error).into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Deletes a cache.
///
/// # Errors
///
/// Why it isn't deleted.
pub(crate) async fn delete(app: &AppState, user: &User, cache: &Cache) -> Result<(), ActionError> {
    if user.state == UserState::Suspended {
        return Err(Refusal::suspended().into());
    }
    acquire_change(app, user)?;
    match acting(app, user).delete_cache(&cache.id).await {
        Ok(_) => Ok(()),
        // It was deleted meanwhile.
        Err(StoreError::NotFound(_)) => Err(PageError::NotFound.into()),
        Err(error) => Err(error.into()),
    }
}

/// Asks for an operation on a cache, whatever it costs.
///
/// # Errors
///
/// Why it isn't done.
pub(crate) async fn request(
    app: &AppState,
    user: &User,
    instance: &Instance,
    new: NewOperation,
) -> Result<Operation, ActionError> {
    if user.state == UserState::Suspended {
        return Err(Refusal::suspended().into());
    }
    acquire_change(app, user)?;
    match acting(app, user).request_operation(&instance.cache_id, new).await {
        Ok(operation) => Ok(operation),
        Err(StoreError::Operation(error)) => {
            let cause = match error {
                OperationError::TooOften { .. } => Cause::RateLimited(HOUR),
                OperationError::TooSmall { .. }
                | OperationError::TooLarge { .. }
                | OperationError::AbovePlan { .. } => Cause::Invalid("memory_mb"),
                OperationError::UserSuspended | OperationError::SuspendedByOperator => Cause::Suspended,
                _ => Cause::WrongState,
            };
            Err(Refusal::new(cause, refusal(&error, instance)).into())
        }
        // The cache was deleted meanwhile.
        Err(StoreError::NotFound(_)) => Err(PageError::NotFound.into()),
        Err(error) => Err(error.into()),
    }
}

/// A resize, if its user may give the cache that much memory.
///
/// # Errors
///
/// Why not.
pub(crate) async fn resize(
    app: &AppState,
    cache: &Cache,
    instance: &Instance,
    memory_mb: i64,
) -> Result<NewOperation, ActionError> {
    let (min, max) = memory_range(app, cache, instance).await?;
    let error = if memory_mb == instance.memory_mb {
        format!("The cache has {memory_mb} MB already. Give another size.")
    } else if memory_mb > max {
        refusal(&OperationError::AbovePlan { max }, instance)
    } else if memory_mb < min {
        format!("The cache needs at least {min} MB. Give {min} or more.")
    } else {
        return Ok(NewOperation::Resize { memory_mb });
    };
    Err(Refusal::new(Cause::Invalid("memory_mb"), error).into())
}

/// Has a cache sleep after so many seconds without a command; `None`: after the plan's time.
///
/// # Errors
///
/// Why not.
pub(crate) async fn set_sleep_after(
    app: &AppState,
    user: &User,
    cache: &Cache,
    seconds: Option<i64>,
) -> Result<(), ActionError> {
    if user.state == UserState::Suspended {
        return Err(Refusal::suspended().into());
    }
    check_sleep_after(seconds)?;
    acquire_change(app, user)?;
    match acting(app, user).set_sleep_after(&cache.id, seconds).await {
        Ok(()) => Ok(()),
        Err(StoreError::SleepsEarlier { max }) => {
            let max = exactly(max);
            let message = format!("Your plan puts the cache to sleep after {max}. Give a shorter time.");
            Err(invalid_sleep_after(message).into())
        }
        // The cache was deleted meanwhile.
        Err(StoreError::NotFound(_)) => Err(PageError::NotFound.into()),
        Err(error) => Err(error.into()),
    }
}

/// Checks a time for [`set_sleep_after`], without the cache's plan.
///
/// # Errors
///
/// What to give instead.
pub(crate) fn check_sleep_after(seconds: Option<i64>) -> Result<(), Refusal> {
    if seconds.is_none_or(sleep::is_allowed) {
        return Ok(());
    }
    let (min, max) = (exactly(SLEEP_AFTER_MIN_SECONDS), SLEEP_AFTER_MAX_SECONDS / DAY_SECONDS);
    Err(invalid_sleep_after(format!("This time can’t be used. Give {min} to {max} days.")))
}

fn invalid_sleep_after(message: String) -> Refusal {
    Refusal::new(Cause::Invalid("sleep_after_seconds"), message)
}

/// The least and the most memory in MiB that its user may give a cache: the most is that of its plan, or what it has if that
/// is more.
pub(crate) async fn memory_range(
    app: &AppState,
    cache: &Cache,
    instance: &Instance,
) -> Result<(i64, i64), PageError> {
    let has = instance.memory_mb;
    let plan = app.store.plan(&cache.plan).await?;
    let max = plan.map_or(has, |plan| plan.memory_mb.max(has));
    Ok((instance.memory_mb_min(), max))
}

/// How many caches a user with this plan may have.
pub(crate) fn caches_max(app: &AppState, plan: Option<&Plan>) -> usize {
    let of_plan = plan.and_then(|plan| plan.caches_per_user);
    of_plan.map_or(app.config.caches_per_user, |max| usize::try_from(max).unwrap_or(0))
}

/// Counts a request for the list of live connections, or to close one, against the user's rate limits.
///
/// # Errors
///
/// The time to wait.
pub(crate) fn acquire_connections(app: &AppState, user: &User, closes: bool) -> Result<(), Duration> {
    let (limits, user) = (&app.rate_limits, &user.id);
    let acquired = if closes {
        limits.connection_closes.acquire(user).and_then(|()| limits.connection_closes_per_hour.acquire(user))
    } else {
        limits.connection_lists.acquire(user)
    };
    acquired.inspect_err(|_| app.metrics.count_limited("connections"))
}

/// Counts a change of a user's caches against the user's rate limit.
fn acquire_change(app: &AppState, user: &User) -> Result<(), Refusal> {
    app.rate_limits.cache_changes.acquire(&user.id).map_err(|wait| {
        app.metrics.count_limited("cache_changes");
        let message = format!("You changed your caches too often. Try again {}.", retry_in(wait));
        Refusal::new(Cause::RateLimited(wait), message)
    })
}
