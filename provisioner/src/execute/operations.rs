//! Operations that users and operators have asked for: their steps, and what is recorded of them.

use std::net::IpAddr;

use store::{Operation, OperationKind, OperationProgress, OperationState};

use super::{Executor, Situation};
use crate::error::Error;
use crate::memcached::Memcached;
use crate::plan::Container;

/// Percent of an operation that has only begun.
const BEGUN: i64 = 5;

/// How an operation ended, or that it hasn't.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Done(String),
    /// It goes on with the next work on the instance.
    Unfinished,
    Failed(String),
}

impl Executor {
    pub(super) async fn begin(&self, operation: &Operation, checkpoint: &str) -> Result<(), Error> {
        let checkpoint = (!checkpoint.is_empty()).then(|| checkpoint.to_owned());
        let (state, progress) = (OperationState::Running, BEGUN);
        self.record_operation(operation, OperationProgress { state, progress, message: None, checkpoint })
            .await
    }

    /// Records the end of an operation whose steps are all done.
    pub(super) async fn finish(&self, situation: &Situation, operation: &Operation) -> Result<(), Error> {
        let outcome = match operation.kind {
            OperationKind::Restart => Outcome::Done(self.describe_restart(situation).await?),
            OperationKind::Flush => Outcome::Done("all items were removed".to_owned()),
            OperationKind::Suspend => Outcome::Done("the cache is stopped; its contents are gone".to_owned()),
            OperationKind::Resume => Outcome::Done("the cache runs".to_owned()),
            OperationKind::Delete => Outcome::Done("the cache and its contents are removed".to_owned()),
            OperationKind::Resize => match situation.resized.get() {
                Some(outcome) => outcome.clone(),
                None => Outcome::Done(self.describe_resize(situation).await?),
            },
        };
        let (state, message) = match outcome {
            Outcome::Done(message) => (OperationState::Done, message),
            Outcome::Failed(message) => (OperationState::Failed, message),
            Outcome::Unfinished => return Ok(()),
        };
        self.end(operation, state, &message).await
    }

    /// Records that an operation has failed.
    pub(super) async fn abandon(&self, operation: &Operation, why: &str) -> Result<(), Error> {
        self.end(operation, OperationState::Failed, why).await
    }

    async fn end(&self, operation: &Operation, state: OperationState, message: &str) -> Result<(), Error> {
        let (operation_id, kind) = (&operation.id, operation.kind.as_str());
        tracing::info!(operation_id, kind, state = state.as_str(), cache = operation.cache_id, "{message}");
        let progress = if state == OperationState::Done { 100 } else { operation.progress };
        let message = Some(message.to_owned());
        self.record_operation(operation, OperationProgress { state, progress, message, checkpoint: None })
            .await
    }

    /// Tells those who have asked why nothing happens yet, or that it won't: after a failure of the work on an instance.
    pub(super) async fn record_failure_of_operations(
        &self,
        cache: &str,
        error: &Error,
        is_final: bool,
    ) -> Result<(), Error> {
        for operation in self.store.open_operations_of(cache).await? {
            if is_final {
                self.abandon(&operation, error.for_owner()).await?;
            } else if operation.message.as_deref() != Some(error.for_owner()) {
                let Operation { state, progress, .. } = operation;
                let message = Some(error.for_owner().to_owned());
                let waiting = OperationProgress { state, progress, message, checkpoint: None };
                self.record_operation(&operation, waiting).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn record_operation(
        &self,
        operation: &Operation,
        progress: OperationProgress,
    ) -> Result<(), Error> {
        let recorded = self.store.record_operation(&operation.id, &progress);
        Ok(self.metrics.store.observe("record_operation", recorded).await?)
    }

    /// Removes all items.
    pub(super) async fn flush(&self, container: &Container) -> Result<(), Error> {
        let mut memcached = self.connect(container).await?;
        let reply = memcached.request("flush_all").await;
        match reply.as_deref() {
            Ok("OK") => Ok(()),
            _ => Err(Error::NoAnswer { address: container.address.clone() }),
        }
    }

    /// A connection of the provisioner's own to a container's memcached.
    pub(super) async fn connect(&self, container: &Container) -> Result<Memcached, Error> {
        let address = container.address.clone();
        let Ok(ip) = address.parse::<IpAddr>() else { return Err(Error::Unreachable { address }) };
        if self.networks.is_broken_at(&address) {
            return Err(Error::Unreachable { address });
        }
        let credential = self.lane_key.credential(&container.instance, container.generation);
        Memcached::connect(ip, &credential).await.map_err(|_| Error::NoAnswer { address })
    }
}
