//! The contents of a warm cache, for its next container: if that has more memory they are copied, for one cache at a time.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::warm::{Stopped, memory_asleep};
use super::{Executor, Situation};
use crate::docker::NewHolder;
use crate::error::{Error, chain};
use crate::liveness::{Health, take_back_timeout};
use crate::names::MemorySlot;
use crate::plan::{Action, Container, ContainerState};
use crate::spec::Spec;

/// Copies to the same size that fail in a row, before a cache keeps its old size.
const COPY_ATTEMPTS_MAX: u32 = 3;

/// How copies of contents went, by instance, until one succeeds.
#[derive(Debug, Default)]
pub(crate) struct Copies(Mutex<HashMap<String, Copied>>);

#[derive(Debug, Default)]
struct Copied {
    /// Copies that have failed in a row, and the MiB that they were for.
    failures: u32,
    memory_mb: i64,
    /// Why the contents are lost.
    lost: Option<String>,
}

impl Copies {
    /// Whether contents aren't copied to this size any more.
    pub(super) fn has_failed(&self, instance: &str, memory_mb: i64) -> bool {
        let failed = |copied: &Copied| copied.memory_mb == memory_mb && copied.failures >= COPY_ATTEMPTS_MAX;
        self.lock().get(instance).is_some_and(failed)
    }

    /// Returns how many have failed.
    fn note_failure(&self, instance: &str, memory_mb: i64) -> u32 {
        let mut all = self.lock();
        let copied = all.entry(instance.to_owned()).or_default();
        if copied.memory_mb != memory_mb {
            (copied.failures, copied.memory_mb) = (0, memory_mb);
        }
        copied.failures = copied.failures.saturating_add(1);
        copied.failures
    }

    fn note_lost(&self, instance: &str, why: String) {
        self.lock().entry(instance.to_owned()).or_default().lost = Some(why);
    }

    /// Why the contents couldn't get to a volume of another size.
    pub(super) fn lost(&self, instance: &str) -> Option<String> {
        self.lock().get(instance).and_then(|copied| copied.lost.clone())
    }

    /// Notes that the work on an instance has succeeded. Failed copies count until one succeeds: with its old size, or asleep,
    /// a cache only waits for the next.
    pub(super) fn complete(&self, instance: &str, has_copied: bool) {
        let mut all = self.lock();
        match all.get_mut(instance) {
            Some(copied) if !has_copied && copied.failures > 0 => copied.lost = None,
            _ => {
                all.remove(instance);
            }
        }
    }

