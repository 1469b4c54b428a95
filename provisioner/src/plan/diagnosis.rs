//! Why a plan repairs something, what it does about it, and what becomes of the contents: for the record. Pure.

use store::{DesiredState, EventAction, EventCause, Instance, InstanceState};

use super::{Action, Container, ContainerState};
use crate::limits::Limits;
use crate::spec::Spec;

/// A repair of one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Repair {
    pub(crate) cause: EventCause,
    pub(crate) action: EventAction,
    pub(crate) contents_lost: bool,
}

/// What a plan repairs; `None` if it repairs nothing: a new, resumed, suspended or deleted instance, or a mere check.
pub(crate) fn diagnose(instance: &Instance, containers: &[Container], actions: &[Action]) -> Option<Repair> {
    if instance.desired != DesiredState::Running || !has_run(instance) {
        return None;
    }
    let lost = |cause, action| Some(Repair { cause, action, contents_lost: true });
    let kept = |cause, action| Some(Repair { cause, action, contents_lost: false });
    actions.iter().find_map(|action| match action {
        Action::Create { .. } => {
            let contents_lost = !keeps_contents(instance, containers, actions);
            let cause = cause_of_replacement(instance, containers);
            Some(Repair { cause, action: EventAction::Replaced, contents_lost })
        }
        Action::Start(container) => {
            let contents_lost = !keeps_contents(instance, containers, actions);
            Some(Repair { cause: cause_of_end(container), action: EventAction::Started, contents_lost })
        }
        Action::Unpause(_) => kept(EventCause::Paused, EventAction::Unpaused),
        Action::Detach(_) => kept(EventCause::OtherNetwork, EventAction::Detached),
        Action::Attach(_) => kept(EventCause::Disconnected, EventAction::Reattached),
        Action::Probe(container) if container.state == ContainerState::Restarting => {
            lost(cause_of_end(container), EventAction::Restarted)
        }
        Action::RestoreLimits(container)
            if container.state != ContainerState::Stopped && !is_reweighted(instance, container) =>
        {
            kept(EventCause::LimitsChanged, EventAction::LimitsRestored)
        }
        _ => None,
    })
}

/// Whether a warm cache's contents are saved for its next memcached, or were before a crash. `History::lose_contents` corrects
/// it if they are lost after all.
fn keeps_contents(instance: &Instance, containers: &[Container], actions: &[Action]) -> bool {
    let has_nothing_unsaved = |c: &Container| match c.state {
        // It has never had any.
        ContainerState::Created => true,
        ContainerState::Stopped => c.ended_cleanly(),
        _ => false,
    };
    let is_held = containers.iter().any(|c| c.is_holder && c.state == ContainerState::Running)
        && containers.iter().all(|c| c.is_holder || has_nothing_unsaved(c));
    let is_warm = Spec::of(instance).is_ok_and(|spec| spec.is_warm());
    is_warm && (is_held || actions.iter().any(|action| matches!(action, Action::Keep(_))))
}

/// The repair of a container that Docker has restarted already. Someone may have asked Docker to stop it.
pub(crate) fn restarted(out_of_memory: bool, signalled: bool) -> Repair {
    let cause = match (out_of_memory, signalled) {
        (true, _) => EventCause::OutOfMemory,
        (false, true) => EventCause::Stopped,
        (false, false) => EventCause::Crashed,
    };
    Repair { cause, action: EventAction::Restarted, contents_lost: true }
}

/// Whether nothing but the CPU weight is another than the plan's: that was changed, not the container.
fn is_reweighted(instance: &Instance, container: &Container) -> bool {
    let (Ok(spec), Some(has)) = (Spec::of(instance), &container.limits) else { return false };
    let wanted = Limits { nano_cpus: has.nano_cpus, ..Limits::wanted(&spec, 0.0) };
    let reweighted = Limits { cpu_shares: wanted.cpu_shares, ..has.clone() };
    !has.has_cpu_shares(&wanted) && reweighted.are(&wanted, &has.cpuset)
}

/// Whether there was a container, whose contents may be missed.
fn has_run(instance: &Instance) -> bool {
    use InstanceState::{Failed, Restarting, Running};
    instance.route.as_ref().is_some_and(|route| {
        route.container.is_some() && matches!(route.state, Running | Restarting | Failed)
    })
}

fn cause_of_replacement(instance: &Instance, containers: &[Container]) -> EventCause {
    let containers = || containers.iter().filter(|c| !c.is_holder);
    // Perhaps in the place of the recorded one.
    if containers().any(|c| c.unrestricted) {
        return EventCause::Unrestricted;
    }
    let recorded = instance.route.as_ref().and_then(|route| route.container.as_ref());
    let Some(last) = containers().find(|c| Some(&c.id) == recorded) else {
        let removed = containers().all(|c| c.state == ContainerState::Removing);
        return if removed { EventCause::Removed } else { EventCause::Superseded };
    };
    let same_limits = Spec::of(instance).is_ok_and(|spec| spec.label() == last.spec);
    match last.state {
        ContainerState::Removing => EventCause::Removed,
        _ if last.hung => EventCause::Hung,
        _ if !same_limits => EventCause::Resized,
        ContainerState::Running => EventCause::Superseded,
        ContainerState::Created => EventCause::NotStarted,
        ContainerState::Paused => EventCause::Paused,
        ContainerState::Stopped | ContainerState::Restarting => cause_of_end(last),
    }
}

fn cause_of_end(container: &Container) -> EventCause {
    if container.ended.is_some_and(|ended| ended.out_of_memory) {
        EventCause::OutOfMemory
    } else if container.state == ContainerState::Restarting
        || container.ended.is_some_and(|ended| ended.by_itself)
    {
        EventCause::Crashed
    } else {
        // Or nobody knows: the provisioner was down.
        EventCause::Stopped
    }
}
