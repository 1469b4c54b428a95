//! The contents of a warm cache, for its next container: if that has more memory they are copied, one cache's at a time.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::warm::{Stopped, memory_asleep};
use super::{Executor, Situation};
use crate::docker::NewHolder;
use crate::error::Error;
use crate::liveness::take_back_timeout;
use crate::names::MemorySlot;
use crate::plan::{Action, Container, ContainerState};
use crate::spec::Spec;

/// How copies of contents went, by instance, until the work on that succeeds.
#[derive(Debug, Default)]
pub(crate) struct Copies(Mutex<HashMap<String, Copied>>);

#[derive(Debug, Default)]
struct Copied {
    /// Copies that have failed in a row.
    failures: u32,
    /// Why the contents are lost.
    lost: Option<String>,
}

impl Copies {
    fn failures(&self, instance: &str) -> u32 {
        self.lock().get(instance).map_or(0, |copied| copied.failures)
    }

    fn note_failure(&self, instance: &str) {
        let mut all = self.lock();
        let copied = all.entry(instance.to_owned()).or_default();
        copied.failures = copied.failures.saturating_add(1);
    }

    fn note_lost(&self, instance: &str, why: String) {
        self.lock().entry(instance.to_owned()).or_default().lost = Some(why);
    }

    /// Why the contents couldn't get to a volume of another size.
    pub(super) fn lost(&self, instance: &str) -> Option<String> {
        self.lock().get(instance).and_then(|copied| copied.lost.clone())
    }

    pub(super) fn forget(&self, instance: &str) {
        self.lock().remove(instance);
    }

