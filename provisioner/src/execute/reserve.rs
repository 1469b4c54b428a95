//! Memory of the machine: reserved before a container is created or gets more.

use std::collections::HashMap;

use store::{Instance, OperationKind};

use super::warm::{is_asleep, memory_asleep, memory_for_copy};
use super::{Executor, Situation, all_cpus};
use crate::capacity::memory_of;
use crate::error::Error;
use crate::limits::Limits;
use crate::plan::{Action, Container, ContainerState, plan};
use crate::spec::Spec;

impl Executor {
    /// The memory of containers in bytes, by instance. Those that sleep need only what they keep.
    pub(crate) fn memory_in_use(&self, containers: &[Container]) -> HashMap<String, i64> {
        let is_asleep = |it: &&Container| self.known.get(&it.instance).as_ref().is_some_and(is_asleep);
        let mut bytes = memory_of(containers);
        for container in containers.iter().filter(|it| !it.is_holder).filter(is_asleep) {
            bytes.insert(container.instance.clone(), memory_asleep(container));
        }
        bytes
    }

    /// Reserves memory for the container that a plan creates or gives more, before the plan changes anything. An instance
    /// that can't get more keeps what it has, and goes on with that.
    pub(super) async fn reserve_memory(&self, situation: &mut Situation) -> Result<(), Error> {
        let Situation { instance, containers, actions, .. } = &*situation;
        let creates = actions.iter().any(|action| matches!(action, Action::Create { .. }));
        let kept = actions.iter().find_map(|action| match action {
            Action::Probe(container) => memory_limit_of(container),
            _ => None,
        });
        let wakes = kept.is_some_and(|kept| self.capacity.reserved_bytes(&instance.id).unwrap_or(0) < kept)
            && actions.iter().any(|action| matches!(action, Action::Start(_) | Action::Restart(_)));
        let spec = match (Spec::of(instance), kept) {
            (Ok(spec), _) if wakes => spec,
            (Ok(spec), Some(kept)) if spec.memory_limit() > kept => spec,
            (Ok(spec), None) if creates => spec,
            (Err(why), _) if creates => return Err(Error::InvalidInstance(why)),
            _ => {
                self.capacity.settle(&instance.id, kept);
                return Ok(());
            }
        };
        let in_use = async { Ok(self.memory_in_use(&self.docker.containers().await?)) };
        self.capacity.count_existing(in_use).await?;
        // It runs again without the container that a crash came after: its memory is in use already.
        let copied = containers.iter().filter(|it| creates && is_copied(it, &spec)).map(memory_for_copy);
        let needed = copied.fold(spec.memory_limit(), i64::max);
        let Err(error) = self.capacity.reserve(&instance.id, needed) else { return Ok(()) };
        // Of one that sleeps, others may have the memory now.
        let reserved = self.capacity.reserved_bytes(&instance.id).unwrap_or(0);
        let has = kept.or_else(|| containers.iter().filter_map(memory_limit_of).max());
        let has = has.filter(|has| reserved >= *has);
        let smaller = Instance { memory_mb: spec.memory_mb_within(has.unwrap_or(0)), ..instance.clone() };
        if wakes || has.is_none() || Spec::of(&smaller).is_err() {
            return Err(error);
        }
        situation.instance = smaller;
        situation.no_room = Some(error);
        self.plan_again(situation).await;
        Ok(())
    }

    /// Plans for the memory that the container has.
    async fn plan_again(&self, situation: &mut Situation) {
        situation.asked.retain(|operation| operation.kind != OperationKind::Resize);
        let Situation { instance, asked, containers, failures, .. } = &mut *situation;
        self.assess(containers, |_| Spec::of(instance).ok()).await;
        situation.actions = plan(instance, asked, containers, *failures);
    }

    /// Gives a container the limits back that its instance is to have.
    pub(super) async fn restore_limits(
        &self,
        instance: &Instance,
        container: &Container,
    ) -> Result<(), Error> {
        let (Ok(spec), Some(has)) = (Spec::of(instance), &container.limits) else { return Ok(()) };
        let (wanted, cpus) = (Limits::wanted(&spec, self.cpus), all_cpus());
        if container.state == ContainerState::Stopped {
            self.docker.set_limits(&container.id, (has, &wanted), &cpus).await?;
        } else {
            let raised = super::resize::raised(has, &wanted);
            if !has.are(&raised, &cpus) {
                self.docker.set_limits(&container.id, (has, &raised), &cpus).await?;
            }
            if !self.lower_limits(container, (&raised, &wanted), &spec).await? {
                return Ok(());
            }
        }
        let after = self.docker.inspect(container).await?;
        if after.limits.is_some_and(|limits| !limits.are(&wanted, &cpus)) {
            tracing::warn!(
                container = container.id,
                "Docker doesn't restore the container's limits: left as they are"
            );
            self.observations.stubborn.lock().await.insert(container.id.clone());
        }
        Ok(())
    }
}

/// Whether what a warm container has is copied to a larger volume for the next one.
fn is_copied(container: &Container, spec: &Spec) -> bool {
    let has = Spec::from_label(&container.spec);
    has.is_some_and(|has| spec.keeps_contents_of(&has) && has.memory_mb() < spec.memory_mb())
}

/// The limit of a container's memory in bytes: the one that it has, or was created with.
fn memory_limit_of(container: &Container) -> Option<i64> {
    let has = container.limits.as_ref().map(|limits| limits.memory).filter(|memory| *memory > 0);
    has.or_else(|| Some(Spec::from_label(&container.spec)?.memory_limit()))
}
