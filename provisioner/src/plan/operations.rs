//! What users and operators have asked of an instance, as steps of its plan. Pure.
//!
//! Each operation goes on after a crash at any step: one that isn't finished is planned again. A restart notes first
//! when the container was started, so that it isn't done twice; a flush and a resize do no harm twice.

use store::{Operation, OperationKind, OperationState};

use super::{Action, Container, ContainerState};
use crate::spec::Spec;

/// The unfinished operations of an instance.
pub(super) struct Requests<'a> {
    operations: &'a [Operation],
    /// The limits that it is to have.
    spec: &'a Spec,
}

impl<'a> Requests<'a> {
    pub(super) fn new(operations: &'a [Operation], spec: &'a Spec) -> Self {
        Self { operations, spec }
    }

    /// Begins what hasn't begun, given the container that runs now.
    pub(super) fn begin(&self, container: Option<&Container>) -> Vec<Action> {
        let started_at = container.and_then(|c| c.started_at.clone()).unwrap_or_default();
        let begin = |operation: &Operation| {
            let checkpoint = match operation.kind {
                OperationKind::Restart => started_at.clone(),
                _ => String::new(),
            };
            Action::Begin(operation.clone(), checkpoint)
        };
        let pending = |operation: &&Operation| operation.state == OperationState::Pending;
        self.operations.iter().filter(pending).map(begin).collect()
    }

    /// Whether a restart was asked for, and the container hasn't been started since it began.
    pub(super) fn is_to_restart(&self, container: &Container) -> bool {
        self.of_kind(OperationKind::Restart).is_some_and(|restart| {
            restart.state == OperationState::Pending
                || container.state != ContainerState::Running
                || restart.checkpoint == container.started_at
        })
    }

    /// Whether the container was started with another memory than it is to have.
    pub(super) fn is_resized(&self, container: &Container) -> bool {
        container.spec != self.spec.label()
    }

    /// Whether a container that is replaced for a restart or for other limits has contents that the next one can start with.
    pub(super) fn saves_contents(&self, c: &Container) -> bool {
        let keeps = || Spec::from_label(&c.spec).is_some_and(|has| self.spec.keeps_contents_of(&has));
        self.stops(c) && keeps()
    }

    /// Whether a container that is replaced on purpose is stopped before it is removed: proxies hold requests by then, and
    /// memcached answers what it has.
    pub(super) fn stops(&self, c: &Container) -> bool {
        let is_wanted = self.is_to_restart(c) || self.is_resized(c);
        c.state == ContainerState::Running && !c.hung && is_wanted
    }

    /// Whether a stopped container would start without being warm although it is to be, or the other way round.
    pub(super) fn warms(&self, container: &Container) -> bool {
        Spec::from_label(&container.spec).is_some_and(|has| has.is_warm() != self.spec.is_warm())
    }

    /// Whether its memcached may have another memory than it is to have: it starts with the one of its container's
    /// arguments.
    pub(super) fn may_resize(&self, container: &Container) -> bool {
        self.is_resized(container) || self.of_kind(OperationKind::Resize).is_some()
    }

    /// Flushes, unless a restart has left nothing.
    pub(super) fn flush(&self, container: &Container) -> Option<Action> {
        self.of_kind(OperationKind::Flush).map(|_| Action::Flush(container.clone()))
    }

    pub(super) fn finish(&self) -> Vec<Action> {
        self.operations.iter().map(|operation| Action::Finish(operation.clone())).collect()
    }

    fn of_kind(&self, kind: OperationKind) -> Option<&Operation> {
        self.operations.iter().find(|operation| operation.kind == kind)
    }
}

/// The steps of removing an instance's containers: they carry out operations of one kind, and the others can't be done any
/// more.
pub(super) fn carried_out_by(
    operations: &[Operation],
    kind: OperationKind,
    removal: Vec<Action>,
    why: &'static str,
) -> Vec<Action> {
    let (done, void): (Vec<_>, Vec<_>) =
        operations.iter().cloned().partition(|operation| operation.kind == kind);
    let pending = done.iter().filter(|operation| operation.state == OperationState::Pending);
    let begun = pending.map(|operation| Action::Begin(operation.clone(), String::new()));
    let finished = done.iter().map(|operation| Action::Finish(operation.clone()));
    abandon(&void, why).into_iter().chain(begun).chain(removal).chain(finished).collect()
}

/// Ends operations that can't be done any more.
pub(super) fn abandon(operations: &[Operation], why: &'static str) -> Vec<Action> {
    operations.iter().map(|operation| Action::Abandon(operation.clone(), why)).collect()
}

#[cfg(test)]
pub(super) mod tests;