    /// Lets copies be tried again.
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
        let prepared = match self.docker.prepare_memory(&holder, situation.turn.is_some()).await {
            Err(error) if error.is_not_found() => {
                self.restore_dependencies().await?;
                return Err(error);
            }
            Err(error) => {
                if matches!(error, Error::NotCopied(_)) {
                    tracing::warn!(
                        instance = id,
                        error = chain(&error),
                        attempt = copies.note_failure(id, spec.memory_mb()),
                        attempts_max = COPY_ATTEMPTS_MAX,
                        "can't copy the memory of a warm cache that gets more: see how busy this host and Docker are"
                    );
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

    /// Waits, by failing, for a memcached that was started on held memory and doesn't answer yet.
    pub(super) async fn require_contents(
        &self,
        situation: &Situation,
        container: &Container,
    ) -> Result<(), Error> {
        let instance = &container.instance;
        if !held_instances(&situation.containers).contains(instance) {
            return Ok(());
        }
        let (id, address) = (container.id.as_str(), &container.address);
        if self.check_container(instance, (id, container.generation, address)).await != Health::Silent {
            return Ok(());
        }
        match self.silence_of((instance, id), address.clone()).await {
            error @ Error::TakesBack { .. } => Err(error),
            _ => Ok(()),
        }
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

/// The memory that an instance has, while it is to get more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CurrentMemory {
    /// memcached's, in MiB.
    pub(super) memory_mb: i64,
    /// Its container's limit in bytes.
    pub(super) limit: i64,
}

impl CurrentMemory {
    /// That of the container that a plan keeps, if it keeps one. Otherwise of the largest, or of the holder that has the contents:
    /// a copy that a crash has ended leaves a larger one. `spec` is what the instance is to have. `None` if it has nothing.
    pub(super) fn of(containers: &[Container], kept: Option<&Container>, spec: &Spec) -> Option<Self> {
        let (holders, own): (Vec<_>, Vec<_>) = containers.iter().partition(|it| it.is_holder);
        let limit = |it: &&Container| memory_limit_of(it);
        let holder =
            || holders.iter().copied().min_by_key(|it| (it.state != ContainerState::Running, limit(it)));
        let has = kept.or_else(|| own.iter().copied().max_by_key(limit)).or_else(holder)?;
        let limit = memory_limit_of(has).filter(|limit| *limit > 0)?;
        // A warm memcached has the memory that it was started with, whatever Docker says.
        let warm = Spec::from_label(&has.spec).filter(Spec::is_warm);
        let memory_mb = warm.map_or_else(|| spec.memory_mb_within(limit), |warm| warm.memory_mb());
        Some(Self { memory_mb, limit })
    }
}

/// The limit of a container's memory in bytes: the one that it has, or was created with. Of a holder, that of the container
/// whose memory it keeps.
pub(super) fn memory_limit_of(container: &Container) -> Option<i64> {
    let limits = container.limits.as_ref().filter(|_| !container.is_holder);
    let has = limits.map(|limits| limits.memory).filter(|memory| *memory > 0);
    has.or_else(|| Some(Spec::from_label(&container.spec)?.memory_limit()))
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

    // F-36, R-25.
    #[test]
    fn cache_that_waits_for_more_memory_keeps_what_it_has() {
        use ContainerState::{Running, Stopped};
        let label = |mb| format!("memory={mb} connections=1024 item=1048576");
        let warm = |mb| label(mb) + " warm";
        let spec = |label: String| Spec::from_label(&label).unwrap();
        let own = |label| Container { spec: label, ..container(Running) };
        let limited = |label, memory| {
            let limits = Some(crate::limits::Limits { memory, ..Default::default() });
            Container { limits, ..own(label) }
        };
        let holder = |state, mb| Container { is_holder: true, spec: warm(mb), ..container(state) };
        let limit = |mb| spec(label(mb)).memory_limit();
        let less = limit(60);
        for (what, containers, memory_mb, bytes) in [
            ("runs", vec![own(warm(64))], 64, limit(64)),
            ("was limited by hand", vec![limited(warm(64), less)], 64, less),
            ("isn't warm, and was limited by hand", vec![limited(label(64), less)], 60, less),
            ("isn't warm, and was resized", vec![limited(label(64), limit(96))], 96, limit(96)),
            ("is held", vec![own(warm(64)), holder(Running, 64)], 64, limit(64)),
            ("crash during a copy", vec![holder(Running, 64), holder(Running, 128)], 64, limit(64)),
            ("crash after a copy", vec![holder(Stopped, 64), holder(Running, 128)], 128, limit(128)),
        ] {
            let expected = Some(CurrentMemory { memory_mb, limit: bytes });
            assert_eq!(CurrentMemory::of(&containers, None, &spec(warm(256))), expected, "{what}");
            if let [kept] = &containers[..] {
                let of_kept = CurrentMemory::of(&[], Some(kept), &spec(warm(256)));
                assert_eq!(of_kept, expected, "{what}");
            }
        }
        assert_eq!(CurrentMemory::of(&[], None, &spec(warm(256))), None);
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

    // F-36.
    #[test]
    fn failed_copies_are_counted_until_one_succeeds() {
        let copies = Copies::default();
        assert_eq!([1, 2].map(|_| copies.note_failure("a", 128)), [1, 2]);
        assert!(!copies.has_failed("a", 128));
        copies.note_lost("a", "why".to_owned());
        assert_eq!((copies.lost("a").as_deref(), copies.lost("b")), (Some("why"), None));
        // It runs with its old size while another one's contents are copied.
        copies.complete("a", false);
        assert_eq!(copies.lost("a"), None);
        assert_eq!(copies.note_failure("a", 128), 3);
        copies.complete("a", false);
        assert!(copies.has_failed("a", 128), "those before count");
        assert!(!copies.has_failed("a", 192) && !copies.has_failed("b", 128));
        assert_eq!(copies.note_failure("a", 192), 1, "another size");
        for forget in [|copies: &Copies| copies.complete("a", true), |copies: &Copies| copies.forget("a")] {
            copies.note_failure("a", 192);
            forget(&copies);
            assert_eq!(copies.note_failure("a", 192), 1);
        }
        copies.retain(&HashSet::new());
        assert_eq!(copies.note_failure("a", 192), 1);
    }
}
