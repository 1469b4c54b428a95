//! Runs requests on a dedicated lane: large values in both directions, and untagged commands. Meanwhile the
//! session dispatches nothing else, and a slow client slows down only its own lane.

mod get;
mod set;
mod untagged;

use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{Session, WorkerContext};
use crate::backend::dedicated_pool::Lease;
use crate::protocol::request::{Fault, Outcome, Reply};
use crate::responses::{Deferred, UNSENT_MAX, with_data};
use crate::tenant::{PermissionVersion, Tenant};
pub(super) use get::StreamedGet;
pub(super) use set::StreamedSet;
pub(super) use untagged::UntaggedRequest;

/// How long a session waits for a dedicated lane.
const LEASE_TIMEOUT: Duration = Duration::from_secs(60);
/// How often the time limits are checked.
const STALL_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// A request for a dedicated lane.
pub(super) enum DedicatedRequest {
    Get(StreamedGet),
    Store(StreamedSet),
    Untagged(UntaggedRequest),
}

impl Session {
    /// Runs `dedicated` once nothing else is in flight. `Break` if the connection must close gracefully; an error if
    /// it is broken.
    pub(super) async fn run_dedicated(
        &mut self,
        dedicated: DedicatedRequest,
        worker: &WorkerContext<'_>,
    ) -> io::Result<ControlFlow<()>> {
        self.responses.count_operation();
        let _work = self.responses.begin_work();
        let version = self.handle.permissions.version();
        if !self.drain(worker).await {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.recheck_permissions(version)?;
        match dedicated {
            DedicatedRequest::Get(get) => self.stream_get(&get, worker).await?,
            DedicatedRequest::Store(store) => return self.stream_set(store, version, worker).await,
            DedicatedRequest::Untagged(untagged) => self.stream_untagged(&untagged, version, worker).await?,
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Fails, which closes the connection, if the permissions have changed since `version`. Rare; the client
    /// reconnects and gets a denial.
    fn recheck_permissions(&self, version: PermissionVersion) -> io::Result<()> {
        if self.handle.permissions.changed_since(version) {
            Err(io::ErrorKind::PermissionDenied.into())
        } else {
            Ok(())
        }
    }

    /// Acquires a dedicated lane. Waits while all are in use, and, for a request that has been there since `begun`, while the
    /// instance can't be reached; so the permissions are checked again.
    async fn lease<'a>(
        &self,
        (tenant, begun): (&'a Tenant, Instant),
        version: PermissionVersion,
        worker: &WorkerContext<'_>,
    ) -> Result<Lease<'a>, DedicatedError> {
        let lease = loop {
            tenant.turns.begin().await;
            tenant.turns.charge(0);
            match tenant.backend.lease(&self.handle.permissions.lanes, LEASE_TIMEOUT).await {
                Err(Fault::Unavailable) if self.may_lease_later(begun, worker).await? => {}
                lease => break lease?,
            }
        };
        self.recheck_permissions(version)?;
        self.state.lane_use.begin(&lease.cancel);
        Ok(lease)
    }

    /// After a lease has failed: waits until the instance is reached again, if it can't be. A shared lane that is open tells
    /// that only this dedicated lane couldn't be opened.
    async fn may_lease_later(&self, begun: Instant, worker: &WorkerContext<'_>) -> io::Result<bool> {
        let is_away = self.tenant.backend.lease_failed(begun);
        Ok(is_away && !self.state.gives_up.get() && self.hold(begun.elapsed(), worker).await?)
    }

    /// Sends the deferred replies in order, and requests dropped values again.
    pub(super) async fn replay_deferred(&mut self, worker: &WorkerContext<'_>) -> io::Result<()> {
        let _work = self.responses.begin_work();
        while let Some(deferred) = self.responses.next_deferred() {
            match deferred {
                Deferred::Bytes(bytes) => self.responses.write_raw(&bytes),
                Deferred::Reply { format, kind, context, outcome, data, tokens } => {
                    let reply = Reply { outcome: with_data(outcome, &data), tokens: &tokens };
                    self.responses.write_reply(format, kind, &context, &reply);
                }
                Deferred::Again(read) => self.ask_again(read, worker).await?,
                Deferred::Refetch { format, kind, context, tokens } => {
                    // This one may take long; those before it are due.
                    self.responses.flush();
                    self.stream_get(&StreamedGet::again(format, kind, context, tokens), worker).await?;
                }
            }
            if self.responses.unsent() > UNSENT_MAX {
                self.send_all().await?;
            }
        }
        self.responses.flush();
        Ok(())
    }

    /// Waits until everything is sent, within the stall timeout.
    async fn send_all(&self) -> io::Result<()> {
        self.responses.flush();
        while self.responses.unsent() > 0 {
            self.with_stall_timeout(|| self.responses.stream().writable()).await?;
            self.responses.flush();
        }
        if self.responses.is_broken() { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }

    /// Waits for the client's socket, within the stall timeout, and less if others wait for the lane that the session
    /// has.
    async fn with_stall_timeout<F: Future<Output = io::Result<()>>>(
        &self,
        wait: impl Fn() -> F,
    ) -> io::Result<()> {
        let since = Instant::now();
        let lane_use = &self.state.lane_use;
        let waited_before = lane_use.waited.get();
        loop {
            let done = timeout(STALL_CHECK_INTERVAL, wait()).await;
            let waited = since.elapsed();
            lane_use.waited.set(waited_before.saturating_add(waited));
            if self.is_contended() && lane_use.is_slow() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if let Ok(done) = done {
                return done;
            }
            if self.responses.is_broken() || self.responses.ending().is_some() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if waited > self.wait_timeout {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }

    /// Leaves a request because the connection must end. Its client is told why, unless a reply was `partially_sent`: then
    /// nothing may follow.
    fn leave(&self, partially_sent: bool) -> io::Error {
        if partially_sent {
            self.responses.abort();
        }
        io::ErrorKind::BrokenPipe.into()
    }

    /// Whether others wait for a dedicated lane, or soon will.
    fn is_contended(&self) -> bool {
        self.tenant.backend.is_exhausted() || self.handle.permissions.lanes.available_permits() == 0
    }
}

/// Why a dedicated request failed.
enum DedicatedError {
    /// The instance or its lane failed.
    Lane(Fault),
    /// The connection is broken, or the client has stalled.
    Client(io::Error),
}

impl From<Fault> for DedicatedError {
    fn from(fault: Fault) -> Self {
        Self::Lane(fault)
    }
}

impl From<io::Error> for DedicatedError {
    fn from(error: io::Error) -> Self {
        Self::Client(error)
    }
}

fn failed(fault: Fault) -> Reply<'static> {
    Outcome::Failed(fault).into()
}
