//! Operations in words: what one costs before it is asked for, how far it is, and how it ended.

use std::time::Duration;

use serde::Serialize;
use store::{Instance, NewOperation, Operation, OperationError, OperationKind, OperationState, WARM_MB_MIN};

/// How long pages tell that an operation has succeeded.
const SUCCESS_SHOWN_FOR: Duration = Duration::from_mins(1);
/// How long pages tell that one has failed.
const FAILURE_SHOWN_FOR: Duration = Duration::from_mins(10);

/// An unfinished operation (JSON).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct OperationProgress {
    /// `restart`, ...
    pub(crate) kind: &'static str,
    pub(crate) title: String,
    /// In percent.
    pub(crate) progress: i64,
    /// What it waits for, or what is left to do.
    pub(crate) message: Option<String>,
}

/// How an operation has ended (JSON).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct OperationResult {
    pub(crate) id: String,
    pub(crate) kind: &'static str,
    /// `done` or `failed`.
    pub(crate) state: &'static str,
    pub(crate) text: String,
}

/// What an operation costs, and what becomes of the contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(crate) text: &'static str,
    pub(crate) contents: &'static str,
    /// Whether contents are lost, so that the user has to confirm it.
    pub(crate) is_destructive: bool,
}

const LOST: &str = "All contents are lost.";
const KEPT: &str = "The contents are kept.";

impl OperationProgress {
    /// Of the operation that is carried out, or of the oldest that waits. `operations` are ordered newest first.
    pub(crate) fn of(operations: &[Operation]) -> Option<Self> {
        let open = || operations.iter().rev().filter(|operation| !operation.state.is_finished());
        let current = open().find(|operation| operation.state == OperationState::Running);
        let operation = current.or_else(|| open().next())?;
        Some(Self {
            kind: operation.kind.as_str(),
            title: doing(operation),
            progress: operation.progress,
            message: operation.message.clone(),
        })
    }
}

impl OperationResult {
    /// Of the operation that has ended last, if that was a short time ago.
    pub(crate) fn of(operations: &[Operation]) -> Option<Self> {
        let ended = operations.iter().rev().filter_map(|operation| Some((operation.finished_at?, operation)));
        let (at, operation) = ended.max_by_key(|(at, _)| *at)?;
        let failed = operation.state == OperationState::Failed;
        let shown_for = if failed { FAILURE_SHOWN_FOR } else { SUCCESS_SHOWN_FOR };
        if store::now().since(at) > shown_for {
            return None;
        }
        let how = if failed { "failed" } else { "done" };
        let message = operation.message.as_ref().map_or_else(String::new, |message| format!(": {message}"));
        Some(Self {
            id: operation.id.clone(),
            kind: operation.kind.as_str(),
            state: operation.state.as_str(),
            text: format!("{} {how}{message}.", title(operation)),
        })
    }
}

impl Cost {
    pub(crate) fn of(new: NewOperation, instance: &Instance) -> Self {
        let is_warm = is_warm(instance, instance.memory_mb);
        match new {
            NewOperation::Restart if is_warm => Self::kept(
                "memcached stops and starts again. Requests wait for 2 to 4 seconds. Connections, address and tokens stay.",
                "The contents are kept, if the plan was warm already when the cache last started.",
            ),
            NewOperation::Restart => Self::lost(
                "memcached stops and starts again. Requests wait for about a second, and fail if it takes much longer. Connections, address and tokens stay.",
            ),
            NewOperation::Flush => Self::lost(
                "Every item is removed at once, without a restart. Connections, address and tokens stay.",
            ),
            NewOperation::Suspend => Self::lost(
                "memcached stops. Connections close within a second, and all tokens of the cache are refused until you \
                 resume it. Its memory is free for others meanwhile, so that it may have to wait for room when you resume it.",
            ),
            NewOperation::Resume => Self::kept(
                "The cache starts, which takes about a second, and its tokens work again.",
                "It starts empty.",
            ),
            NewOperation::Resize { memory_mb } => match (is_warm, self::is_warm(instance, memory_mb)) {
                (false, false) if memory_mb >= instance.memory_mb => {
                    Self::kept("memcached gets the memory within seconds, without a restart.", KEPT)
                }
                (false, false) => Self::kept(
                    "memcached gives memory back page by page, without a restart. That may take some minutes.",
                    "The items that fit are kept, the others are evicted.",
                ),
                (true, true) if memory_mb >= instance.memory_mb => Self::kept(
                    "The cache restarts and its contents are copied. Requests wait for about 3 seconds; with 2 GB for \
                     about 10.",
                    KEPT,
                ),
                (true, _) => Self::lost(
                    "The cache restarts with less memory, because a warm cache can’t give back a part of it. Requests wait \
                     for some seconds.",
                ),
                (false, true) => Self::lost(
                    "The cache restarts once, because from this size on it is warm: later restarts keep its contents.",
                ),
            },
        }
    }

