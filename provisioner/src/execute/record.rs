//! What the work on an instance leaves in the store, the log and the history.

use std::time::Duration;

use store::{DesiredState, EventCause, Instance, InstanceState, Observed, OperationKind, StoreError};
use tokio::time::timeout;

use super::contents::held_instances;
use super::{Executor, STORE_TIMEOUT, Situation};
use crate::error::{Error, chain};
use crate::plan::{self, Action, Container, ContainerState};
use crate::spec::Spec;

/// After this many failures in a row the instance is failed, until an attempt succeeds.
const FAILURES_TO_FAIL: u32 = 3;
/// Longer than any write takes while the store works.
const RECORD_TIMEOUT: Duration = Duration::from_secs(2);

impl Executor {
    /// Sets a state, without waiting long for a store that is busy or away.
    pub(super) async fn mark(
        &self,
        instance: &Instance,
        state: InstanceState,
        message: Option<&str>,
    ) -> Result<(), Error> {
        let set = self.set_state(instance, state, message);
        timeout(STORE_TIMEOUT, set).await.unwrap_or(Err(Error::Store(StoreError::Timeout)))
    }

    async fn set_state(
        &self,
        instance: &Instance,
        state: InstanceState,
        message: Option<&str>,
    ) -> Result<(), Error> {
        let route = instance.route.clone();
        let observed = Observed {
            state,
            generation: route.as_ref().map_or(0, |r| r.generation),
            address: route.as_ref().and_then(|r| r.address.clone()),
            container: route.as_ref().and_then(|r| r.container.clone()),
            version: route.and_then(|r| r.version),
            message: message.map(str::to_owned),
        };
        self.record(instance, &observed).await
    }

    /// Records what was observed. If that leads proxies nowhere else, it doesn't wait long for a store that is busy or away:
    /// the instance may need work again.
    pub(super) async fn record(&self, instance: &Instance, observed: &Observed) -> Result<(), Error> {
        if self.known.is_store_away() {
            return Err(Error::Store(StoreError::Timeout));
        }
        let write = self.write_route(instance, observed);
        let is_same_route = instance.route.as_ref().is_some_and(|route| {
            route.generation == observed.generation && route.address == observed.address
        });
        if is_same_route {
            return timeout(RECORD_TIMEOUT, write).await.unwrap_or(Err(Error::Store(StoreError::Timeout)));
        }
        write.await
    }

    /// Writes to the store only if that changes the route: each write wakes every follower.
    async fn write_route(&self, instance: &Instance, observed: &Observed) -> Result<(), Error> {
        if instance.route.as_ref().is_some_and(|route| route.matches(observed)) {
            // An earlier action of the same plan may have set another state since.
            let current = self.store.instance(&instance.id).await?.and_then(|instance| instance.route);
            if current.is_some_and(|route| route.matches(observed)) {
                return Ok(());
            }
        }
        let recorded = self.store.record_route(&instance.id, observed);
        Ok(self.metrics.store.observe("record_route", recorded).await?)
    }

    /// Shows a failure to the instance's owner and to the proxies.
    pub(super) async fn record_failure(&self, id: &str, error: &Error, failures: u32) {
        if matches!(error, Error::Store(_)) {
            return;
        }
        if let Err(error) = self.try_record_failure(id, error, failures).await {
            tracing::debug!(instance = id, %error, "a failure can't be recorded now");
        }
    }

    async fn try_record_failure(&self, id: &str, error: &Error, failures: u32) -> Result<(), Error> {
        use InstanceState::{Asleep, Failed, Pending, Restarting, Running};
        let Some(instance) = self.store.instance(id).await? else { return Ok(()) };
        // Removal is tried for ever.
        let is_final = instance.desired == DesiredState::Running
            && !error.is_general()
            && !matches!(error, Error::NoMemory | Error::NotCopied(_))
            && failures + 1 >= FAILURES_TO_FAIL;
        self.record_failure_of_operations(&instance.cache_id, error, is_final).await?;
        if instance.desired != DesiredState::Running {
            return Ok(());
        }
        let state = match (instance.state(), error) {
            // It runs on, and the operation says why.
            (Running, Error::CopyWaits | Error::NotHeld(_)) => return Ok(()),
            // A container keeps running without Docker, and serves proxies that have the right key.
            (Running, Error::DockerDown(_) | Error::SecretMismatch { .. }) => return Ok(()),
            // It sleeps on, and what was asked of it waits.
            (Asleep, Error::NoMemory | Error::CopyWaits) if !instance.wake_requested => Asleep,
            // It was to be woken, and must not be forgotten.
            (Asleep, _) => Restarting,
            (state, Error::DockerDown(_) | Error::SecretMismatch { .. }) => state,
            (Running, Error::TakesBack { .. }) => Restarting,
            (state, Error::TakesBack { .. }) => state,
            (Pending, Error::Image(_) | Error::NoSubnet(_)) => Pending,
            // A cache that runs keeps its container, and so its old size; after copies that fail it starts with that.
            (state, Error::NoMemory | Error::ImageNotReady | Error::CopyWaits | Error::NotCopied(_)) => state,
            _ if failures + 1 >= FAILURES_TO_FAIL => Failed,
            (Running, _) => Restarting,
            (Restarting, _) => return Ok(()),
            _ if failures == 0 => return Ok(()),
            (state, _) => state,
        };
        if state == Failed {
            self.history.fail(id, cause_of(error), &chain(error));
        }
        self.mark(&instance, state, Some(error.for_owner())).await
    }

