//! Memory of the machine: reserved before a container is created or gets more.

use std::collections::{HashMap, HashSet};

use store::{Instance, Operation, OperationKind, OperationState};

use super::contents::{CurrentMemory, memory_for_copy, memory_limit_of};
use super::warm::{is_asleep, memory_asleep};
use super::{Executor, Situation, all_cpus};
use crate::capacity::memory_of;
use crate::error::Error;
use crate::limits::Limits;
use crate::plan::{self, Action, Container, ContainerState, plan};
use crate::spec::Spec;

/// What those are told who asked for more memory for a cache whose contents can't be copied.
const KEEPS_OLD_SIZE: &str = "its contents couldn't be copied to more memory: it keeps its old size, and its contents; see the \
     operator's log, and ask for more again at a quiet time";

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
        let kept_container = actions.iter().find_map(|action| match action {
            Action::Probe(container) => Some(container),
            _ => None,
        });
        let kept = kept_container.and_then(memory_limit_of);
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
        let has = CurrentMemory::of(containers, kept_container, &spec);
        let id = instance.id.clone();
        let reserved = match for_copy {
            Some(_) => self.take_turn(situation, &spec).and_then(|()| self.capacity.reserve(&id, needed)),
            None => self.capacity.reserve(&id, needed),
        };
        let Err(error) = reserved else { return Ok(()) };
        situation.turn = None;
        let Some(has) = has else { return Err(error) };
        situation.instance.memory_mb = has.memory_mb;
        if Spec::of(&situation.instance).is_err() {
            return Err(error);
        }
        let resizes = self.plan_again(situation).await;
        // Of one that sleeps, others may have the memory now.
        let reserved = self.capacity.reserved_bytes(&id).unwrap_or(0);
        let starts = situation.actions.iter().any(plan::starts_container);
        if starts && reserved < has.limit {
            self.capacity.reserve(&id, has.limit)?;
        }
        if matches!(error, Error::NotCopied(_)) {
            let abandoned = resizes.into_iter().map(|resize| Action::Abandon(resize, KEEPS_OLD_SIZE));
            situation.actions.extend(abandoned);
        }
        situation.no_room = Some(error);
        Ok(())
    }

    /// Takes the instance's turn to have its contents copied, from now until the work on it ends.
    ///
    /// # Errors
    /// [`Error::CopyWaits`] if it is another one's turn, and [`Error::NotCopied`] if copies have failed too often.
    fn take_turn(&self, situation: &mut Situation, spec: &Spec) -> Result<(), Error> {
        let copies = &self.observations.copies;
        let is_new = |it: &Operation| it.kind == OperationKind::Resize && it.state == OperationState::Pending;
        if situation.asked.iter().any(is_new) {
            copies.forget(&situation.instance.id);
        }
        if copies.has_failed(&situation.instance.id, spec.memory_mb()) {
            return Err(Error::NotCopied("copies have failed too often".to_owned()));
        }
        if situation.turn.is_none() {
            situation.turn = self.concurrency.turn_to_copy();
        }
        if situation.turn.is_some() { Ok(()) } else { Err(Error::CopyWaits) }
    }

    /// Plans for the memory that the container has. Returns the resizes that were asked for.
    async fn plan_again(&self, situation: &mut Situation) -> Vec<Operation> {
        let is_resize = |operation: &mut Operation| operation.kind == OperationKind::Resize;
        let resizes = situation.asked.extract_if(.., is_resize).collect();
        let Situation { instance, asked, containers, failures, .. } = &mut *situation;
        self.assess(containers, |_| Spec::of(instance).ok()).await;
        situation.actions = plan(instance, asked, containers, *failures);
        resizes
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
