//! What happened to a cache: operations and repairs in one list, newest first.

use store::{InstanceEvent, Operation, OperationState, Timestamp};

use super::date::Moment;
use super::operation;

/// An operation or a repair.
pub(crate) struct Activity {
    at: Timestamp,
    /// `operation` or `repair`.
    pub(crate) kind: &'static str,
    pub(crate) title: String,
    /// When it was asked for, or happened last.
    pub(crate) when: Moment,
    /// `pending`, `running`, `done` or `failed`, of an operation.
    pub(crate) state: &'static str,
    /// The same in words, with the progress.
    pub(crate) state_text: String,
    /// When it ended, of an operation.
    pub(crate) ended: Option<Moment>,
    /// What it waits for, what it did, or why it failed.
    pub(crate) message: Option<String>,
    /// Who asked for an operation; how often something was repaired.
    pub(crate) detail: String,
    /// The first time of several.
    pub(crate) since: Option<Moment>,
}

/// Both in one list. `user_id` is the user who sees it.
pub(crate) fn list(operations: &[Operation], events: &[InstanceEvent], user_id: &str) -> Vec<Activity> {
    let operations = operations.iter().map(|operation| Activity::of_operation(operation, user_id));
    let mut all: Vec<Activity> = operations.chain(events.iter().map(Activity::of_event)).collect();
    // Stable: of the same time, what was listed first stays first.
    all.sort_by_key(|activity| std::cmp::Reverse(activity.at));
    all
}

impl Activity {
    fn of_operation(it: &Operation, user_id: &str) -> Self {
        let state_text = match it.state {
            OperationState::Pending => "waiting".to_owned(),
            OperationState::Running => format!("in progress, {} %", it.progress),
            OperationState::Done => "done".to_owned(),
            OperationState::Failed => "failed".to_owned(),
        };
        Self {
            at: it.created_at,
            kind: "operation",
            title: operation::title(it),
            when: Moment::new(it.created_at),
            state: it.state.as_str(),
            state_text,
            ended: it.finished_at.map(Moment::new),
            message: it.message.clone(),
            detail: format!("Requested by {}", requester(&it.requested_by, user_id)),
            since: None,
        }
    }

    fn of_event(it: &InstanceEvent) -> Self {
        let mut title = it.text();
        // The program's name stays as it is.
        if let Some(first) = title.get_mut(..1).filter(|_| !it.cause.text().starts_with("memcached")) {
            first.make_ascii_uppercase();
        }
        let several = it.count > 1;
        Self {
            at: it.last_at,
            kind: "repair",
            title,
            when: Moment::new(it.last_at),
            state: "",
            state_text: String::new(),
            ended: None,
            message: None,
            detail: if several {
                format!("Repair, {} times in a row", it.count)
            } else {
                "Repair".to_owned()
            },
            since: several.then(|| Moment::new(it.first_at)),
        }
    }
}

/// Whom the page names for an actor of the audit log.
fn requester(actor: &str, user_id: &str) -> &'static str {
    if actor.strip_prefix("user ") == Some(user_id) { "you" } else { "the operator" }
}
