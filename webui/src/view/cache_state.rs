//! A cache's state in words, for the cache page and its event stream.

use std::time::Duration;

use serde::Serialize;
use store::{Instance, InstanceState, Operation};

use super::operation::{OperationProgress, OperationResult, is_suspended_by_user};

/// Age of a pending instance after which the page says that the start is slow.
const SLOW_START_AFTER: Duration = Duration::from_secs(10);

const SUSPENDED_BY_USER: &str =
    "You have suspended it: it is empty, and its tokens are refused. Resume it in its settings.";

/// State of a cache, as the cache page shows it and as its event stream sends it (JSON).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct CacheState {
    /// `pending`, `running`, ...
    pub(crate) state: &'static str,
    pub(crate) title: &'static str,
    pub(crate) detail: String,
    /// memcached's version, once it is known.
    pub(crate) version: Option<String>,
    /// What is being done, if something was asked for.
    pub(crate) operation: Option<OperationProgress>,
    /// What has ended a short time ago.
    pub(crate) ended: Option<OperationResult>,
}

impl CacheState {
    pub(crate) fn new(instance: &Instance) -> Self {
        let state = instance.state();
        let age = store::now().since(instance.created_at);
        let message = instance.route.as_ref().and_then(|route| route.message.clone());
        let (title, detail) = text(state, age);
        let shows_message = matches!(
            state,
            InstanceState::Pending
                | InstanceState::Running
                | InstanceState::Failed
                | InstanceState::Restarting
        );
        Self {
            state: state.as_str(),
            title,
            detail: message.filter(|_| shows_message).unwrap_or_else(|| detail.to_owned()),
            version: instance.route.as_ref().and_then(|route| route.version.clone()),
            operation: None,
            ended: None,
        }
    }

    /// Adds what was asked of the cache; `operations` are its newest, newest first.
    pub(crate) fn with_operations(mut self, instance: &Instance, operations: &[Operation]) -> Self {
        if self.state == "suspended" && is_suspended_by_user(operations, &instance.user_id) {
            SUSPENDED_BY_USER.clone_into(&mut self.detail);
        }
        self.operation = OperationProgress::of(operations);
        self.ended = OperationResult::of(operations);
        self
    }

    /// Whether the state will change soon, so that a page without scripts should reload.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self.state, "pending" | "restarting") || self.operation.is_some()
    }
}

/// Title and detail. `age` is the time since the instance was created.
fn text(state: InstanceState, age: Duration) -> (&'static str, &'static str) {
    match state {
        InstanceState::Pending if age > SLOW_START_AFTER => (
            "Pending",
            "This takes longer than usual. Your account and tokens are safe; the cache will start on its own.",
        ),
        InstanceState::Pending => ("Pending", "Your cache is starting. This takes about a second."),
        InstanceState::Running => ("Running", "Ready for your applications."),
        InstanceState::Asleep => ("Asleep", "Stopped because it was idle. It starts at the next command."),
        InstanceState::Restarting => {
            ("Restarting", "The cache is restarting. Connections stay open meanwhile.")
        }
        InstanceState::Suspended => ("Suspended", "Stopped by the operator of this service."),
        InstanceState::Failed => ("Failed", "The cache can't be started. We keep trying."),
        InstanceState::Deleting => ("Deleting", "The cache and its contents are being deleted."),
    }
}
