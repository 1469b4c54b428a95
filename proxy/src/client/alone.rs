//! What a client does on a lane of its own: long values in both directions, and what carries no tag. While
//! it does, it reads nothing else; what it takes slowly, memcached gives slowly.

mod get;
mod store;
mod untagged;

use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{Client, House, STALL};
use crate::home::{Begun, Home, OwnLane};
use crate::outbox::{Deferred, UNSENT_MAX, whole};
use crate::request::{Fault, Outcome, Reply};
pub(super) use get::OwnGet;
pub(super) use store::OwnStore;
pub(super) use untagged::Untagged;

/// A client that takes or sends nothing while others of its user wait for its lane is closed after so long.
const STALL_WHILE_SHORT: Duration = Duration::from_secs(5);
/// How often that is looked at.
const TICK: Duration = Duration::from_millis(500);

/// What is to be done there.
pub(super) enum Errand {
    Get(OwnGet),
    Store(OwnStore),
    Untagged(Untagged),
}

impl Client {
    /// Does `errand` when nothing else is in flight. `Break` when the connection is to end; an error when
    /// nobody listens any more.
    pub(super) async fn run_errand(
        &mut self,
        errand: Errand,
        house: &House<'_>,
    ) -> io::Result<ControlFlow<()>> {
        self.outbox.has_asked();
        let begun = self.seat.pass.begun();
        if !self.settle_up(house).await {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.still_allowed(begun)?;
        match errand {
            Errand::Get(get) => self.fetch(&get, house).await?,
            Errand::Store(store) => return self.stream(store, begun, house).await,
            Errand::Untagged(untagged) => self.ask_untagged(&untagged, begun, house).await?,
        }
        Ok(ControlFlow::Continue(()))
    }

    /// What was allowed when it was begun must still be when it is done. Rare enough that the connection
    /// ends: its client comes back and is told what it may.
    fn still_allowed(&self, begun: Begun) -> io::Result<()> {
        if self.seat.pass.changed_since(begun) { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(()) }
    }

    /// A lane of its own for what was allowed when it was `begun`. Others' may all be taken: who has waited may
    /// have lost the right meanwhile.
    async fn own_lane<'a>(&self, home: &'a Home, begun: Begun) -> Result<OwnLane<'a>, Trouble> {
        let lane = home.own_lane(STALL).await?;
        self.still_allowed(begun)?;
        Ok(lane)
    }

    /// Says what was put off, in order, and asks again for what was dropped.
    pub(super) async fn catch_up(&mut self, house: &House<'_>) -> io::Result<()> {
        while let Some(deferred) = self.outbox.next_deferred() {
            match deferred {
                Deferred::Words(words) => self.outbox.say(&words),
                Deferred::Said { answer, kind, note, outcome, data, tokens } => {
                    let reply = Reply { outcome: whole(outcome, &data), tokens: &tokens };
                    self.outbox.speak(answer, kind, &note, &reply);
                }
                Deferred::Again { answer, kind, note, tokens } => {
                    self.fetch(&OwnGet::again(answer, kind, note, tokens), house).await?;
                }
            }
            if self.outbox.unsent() > UNSENT_MAX {
                self.drain().await?;
            }
        }
        self.outbox.flush();
        Ok(())
    }

    /// Waits until the client has taken everything; not for ever.
    async fn drain(&self) -> io::Result<()> {
        self.outbox.flush();
        while self.outbox.unsent() > 0 {
            self.patiently(|| self.outbox.stream().writable()).await?;
            self.outbox.flush();
        }
        if self.outbox.is_broken() { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }

    /// Waits for the client to do something; not for ever.
    async fn patiently<F: Future<Output = io::Result<()>>>(&self, wait: impl Fn() -> F) -> io::Result<()> {
        let since = Instant::now();
        loop {
            if let Ok(done) = timeout(TICK, wait()).await {
                return done;
            }
            let patience = if self.home.own_lanes_are_short() { STALL_WHILE_SHORT } else { STALL };
            if since.elapsed() > patience {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
}

/// Why an errand wasn't done.
enum Trouble {
    /// memcached's side.
    Lane(Fault),
    /// The client's side: nobody listens, or it takes or sends nothing for too long.
    Client(io::Error),
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self::Lane(fault)
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Client(error)
    }
}

fn failed(fault: Fault) -> Reply<'static> {
    Outcome::Failed(fault).into()
}
