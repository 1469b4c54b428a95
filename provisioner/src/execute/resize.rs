//! More or less memory for a memcached that runs. More: first for the container, then for memcached. Less: memcached gives
//! its pages back first, which evicts what is in them, and the container's limit comes last, so that nothing is ended for
//! want of memory. Each step looks at what is, so a resize goes on after a crash.

use std::io;

use store::{Instance, Operation, OperationKind, OperationProgress, OperationState};

use super::operations::Outcome;
use super::shrink::{Shrunk, shrink};
use super::{Executor, Situation, all_cpus};
use crate::error::Error;
use crate::limits::Limits;
use crate::memcached::Memcached;
use crate::pages::Pages;
use crate::plan::Container;
use crate::spec::Spec;

const MIB: u64 = 1 << 20;

impl Executor {
    /// Brings memcached and its container to the memory that the instance is to have.
    pub(super) async fn resize(&self, situation: &Situation, container: &Container) -> Result<(), Error> {
        let spec = Spec::of(&situation.instance).map_err(Error::InvalidInstance)?;
        let has = match &container.limits {
            Some(limits) => limits.clone(),
            None => self.docker.inspect(container).await?.limits.unwrap_or_default(),
        };
        let wanted = Limits::wanted(&spec, self.cpus);
        let raised = raised(&has, &wanted);
        if !has.are(&raised, &all_cpus()) {
            let _permit = self.concurrency.write_permits.acquire().await;
            self.docker.set_limits(&container.id, (&has, &raised), &all_cpus()).await?;
        }
        let operation = situation.asked.iter().find(|it| it.kind == OperationKind::Resize);
        let mut memcached = self.connect(container).await?;
        let no_answer = |_: io::Error| Error::NoAnswer { address: container.address.clone() };
        let before = Figures::read(&mut memcached).await.map_err(no_answer)?;
        let memory_mb = u64::try_from(spec.memory_mb()).unwrap_or(u64::MAX);
        let has_limit = before.limit == memory_mb.saturating_mul(MIB);
        if has_limit && operation.is_none() && raised.memory == wanted.memory {
            return Ok(());
        }
        if !has_limit {
            let reply = memcached.request(&format!("cache_memlimit {memory_mb}")).await.map_err(no_answer)?;
            if reply != "OK" {
                let why = format!("memcached refused {memory_mb} MB: restart the cache, which empties it");
                let _ = situation.resized.set(Outcome::Failed(why));
                return Ok(());
            }
        }
        let progress = Progress { operation, executor: self };
        let start = progress.start(&before).await?;
        progress.report(&start, &before, memory_mb).await?;
        let shrunk = shrink(&mut memcached, memory_mb).await.map_err(no_answer)?;
        if shrunk == Shrunk::OutOfTime {
            let _ = situation.resized.set(self.after_slice(container, operation, before.allocated).await);
            return Ok(());
        }
        self.observations.shrinking.lock().await.remove(&container.id);
        let is_lowered = {
            let _permit = self.concurrency.write_permits.acquire().await;
            self.lower_limits(container, (&raised, &wanted), &spec).await?
        };
        self.capacity
            .settle(&situation.instance.id, Some(if is_lowered { wanted.memory } else { raised.memory }));
        let after = Figures::read(&mut memcached).await.map_err(no_answer)?;
        let evicted = after.evictions.saturating_sub(start.evictions);
        let _ = situation.resized.set(outcome(memory_mb, shrunk, is_lowered, evicted, after.allocated));
        Ok(())
    }

    /// How a resize stands after a slice in which memcached hasn't given all back. `allocated`: bytes before it.
    async fn after_slice(
        &self,
        container: &Container,
        operation: Option<&Operation>,
        allocated: u64,
    ) -> Outcome {
        let Some(operation) = operation else { return Outcome::Unfinished };
        let mut all = self.observations.shrinking.lock().await;
        let shrinking = all.entry(container.id.clone()).or_default();
        let Some(why) = shrinking.note(&operation.id, allocated) else { return Outcome::Unfinished };
        all.remove(&container.id);
        Outcome::Failed(why)
    }

    /// Lowers a container's limits where they are higher than they should be, unless it needs more now: it would be ended.
    /// Returns whether they are as they should be.
    pub(super) async fn lower_limits(
        &self,
        container: &Container,
        (has, wanted): (&Limits, &Limits),
        spec: &Spec,
    ) -> Result<bool, Error> {
        if has.memory <= wanted.memory {
            return Ok(true);
        }
        let usage = self.docker.memory_usage(&container.id).await?;
        if usage.is_none_or(|usage| usage > spec.settled_memory()) {
            tracing::debug!(
                container = container.id,
                usage,
                "its memory isn't limited further: it uses more"
            );
            return Ok(false);
        }
        self.docker.set_limits(&container.id, (has, wanted), &all_cpus()).await?;
        Ok(true)
    }

    /// Whether memcached has the memory that the instance is to have, if its container was started with another.
    pub(super) async fn has_its_memory(&self, instance: &Instance, container: &Container) -> bool {
        let Ok(spec) = Spec::of(instance) else { return true };
        if container.spec == spec.label() {
            return true;
        }
        let Ok(mut memcached) = self.connect(container).await else { return false };
        let limit = Figures::read(&mut memcached).await.map(|figures| figures.limit);
        limit.is_ok_and(|limit| i64::try_from(limit / MIB).is_ok_and(|limit| limit == spec.memory_mb()))
    }
}

/// The limits that a container should have, with the memory that it has if that is more.
pub(super) fn raised(has: &Limits, wanted: &Limits) -> Limits {
    // Zero is no limit.
    let memory = has.memory.max(wanted.memory);
    Limits { memory, memory_swap: memory, ..wanted.clone() }
}