    /// Begins the record of what a plan repairs, before it destroys the traces.
    pub(super) async fn begin_record(&self, situation: &Situation) {
        let Situation { instance, containers, actions, .. } = situation;
        let is_restart = situation.asked.iter().any(|operation| operation.kind == OperationKind::Restart);
        if is_restart && !containers.iter().any(|it| it.hung) {
            return;
        }
        // Its contents are gone, or are held, since it was put to sleep.
        let recorded = instance.route.as_ref().and_then(|route| route.container.as_ref());
        let has_started =
            |id: &String| containers.iter().any(|c| c.id == *id && c.state != ContainerState::Stopped);
        if recorded.is_some_and(|id| self.history.was_stopped(id) && !has_started(id)) {
            return;
        }
        let found = plan::diagnose(instance, containers, actions);
        // Of one that was stopped on purpose, and takes its contents back, nothing is lost.
        let is_held = !held_instances(containers).is_empty();
        let found = found.or_else(|| self.restarted_by_docker(instance, actions).filter(|_| !is_held));
        let Some(repair) = found else { return };
        let detail = if self.history.has_begun(&instance.id) {
            String::new()
        } else {
            self.exit_summary(instance, containers).await
        };
        self.history.begin(&instance.id, repair, detail);
    }

    /// A container that runs, and had ended since it was last checked.
    fn restarted_by_docker(&self, instance: &Instance, actions: &[Action]) -> Option<plan::Repair> {
        let checked = actions.iter().find_map(|action| match action {
            Action::Probe(container) if container.state == ContainerState::Running => Some(&container.id),
            _ => None,
        })?;
        let is_recorded =
            instance.route.as_ref().is_some_and(|route| route.container.as_ref() == Some(checked));
        let end = self.history.end_of(checked).filter(|end| is_recorded && end.exit_code.is_some())?;
        Some(plan::restarted(end.out_of_memory, end.was_signalled))
    }

    /// The exit code of the recorded container, and what it wrote last.
    async fn exit_summary(&self, instance: &Instance, containers: &[Container]) -> String {
        let recorded = instance.route.as_ref().and_then(|route| route.container.as_deref());
        let existing = containers.iter().find(|container| Some(container.id.as_str()) == recorded);
        let end = recorded.and_then(|id| self.history.end_of(id)).and_then(|end| end.exit_code);
        let exit_code = end.or_else(|| existing.and_then(|it| it.ended).map(|ended| ended.exit_code));
        let output = match existing {
            Some(container) => self.docker.last_output(&container.id).await,
            None => String::new(),
        };
        let exit_code = exit_code.map(|code| format!("exit code {code}"));
        let output = (!output.is_empty()).then(|| format!("it last wrote: {output}"));
        exit_code.into_iter().chain(output).collect::<Vec<_>>().join("; ")
    }

    /// Records why a container that has run is replaced.
    pub(super) fn record_cause(&self, instance: &Instance, cause: EventCause, why: &Error) {
        if instance.route.as_ref().is_some_and(|route| route.container.is_some()) {
            let is_warm = Spec::of(instance).is_ok_and(|spec| spec.is_warm());
            self.history.begin_for(&instance.id, cause, why.to_string(), !is_warm);
        }
    }
}

/// The cause of a failure that no repair has a better one for.
fn cause_of(error: &Error) -> EventCause {
    match error {
        Error::NoAnswer { .. } | Error::Full { .. } => EventCause::Hung,
        Error::Unreachable { .. } => EventCause::Unreachable,
        Error::WrongSecret { .. } => EventCause::WrongSecret,
        Error::AddressTaken { .. } => EventCause::AddressTaken,
        _ => EventCause::NotStarted,
    }
}

/// Logs a failure of one instance. What concerns all instances is logged elsewhere, once.
pub(crate) fn log_failure(instance: &str, error: &Error, failures: u32) {
    let error_chain = chain(error);
    if error.is_general() || matches!(error, Error::NoMemory) {
        tracing::debug!(instance, error = error_chain, "waiting");
    } else if failures == 0 && !matches!(error, Error::AddressTaken { .. }) {
        // Often a race with a change made by hand; the first retry comes at once.
        tracing::info!(instance, error = error_chain, "reconcile failed: retrying");
    } else {
        tracing::warn!(instance, error = error_chain, failures, "reconcile failed again: retrying");
    }
}
