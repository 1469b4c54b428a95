//! Memory of the machine: reserved before a container is created or gets more.

use std::collections::{HashMap, HashSet};

use store::{Instance, OperationKind};

use super::contents::memory_for_copy;
use super::warm::{is_asleep, memory_asleep};
use super::{Executor, Situation, all_cpus};
use crate::capacity::memory_of;
use crate::error::Error;
use crate::limits::Limits;
use crate::plan::{self, Action, Container, ContainerState, plan};
use crate::spec::Spec;

impl Executor {
    /// The memory of containers in bytes, by instance. Those that sleep need only what they keep, and so do those of which a
    /// crash has left holders only.
    pub(crate) fn memory_in_use(&self, containers: &[Container]) -> HashMap<String, i64> {
        let is_asleep = |it: &&Container| self.known.get(&it.instance).as_ref().is_some_and(is_asleep);
        let mut bytes = memory_of(containers);
        for container in containers.iter().filter(|it| !it.is_holder).filter(is_asleep) {
            bytes.insert(container.instance.clone(), memory_asleep(container));
        }
        let own: HashSet<&str> =
            containers.iter().filter(|it| !it.is_holder).map(|it| it.instance.as_str()).collect();
        for holder in containers.iter().filter(|it| it.is_holder && !own.contains(it.instance.as_str())) {
            let held: &mut i64 = bytes.entry(holder.instance.clone()).or_default();
            *held = held.saturating_add(memory_asleep(holder));
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
        // What the copy or the new container takes, whichever is more.
        let for_copy = memory_for_copy(containers, actions, &spec);
        let needed = for_copy.unwrap_or(0).max(spec.memory_limit());
        let has = kept.or_else(|| containers.iter().filter_map(memory_limit_of).max()).unwrap_or(0);
        let id = instance.id.clone();
        let is_its_turn = for_copy.is_none() || self.take_turn(situation);
        let reserved = if is_its_turn { self.capacity.reserve(&id, needed) } else { Err(Error::CopyWaits) };
        let Err(error) = reserved else { return Ok(()) };
        situation.turn = None;
        let instance = &mut situation.instance;
        instance.memory_mb = spec.memory_mb_within(has);
        if has <= 0 || Spec::of(instance).is_err() {
            return Err(error);
        }
        self.plan_again(situation).await;
        // Of one that sleeps, others may have the memory now.
        let reserved = self.capacity.reserved_bytes(&id).unwrap_or(0);
        let starts = situation.actions.iter().any(plan::starts_container);
        if starts && reserved < has && self.capacity.reserve(&id, has).is_err() {
            return Err(error);
        }
        situation.no_room = Some(error);
        Ok(())
    }

    /// Whether it is the instance's turn to have its contents copied, from now until the work on it ends.
    fn take_turn(&self, situation: &mut Situation) -> bool {
        if situation.turn.is_none() {
            situation.turn = self.concurrency.turn_to_copy();
        }
        situation.turn.is_some()
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

/// The limit of a container's memory in bytes: the one that it has, or was created with. Of a holder, that of the container
/// whose memory it keeps.
fn memory_limit_of(container: &Container) -> Option<i64> {
    let limits = container.limits.as_ref().filter(|_| !container.is_holder);
    let has = limits.map(|limits| limits.memory).filter(|memory| *memory > 0);
    has.or_else(|| Some(Spec::from_label(&container.spec)?.memory_limit()))
}
