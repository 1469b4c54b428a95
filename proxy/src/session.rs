//! A logged-in connection at tenant: reads requests, puts them on its lane, and keeps its replies in order.
//!
//! A client is on one lane at a time and changes lanes only when nothing of its own is in flight.

mod dedicated;
mod dispatch;
mod state;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::grants::Grants;
use crate::lane::Lane;
use crate::login::Credential;
use crate::protocol::Protocol;
use crate::protocol::request::FlagSet;
use crate::responses::{ResponseQueue, UNSENT_MAX};
use crate::tenant::{SessionHandle, Tenant};
use crate::transport::Stream;
use dedicated::DedicatedRequest;
pub(crate) use state::State;

/// Requests of one client that may wait for replies.
const IN_FLIGHT_MAX: usize = 256;
/// A client that takes nothing of what it asked for so long is closed.
const STALL: Duration = Duration::from_secs(60);
/// Room for input that is kept when hardly any of it is used.
const INPUT_KEEP: usize = 64 * 1024;

pub(crate) struct Client {
    pub(crate) responses: Rc<ResponseQueue>,
    /// Where it calls from, for when it logs in anew.
    pub(crate) source: IpAddr,
    /// Told by its first byte: `None` while somebody whom a certificate has logged in hasn't said anything.
    pub(crate) protocol: Option<Protocol>,
    pub(crate) tenant: Rc<Tenant>,
    pub(crate) session: SessionHandle,
    /// memcached's `-I`: what it allows of one item.
    pub(crate) item_size_max: u64,
    /// What SASL LIST answers.
    pub(crate) mechanisms: &'static [u8],
    /// Read, not understood yet.
    pub(crate) input: Vec<u8>,
    pub(crate) state: State,
}

/// Why reading stops for now.
enum Step {
    /// All understood: more bytes, please.
    Input,
    /// Others' turn.
    Yield,
    /// Too much in flight or unsent.
    Backpressured,
    /// The front of the input may be a login sent again.
    VerifyRelogin(Credential),
    /// The front of the input means something once memcached's version is known.
    Version,
    /// To be done on a lane of the client's own, when nothing else is in flight.
    Dedicated(Box<DedicatedRequest>),
    /// The front of the input is a binary login.
    Login,
    Close,
}

/// How a client's time at tenant ends.
pub(crate) enum End {
    Gone,
    /// It logs in anew: back to the authenticator, with what it has sent.
    Login(Vec<u8>),
}

/// What a client needs of its worker.
pub(crate) struct WorkerContext<'a> {
    pub(crate) grants: &'a Arc<Grants>,
    /// The stop has begun; [`ResponseQueue::wake_all`] tells those who wait.
    pub(crate) closing: &'a Cell<bool>,
    /// Where all clients read into, between two awaits.
    pub(crate) scratch: &'a RefCell<Vec<u8>>,
}

impl Client {
    /// Serves the connection to its end.
    pub(crate) async fn run(&mut self, context: &WorkerContext<'_>) -> End {
        let mut next = self.resume();
        loop {
            if self.responses.unsent() > 0 && !self.responses.is_blocked() {
                self.responses.flush();
            }
            if self.responses.is_broken() {
                return End::Gone;
            }
            if self.responses.is_deferring() && self.responses.in_flight() == 0 {
                // Boxed, like all that is rare: an idle client's task holds no room for it.
                if Box::pin(self.catch_up(context)).await.is_err() {
                    return End::Gone;
                }
            }
            next = match next {
                Step::Input => match self.wait_for_input(context).await {
                    Ok(next) => next,
                    Err(_) => return Box::pin(self.farewell(context)).await,
                },
                Step::Yield => {
                    tokio::task::yield_now().await;
                    self.resume()
                }
                // The flush above may have made it: nobody would wake us for that.
                Step::Backpressured if self.has_room() => self.resume(),
                Step::Backpressured => match Box::pin(self.wait_for_room()).await {
                    Ok(()) => self.resume(),
                    Err(_) => return End::Gone,
                },
                Step::Version => {
                    Box::pin(self.learn_version()).await;
                    self.resume()
                }
                Step::Dedicated(dedicated) => match Box::pin(self.run_errand(*dedicated, context)).await {
                    Ok(ControlFlow::Continue(())) => self.resume(),
                    Ok(ControlFlow::Break(())) => Step::Close,
                    Err(_) => return End::Gone,
                },
                Step::VerifyRelogin(credential) => {
                    self.state.resent = Some(self.is_own(context, &credential));
                    self.resume()
                }
                Step::Login => {
                    // What is owed must be out before the authenticator speaks.
                    if !Box::pin(self.settle_up(context)).await {
                        return End::Gone;
                    }
                    return End::Login(std::mem::take(&mut self.input));
                }
                Step::Close => return Box::pin(self.farewell(context)).await,
            };
        }
    }

