//! Caches that are stopped on purpose: those that sleep, because nobody uses them, until the next command or operation; and what
//! becomes of warm contents. Pure.
//!
//! The state is recorded before the container is stopped, so that from then on proxies hold requests and ask for it to be
//! woken. What a crash leaves of that is planned again.

use store::{Instance, InstanceState};

use super::{Action, Container, ContainerState, set_state};
use crate::spec::Spec;

/// The steps of an instance that sleeps or begins to; `None` if it is to run. Operations wake it.
pub(super) fn plan_sleep(
    instance: &Instance,
    has_operations: bool,
    containers: &[Container],
) -> Option<Vec<Action>> {
    let route = instance.route.as_ref().filter(|_| !has_operations)?;
    match route.state {
        InstanceState::Asleep if !instance.wake_requested => Some(containers.iter().flat_map(stop).collect()),
        InstanceState::Running if instance.effective_sleep_after_seconds.is_some() => {
            let is_idle = |c: &&Container| {
                c.idle && c.state == ContainerState::Running && route.container.as_ref() == Some(&c.id)
            };
            let idle = containers.iter().find(is_idle)?;
            let mut steps: Vec<Action> = keep(idle).into_iter().collect();
            steps.extend(set_state(instance, InstanceState::Asleep, None));
            steps.push(Action::Sleep(idle.clone()));
            Some(steps)
        }
        _ => None,
    }
}

/// Keeps what a warm cache's container has while it is stopped.
pub(super) fn keep(c: &Container) -> Option<Action> {
    let is_warm = Spec::from_label(&c.spec).is_some_and(|spec| spec.is_warm());
    (is_warm && c.state == ContainerState::Running).then(|| Action::Keep(c.clone()))
}

/// Stops a container that runs although its instance sleeps.
fn stop(container: &Container) -> Vec<Action> {
    match container.state {
        ContainerState::Running | ContainerState::Restarting => vec![Action::Stop(container.clone())],
        // Docker stops no container that is paused.
        ContainerState::Paused => {
            vec![Action::Unpause(container.clone()), Action::Stop(container.clone())]
        }
        ContainerState::Created | ContainerState::Stopped | ContainerState::Removing => vec![],
    }
}

#[cfg(test)]
mod tests;