fn outcome(memory_mb: u64, shrunk: Shrunk, is_lowered: bool, evicted: u64, allocated: u64) -> Outcome {
    let kept_mb = allocated.div_ceil(MIB);
    let evictions = match evicted {
        0 => "nothing was evicted".to_owned(),
        1 => "1 item was evicted".to_owned(),
        count => format!("{count} items were evicted"),
    };
    let size = format!("memcached has {memory_mb} MB; {evictions}");
    match (shrunk, is_lowered) {
        (Shrunk::LastPages, false) => Outcome::Failed(format!(
            "memcached keeps {kept_mb} MB, because each size of items keeps a page ({evictions}): restart the cache, which \
             empties it, or resize it to {kept_mb} MB or more"
        )),
        (Shrunk::LastPages, true) => Outcome::Done(format!(
            "{size}; it keeps {kept_mb} MB until it is restarted, a page for each size of items"
        )),
        (_, false) => {
            Outcome::Done(format!("{size}; its container keeps its larger limit until that is free"))
        }
        (_, true) => Outcome::Done(size),
    }
}

/// What memcached says of its memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Figures {
    /// Bytes that items may use.
    limit: u64,
    /// Items that were removed to make room, by the page mover too.
    evictions: u64,
    /// Bytes of its pages.
    allocated: u64,
}

impl Figures {
    async fn read(memcached: &mut Memcached) -> io::Result<Self> {
        let mut figures = Self::default();
        for (name, value) in memcached.statistics("").await? {
            let value: u64 = value.parse().unwrap_or(0);
            match name.as_str() {
                "limit_maxbytes" => figures.limit = value,
                "evictions" | "slab_reassign_evictions_nomem" => {
                    figures.evictions = figures.evictions.saturating_add(value);
                }
                _ => {}
            }
        }
        figures.allocated = Pages::read(&memcached.statistics(" slabs").await?).allocated;
        Ok(figures)
    }
}

/// Where the progress of a resize is told.
struct Progress<'a> {
    operation: Option<&'a Operation>,
    executor: &'a Executor,
}

impl Progress<'_> {
    /// The figures when the operation began, which a provisioner that was ended since has recorded.
    async fn start(&self, now: &Figures) -> Result<Figures, Error> {
        let Some(operation) = self.operation else { return Ok(*now) };
        let recorded = operation.checkpoint.as_deref().and_then(|text| {
            let (evictions, allocated) = text.split_once(' ')?;
            let (evictions, allocated) = (evictions.parse().ok()?, allocated.parse().ok()?);
            // memcached was restarted since.
            (evictions <= now.evictions).then_some(Figures { evictions, allocated, ..*now })
        });
        if let Some(recorded) = recorded {
            return Ok(recorded);
        }
        let checkpoint = Some(format!("{} {}", now.evictions, now.allocated));
        let (state, progress) = (OperationState::Running, operation.progress);
        let begun = OperationProgress { state, progress, message: None, checkpoint };
        self.executor.record_operation(operation, begun).await?;
        Ok(*now)
    }

    /// Reports how much is to be given back, if anything is.
    async fn report(&self, start: &Figures, now: &Figures, memory_mb: u64) -> Result<(), Error> {
        let surplus_of =
            |it: &Figures| Pages { allocated: it.allocated, ..Pages::default() }.surplus(memory_mb);
        let (surplus, all) = (surplus_of(now), surplus_of(start).max(1));
        let Some(operation) = self.operation.filter(|_| surplus > 0) else { return Ok(()) };
        let percent = all.saturating_sub(surplus).saturating_mul(90) / all;
        let progress = i64::try_from(percent).unwrap_or(90).saturating_add(5);
        let message = Some(format!("{surplus} MB are still to be given back"));
        let (state, checkpoint) = (OperationState::Running, None);
        let report = OperationProgress { state, progress, message, checkpoint };
        self.executor.record_operation(operation, report).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_says_what_became_of_the_items() {
        let text = |shrunk, is_lowered, evicted| match outcome(16, shrunk, is_lowered, evicted, 23 << 20) {
            Outcome::Done(text) => format!("done: {text}"),
            Outcome::Failed(text) => format!("failed: {text}"),
            Outcome::Unfinished => String::new(),
        };
        assert_eq!(text(Shrunk::Fits, true, 0), "done: memcached has 16 MB; nothing was evicted");
        assert_eq!(text(Shrunk::Fits, true, 1), "done: memcached has 16 MB; 1 item was evicted");
        assert!(text(Shrunk::Fits, false, 7).contains("7 items were evicted; its container keeps"));
        assert!(
            text(Shrunk::LastPages, true, 7).starts_with("done: ")
                && text(Shrunk::LastPages, true, 7).contains("keeps 23 MB")
        );
        let failed = text(Shrunk::LastPages, false, 7);
        assert!(
            failed.starts_with("failed: memcached keeps 23 MB") && failed.contains(": restart the cache"),
            "{failed}"
        );
    }

    // F-22, R-25.
    #[test]
    fn a_limit_is_raised_at_once_and_never_lowered_at_once() {
        let spec = |mb| Spec::from_label(&format!("memory={mb} connections=1024 item=1048576")).unwrap();
        let limits = |mb| Limits::wanted(&spec(mb), 1.0);
        assert_eq!(raised(&limits(64), &limits(128)), limits(128));
        let lowered = raised(&limits(128), &limits(64));
        assert_eq!((lowered.memory, lowered.memory_swap), (limits(128).memory, limits(128).memory));
        for unlimited in [Limits { memory: 0, ..limits(64) }, Limits { memory_swap: -1, ..limits(64) }] {
            assert_eq!(raised(&unlimited, &limits(64)), limits(64), "swap must not be used");
        }
    }
}