    /// Reads once; an error is the end of the connection.
    async fn wait_for_input(&mut self, context: &WorkerContext<'_>) -> io::Result<Step> {
        loop {
            if context.closing.get() {
                return Ok(Step::Close);
            }
            if self.responses.is_deferring() {
                return Ok(Step::Backpressured);
            }
            if self.responses.is_broken() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if self.responses.is_blocked() {
                Box::pin(self.wait_for_either()).await?;
            } else {
                tokio::select! {
                    biased;
                    ready = self.responses.stream().readable() => ready?,
                    () = self.responses.changed() => continue,
                }
            }
            match self.read(context) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }

    /// Waits for input, or for room for what couldn't be sent.
    async fn wait_for_either(&self) -> io::Result<()> {
        let stream = self.responses.stream();
        tokio::select! {
            biased;
            ready = stream.readable() => ready,
            () = self.responses.changed() => Ok(()),
            room = timeout(STALL, stream.writable()) => {
                room.map_err(|_| io::ErrorKind::TimedOut)??;
                self.responses.flush();
                Ok(())
            }
        }
    }

    /// Reads into the shared buffer and understands as much as may be: the common request is never copied.
    fn read(&mut self, context: &WorkerContext<'_>) -> io::Result<Step> {
        let mut scratch = context.scratch.borrow_mut();
        let read = self.responses.stream().read(&mut scratch)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.responses.has_read(read);
        let fresh = scratch.get(..read).unwrap_or_default();
        if self.protocol.is_none() {
            self.protocol = fresh.first().copied().map(Protocol::detect);
            if let Some(protocol) = self.protocol {
                self.tenant.hears(&self.session, protocol);
            }
        }
        if self.input.is_empty() {
            let (consumed, next) = self.understand(fresh);
            if let Some(rest) = fresh.get(consumed..).filter(|rest| !rest.is_empty()) {
                self.input = self.responses.spare().take();
                self.input.extend_from_slice(rest);
            }
            return Ok(next);
        }
        let goes_on = self.protocol.is_some_and(|protocol| protocol.goes_on(&self.input, fresh));
        self.input.extend_from_slice(fresh);
        drop(scratch);
        if goes_on {
            return Ok(Step::Input);
        }
        Ok(self.resume())
    }

    /// Goes on with what has been read before.
    fn resume(&mut self) -> Step {
        let mut input = std::mem::take(&mut self.input);
        let (consumed, next) = self.understand(&input);
        if consumed < input.len() {
            input.drain(..consumed);
            if input.capacity() > 4 * INPUT_KEEP && input.len() < INPUT_KEEP {
                input.shrink_to_fit();
            }
            self.input = input;
        } else {
            self.responses.spare().give(input);
        }
        next
    }

    fn has_room(&self) -> bool {
        let in_flight = self.responses.in_flight();
        let lane_takes = match &self.state.lane {
            Some(lane) if in_flight > 0 => lane.is_open() && !lane.is_full(),
            _ => self.full_lane().is_none(),
        };
        let in_flight_max = if self.state.is_bulky() { 1 } else { IN_FLIGHT_MAX };
        in_flight < in_flight_max
            && self.responses.unsent() < UNSENT_MAX
            && lane_takes
            && !self.responses.is_deferring()
            && !(self.state.waits_for_reads && self.responses.reading() > 0)
    }

    /// The lane that a request would go to, if that takes no more for now.
    fn full_lane(&self) -> Option<Rc<Lane>> {
        self.tenant.open_lane(&self.session).filter(|lane| lane.is_full())
    }

    /// Waits until something has changed that may have made room.
    async fn wait_for_room(&self) -> io::Result<()> {
        let _waiting = self.responses.waiting();
        if let Some(lane) = self.full_lane() {
            lane.hold(&self.responses);
        }
        let changed = async {
            tokio::select! {
                () = self.responses.changed() => Ok(()),
                room = self.responses.stream().writable(), if self.responses.is_blocked() => {
                    self.responses.flush();
                    room
                }
            }
        };
        timeout(STALL, changed).await.map_err(|_| io::ErrorKind::TimedOut)?
    }

    /// Opens the lane, and so learns what the memcached behind understands. When that can't be had the
    /// request is read as the newest would, and fails for want of a lane.
    async fn learn_version(&mut self) {
        while self.tenant.flags() == FlagSet::Unknown {
            let Some(lane) = self.lane() else { break };
            let _waiting = self.responses.waiting();
            lane.hold(&self.responses);
            self.responses.changed().await;
            if self.responses.is_broken() {
                break;
            }
        }
        self.state.reads_as_newest = self.tenant.flags() == FlagSet::Unknown;
    }

    /// Waits until all replies have come and gone out; whether they have. Who takes a little now and
    /// then may take long.
    async fn finish(&self) -> bool {
        while self.responses.in_flight() > 0 || self.responses.unsent() > 0 {
            if self.responses.is_broken() || self.wait_for_room().await.is_err() {
                return false;
            }
        }
        true
    }

    /// Waits until all replies have come, and those that were put off have been asked for again, and all
    /// has gone out.
    async fn settle_up(&mut self, context: &WorkerContext<'_>) -> bool {
        loop {
            if !self.finish().await {
                return false;
            }
            if !self.responses.is_deferring() {
                return true;
            }
            if Box::pin(self.catch_up(context)).await.is_err() {
                return false;
            }
        }
    }

    /// The socket, for whoever sees to the connection next.
    pub(crate) fn into_stream(self) -> Option<Stream> {
        self.responses.into_stream()
    }

    async fn farewell(&mut self, context: &WorkerContext<'_>) -> End {
        self.responses.flush();
        if self.settle_up(context).await {
            self.responses.stream().linger(context.scratch).await;
        }
        End::Gone
    }
}