    fn lost(text: &'static str) -> Self {
        Self { text, contents: LOST, is_destructive: true }
    }

    fn kept(text: &'static str, contents: &'static str) -> Self {
        Self { text, contents, is_destructive: false }
    }
}

/// Whether a cache with this much memory keeps its contents over a restart.
pub(crate) fn is_warm(instance: &Instance, memory_mb: i64) -> bool {
    instance.warm && memory_mb >= WARM_MB_MIN
}

/// Whether the user has suspended the cache, and no operator. `operations` are ordered newest first.
pub(crate) fn is_suspended_by_user(operations: &[Operation], user_id: &str) -> bool {
    let suspension = operations.iter().find(|operation| operation.kind == OperationKind::Suspend);
    suspension.is_some_and(|it| it.requested_by.strip_prefix("user ") == Some(user_id))
}

/// `Restart`, `Resize to 128 MB`, ...
pub(crate) fn title(operation: &Operation) -> String {
    let name = name(operation.kind);
    operation.memory_mb.map_or_else(|| name.to_owned(), |memory| format!("{name} to {memory} MB"))
}

/// `Restart`, `Flush`, ...
pub(crate) fn name(kind: OperationKind) -> &'static str {
    match kind {
        OperationKind::Restart => "Restart",
        OperationKind::Flush => "Flush",
        OperationKind::Resize => "Resize",
        OperationKind::Suspend => "Suspension",
        OperationKind::Resume => "Resumption",
        OperationKind::Delete => "Deletion",
    }
}

/// Why an operation is refused, and what helps its cache's owner.
pub(crate) fn refusal(error: &OperationError, instance: &Instance) -> String {
    match error {
        OperationError::Suspended => "This cache is suspended. Resume it first.".into(),
        OperationError::UserSuspended => "Your account is suspended. Ask the operator of this service.".into(),
        OperationError::SuspendedByOperator => {
            "The operator of this service has suspended this cache. Ask the operator to resume it.".into()
        }
        OperationError::NotRunning(state) => {
            format!("The cache isn’t running now ({state}). Wait until it is, and try again.")
        }
        OperationError::TooSmall { min, .. } => format!("The cache needs at least {min} MB. Give {min} or more."),
        OperationError::TooLarge { max } => format!("A cache has at most {max} MB. Give less."),
        OperationError::AbovePlan { max } => {
            format!("Your plan has at most {max} MB. Give {max} or less, or ask the operator for a larger plan.")
        }
        OperationError::NoRoom { available_mb, .. } if *available_mb > instance.memory_mb => format!(
            "This service has no room for more than {available_mb} MB now. Give {available_mb} or less, or ask the \
             operator for more room."
        ),
        OperationError::NoRoom { .. } => {
            "This service has no room for a larger cache now. Try again later, or ask the operator for more room.".into()
        }
        OperationError::TooOften { max } => {
            format!("You asked for {max} operations on this cache within an hour, which is the most. Try again later.")
        }
    }
}

fn doing(operation: &Operation) -> String {
    let doing = match operation.kind {
        OperationKind::Restart => "Restarting",
        OperationKind::Flush => "Flushing",
        OperationKind::Resize => "Resizing",
        OperationKind::Suspend => "Suspending",
        OperationKind::Resume => "Resuming",
        OperationKind::Delete => "Deleting",
    };
    operation.memory_mb.map_or_else(|| doing.to_owned(), |memory| format!("{doing} to {memory} MB"))
}

#[cfg(test)]
mod tests;