    pub(super) fn retain(&self, instances: &HashSet<String>) {
        self.lock().retain(|instance, _| instances.contains(instance));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Copied>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Executor {
    /// Prepares the memory of a warm instance's next container, once: what was kept is there, if it can be.
    pub(super) async fn prepare_memory(&self, situation: &Situation) -> Result<Option<MemorySlot>, Error> {
        if let Some(slot) = situation.memory.get() {
            return Ok(Some(*slot));
        }
        let id = &situation.instance.id;
        let spec = Spec::of(&situation.instance).map_err(Error::InvalidInstance)?;
        if !spec.is_warm() {
            return Ok(None);
        }
        let image = self.images.get().await?;
        let holder = NewHolder { instance: id, spec: &spec, image: &image.id, command: image.command };
        let copies = &self.observations.copies;
        let prepared = match self.docker.prepare_memory(&holder, copies.failures(id)).await {
            Err(error) if error.is_not_found() => {
                self.restore_dependencies().await?;
                return Err(error);
            }
            Err(error) => {
                if matches!(error, Error::NotCopied(_)) {
                    copies.note_failure(id);
                }
                return Err(error);
            }
            Ok(prepared) => prepared,
        };
        // Now: if the container doesn't answer at first, other work completes the record.
        if prepared.lost.is_some() || situation.stopped.get().is_some_and(Stopped::is_lost) {
            self.history.lose_contents(id);
        }
        if let Some(why) = prepared.lost {
            tracing::warn!(instance = id, why, "the contents of a warm cache could not be kept");
            copies.note_lost(id, why);
        }
        let _ = situation.memory.set(prepared.slot);
        Ok(Some(prepared.slot))
    }

    /// How long the memcached of a container whose instance's memory is held may be silent, since it takes contents back:
    /// what holds them is removed once it answers.
    pub(super) fn time_to_take_back(&self, container: &Container) -> Option<Duration> {
        let spec = Spec::from_label(&container.spec).filter(Spec::is_warm);
        Some(take_back_timeout(spec.filter(|_| !container.is_holder)?.memory_mb(), self.cpus))
    }

    /// Why memcached says nothing in a container, `(instance, id)`, whose network works.
    pub(super) async fn silence_of(&self, (instance, id): (&str, &str), address: String) -> Error {
        let containers = self.docker.containers_of(instance).await.unwrap_or_default();
        let is_held = held_instances(&containers).contains(instance);
        let own = containers.iter().find(|it| it.id == id && is_held);
        let Some(limit) = own.and_then(|it| self.time_to_take_back(it)) else {
            return Error::NoAnswer { address };
        };
        let silences = self.observations.silences.lock().await;
        let is_hung = silences.get(id).is_some_and(|it| it.proves_hung(Instant::now(), Some(limit)));
        if is_hung { Error::NoAnswer { address } } else { Error::TakesBack { address } }
    }

    /// Lets the memory go that a container left which didn't end cleanly, before that is removed for another: it alone says so.
    pub(super) async fn drop_unclean_memory(
        &self,
        situation: &Situation,
        container: &str,
    ) -> Result<(), Error> {
        if leaves_unclean_memory(&situation.containers, &situation.actions, container) {
            let instance = &situation.instance.id;
            self.docker.remove_holders(instance).await?;
            if situation.containers.iter().any(|it| it.id == container && it.hung) {
                self.observations.copies.note_lost(instance, "memcached didn't answer".to_owned());
            }
        }
        Ok(())
    }
}

/// The instances of which a warm cache's memory is held.
pub(super) fn held_instances(containers: &[Container]) -> HashSet<String> {
    let holders = containers.iter().filter(|it| it.is_holder && it.state == ContainerState::Running);
    holders.map(|it| it.instance.clone()).collect()
}

/// Whether a container of this id, which a plan removes for another, has left memory that memcached may have saved in part, or
/// that it hangs on: another would hang on the same.
fn leaves_unclean_memory(containers: &[Container], actions: &[Action], id: &str) -> bool {
    let is_unclean = |it: &Container| !it.is_holder && (it.hung || !it.ended_cleanly()) && is_warm(it);
    creates(actions) && containers.iter().any(|it| it.id == id && is_unclean(it))
}

fn creates(actions: &[Action]) -> bool {
    actions.iter().any(|action| matches!(action, Action::Create { .. }))
}

fn is_warm(container: &Container) -> bool {
    Spec::from_label(&container.spec).is_some_and(|spec| spec.is_warm())
}

/// Bytes that it takes to copy what a warm instance has to a larger volume for the container that a plan creates, while no
/// memcached runs: both volumes and their holders. `None` if nothing is copied.
pub(super) fn memory_for_copy(containers: &[Container], actions: &[Action], spec: &Spec) -> Option<i64> {
    let (holders, own): (Vec<_>, Vec<_>) = containers.iter().partition(|it| it.is_holder);
    if !creates(actions) || !own.iter().all(|it| it.ended_cleanly()) {
        return None;
    }
    let runs = |it: &Container| it.state == ContainerState::Running;
    let kept = actions.iter().filter_map(|action| match action {
        Action::Keep(container) => Some(container),
        _ => None,
    });
    let is_held = holders.iter().any(|it| runs(it)) && own.iter().all(|it| !runs(it));
    let held = holders.iter().chain(&own).copied().filter(|_| is_held);
    let is_smaller = |it: &&Container| {
        let has = Spec::from_label(&it.spec);
        has.is_some_and(|has| spec.keeps_contents_of(&has) && has.memory_mb() < spec.memory_mb())
    };
    kept.chain(held).filter(is_smaller).map(|it| memory_asleep(it).saturating_mul(2)).max()
}

#[cfg(test)]
mod tests {
    use store::{DesiredState, InstanceState};

    use super::*;
    use crate::plan::tests::{container, instance, route};
    use crate::plan::{Ended, plan};

    const MIB: i64 = 1 << 20;

    //
    #[test]
    fn contents_that_are_copied_are_known_before_memcached_is_stopped() {
        use ContainerState::{Running, Stopped};
        let label = |mb| format!("memory={mb} connections=1024 item=1048576 warm");
        let ended = |exit_code| Some(Ended { exit_code, out_of_memory: false, by_itself: false });
        let warm = |state| Container { spec: label(64), ..container(state) };
        let stopped = |exit_code| Container { ended: ended(exit_code), ..warm(Stopped) };
        let holder =
            |mb| Container { id: "k1".into(), is_holder: true, spec: label(mb), ..container(Running) };
        let both = Some(2 * (65 + 16) * MIB);
        for (what, memory_mb, containers, expected) in [
            ("runs", 128, vec![warm(Running)], both),
            ("runs, and is held", 128, vec![warm(Running), holder(64)], both),
            ("hangs", 128, vec![Container { hung: true, ..warm(Running) }], None),
            ("gets less", 64, vec![Container { spec: label(128), ..warm(Running) }], None),
            ("sleeps", 128, vec![stopped(0), holder(64)], both),
            ("isn't held", 128, vec![stopped(0)], None),
            ("was killed", 128, vec![stopped(137), holder(64)], None),
            ("was removed before a crash", 128, vec![holder(64)], both),
            ("was copied before a crash", 128, vec![holder(128)], None),
            ("was being copied", 128, vec![holder(64), holder(128)], both),
        ] {
            let mut instance = instance(DesiredState::Running, route(InstanceState::Running, 1));
            (instance.warm, instance.memory_mb) = (true, memory_mb);
            let actions = plan(&instance, &[], &containers, 0);
            let spec = Spec::of(&instance).unwrap();
            assert_eq!(memory_for_copy(&containers, &actions, &spec), expected, "{what}: {actions:?}");
        }
    }

    #[test]
    fn memory_of_a_killed_container_goes_before_the_container() {
        let ended = |exit_code| Some(Ended { exit_code, out_of_memory: false, by_itself: false });
        let stopped = |spec: &str, exit_code| Container {
            spec: spec.into(),
            ended: ended(exit_code),
            ..container(ContainerState::Stopped)
        };
        let runs = |spec: &str| Container { spec: spec.into(), ..container(ContainerState::Running) };
        let warm = "memory=64 connections=1024 item=1048576 warm";
        let create = [Action::Create { generation: 2 }];
        for (what, left, actions, expected) in [
            ("was killed", stopped(warm, 137), &create[..], true),
            ("was killed, and nothing follows", stopped(warm, 137), &[], false),
            ("ended", stopped(warm, 0), &create, false),
            ("hangs", Container { hung: true, ..runs(warm) }, &create, true),
            ("runs", runs(warm), &create, false),
            ("wasn't warm", stopped("memory=64 connections=1024 item=1048576", 137), &create, false),
            ("is a holder", Container { is_holder: true, ..stopped(warm, 137) }, &create, false),
        ] {
            let id = left.id.clone();
            assert_eq!(leaves_unclean_memory(&[left], actions, &id), expected, "{what}");
        }
    }

    #[test]
    fn failures_and_losses_are_kept_until_the_work_succeeds() {
        let copies = Copies::default();
        copies.note_failure("a");
        copies.note_failure("a");
        copies.note_lost("a", "why".to_owned());
        assert_eq!((copies.failures("a"), copies.lost("a").as_deref()), (2, Some("why")));
        assert_eq!((copies.failures("b"), copies.lost("b")), (0, None));
        copies.forget("a");
        assert_eq!((copies.failures("a"), copies.lost("a")), (0, None));
        copies.note_failure("b");
        copies.retain(&HashSet::new());
        assert_eq!(copies.failures("b"), 0);
    }
}
