//! What a client does on a lane of its own: long values in both directions, and what carries no tag. While
//! it does, it reads nothing else; what it takes slowly, memcached gives slowly.

mod get;
mod set;
mod untagged;

use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{Client, STALL, WorkerContext};
use crate::backend::dedicated_pool::OwnLane;
use crate::protocol::request::{Fault, Outcome, Reply};
use crate::responses::{Deferred, UNSENT_MAX, whole};
use crate::tenant::{PermissionVersion, Tenant};
pub(super) use get::StreamedGet;
pub(super) use set::StreamedSet;
pub(super) use untagged::Untagged;

/// A client that takes or sends nothing while others of its user wait for its lane is closed after so long.
const STALL_WHILE_SHORT: Duration = Duration::from_secs(5);
/// How often that is looked at.
const TICK: Duration = Duration::from_millis(500);

/// What is to be done there.
pub(super) enum DedicatedRequest {
    Get(StreamedGet),
    Store(StreamedSet),
    Untagged(Untagged),
}

impl Client {
    /// Does `dedicated` when nothing else is in flight. `Break` when the connection is to end; an error when
    /// nobody listens any more.
    pub(super) async fn run_errand(
        &mut self,
        dedicated: DedicatedRequest,
        context: &WorkerContext<'_>,
    ) -> io::Result<ControlFlow<()>> {
        self.responses.has_asked();
        let begun = self.session.pass.begun();
        if !self.settle_up(context).await {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.still_allowed(begun)?;
        match dedicated {
            DedicatedRequest::Get(get) => self.fetch(&get, context).await?,
            DedicatedRequest::Store(store) => return self.stream(store, begun, context).await,
            DedicatedRequest::Untagged(untagged) => self.ask_untagged(&untagged, begun, context).await?,
        }
        Ok(ControlFlow::Continue(()))
    }

    /// What was allowed when it was begun must still be when it is done. Rare enough that the connection
    /// ends: its client comes back and is told what it may.
    fn still_allowed(&self, begun: PermissionVersion) -> io::Result<()> {
        if self.session.pass.changed_since(begun) {
            Err(io::ErrorKind::PermissionDenied.into())
        } else {
            Ok(())
        }
    }

    /// A lane of its own for what was allowed when it was `begun`. Others' may all be taken: who has waited may
    /// have lost the right meanwhile.
    async fn own_lane<'a>(
        &self,
        tenant: &'a Tenant,
        begun: PermissionVersion,
    ) -> Result<OwnLane<'a>, DedicatedError> {
        let lane = tenant.own_lane(STALL).await?;
        self.still_allowed(begun)?;
        Ok(lane)
    }

    /// Says what was put off, in order, and asks again for what was dropped.
    pub(super) async fn catch_up(&mut self, context: &WorkerContext<'_>) -> io::Result<()> {
        while let Some(deferred) = self.responses.next_deferred() {
            match deferred {
                Deferred::Words(words) => self.responses.say(&words),
                Deferred::Said { answer, kind, note, outcome, data, tokens } => {
                    let reply = Reply { outcome: whole(outcome, &data), tokens: &tokens };
                    self.responses.speak(answer, kind, &note, &reply);
                }
                Deferred::Again { answer, kind, note, tokens } => {
                    self.fetch(&StreamedGet::again(answer, kind, note, tokens), context).await?;
                }
            }
            if self.responses.unsent() > UNSENT_MAX {
                self.drain().await?;
            }
        }
        self.responses.flush();
        Ok(())
    }

    /// Waits until the client has taken everything; not for ever.
    async fn drain(&self) -> io::Result<()> {
        self.responses.flush();
        while self.responses.unsent() > 0 {
            self.patiently(|| self.responses.stream().writable()).await?;
            self.responses.flush();
        }
        if self.responses.is_broken() { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }

    /// Waits for the client to do something; not for ever.
    async fn patiently<F: Future<Output = io::Result<()>>>(&self, wait: impl Fn() -> F) -> io::Result<()> {
        let since = Instant::now();
        loop {
            if let Ok(done) = timeout(TICK, wait()).await {
                return done;
            }
            let patience = if self.tenant.own_lanes_are_short() { STALL_WHILE_SHORT } else { STALL };
            if since.elapsed() > patience {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
}

/// Why an dedicated wasn't done.
enum DedicatedError {
    /// memcached's side.
    Lane(Fault),
    /// The client's side: nobody listens, or it takes or sends nothing for too long.
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
