//! A logged-in connection at home: reads requests, puts them on its lane, and keeps its replies in order.
//!
//! A client is on one lane at a time and changes lanes only when nothing of its own is in flight.

mod alone;
mod state;
mod understand;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::dialect::Dialect;
use crate::grants::Grants;
use crate::home::{Home, Seat};
use crate::lane::Lane;
use crate::login::Credential;
use crate::outbox::{Outbox, UNSENT_MAX};
use crate::request::FlagSet;
use crate::stream::Stream;
use alone::Errand;
pub(crate) use state::State;

/// Requests of one client that may wait for replies.
const IN_FLIGHT_MAX: usize = 256;
/// A client that takes nothing of what it asked for so long is closed.
const STALL: Duration = Duration::from_secs(60);
/// Room for input that is kept when hardly any of it is used.
const INPUT_KEEP: usize = 64 * 1024;

pub(crate) struct Client {
    pub(crate) outbox: Rc<Outbox>,
    /// Where it calls from, for when it logs in anew.
    pub(crate) source: IpAddr,
    /// Told by its first byte: `None` while somebody whom a certificate has logged in hasn't said anything.
    pub(crate) dialect: Option<Dialect>,
    pub(crate) home: Rc<Home>,
    pub(crate) seat: Seat,
    /// memcached's `-I`: what it allows of one item.
    pub(crate) item_size_max: u64,
    /// What SASL LIST answers.
    pub(crate) mechanisms: &'static [u8],
    /// Read, not understood yet.
    pub(crate) input: Vec<u8>,
    pub(crate) state: State,
}

/// Why reading stops for now.
enum Next {
    /// All understood: more bytes, please.
    Input,
    /// Others' turn.
    Yield,
    /// Too much in flight or unsent.
    Held,
    /// The front of the input may be a login sent again.
    Check(Credential),
    /// The front of the input means something once memcached's version is known.
    Version,
    /// To be done on a lane of the client's own, when nothing else is in flight.
    Errand(Box<Errand>),
    /// The front of the input is a binary login.
    Login,
    Close,
}

/// How a client's time at home ends.
pub(crate) enum End {
    Gone,
    /// It logs in anew: back to the doorman, with what it has sent.
    Login(Vec<u8>),
}

/// What a client needs of its worker.
pub(crate) struct House<'a> {
    pub(crate) grants: &'a Arc<Grants>,
    /// The stop has begun; [`Outbox::rouse`] tells those who wait.
    pub(crate) closing: &'a Cell<bool>,
    /// Where all clients read into, between two awaits.
    pub(crate) scratch: &'a RefCell<Vec<u8>>,
}

impl Client {
    /// Serves the connection to its end.
    pub(crate) async fn run(&mut self, house: &House<'_>) -> End {
        let mut next = self.resume();
        loop {
            if self.outbox.unsent() > 0 && !self.outbox.is_blocked() {
                self.outbox.flush();
            }
            if self.outbox.is_broken() {
                return End::Gone;
            }
            if self.outbox.is_deferring() && self.outbox.in_flight() == 0 {
                // Boxed, like all that is rare: an idle client's task holds no room for it.
                if Box::pin(self.catch_up(house)).await.is_err() {
                    return End::Gone;
                }
            }
            next = match next {
                Next::Input => match self.wait_for_input(house).await {
                    Ok(next) => next,
                    Err(_) => return Box::pin(self.farewell(house)).await,
                },
                Next::Yield => {
                    tokio::task::yield_now().await;
                    self.resume()
                }
                // The flush above may have made it: nobody would wake us for that.
                Next::Held if self.has_room() => self.resume(),
                Next::Held => match Box::pin(self.wait_for_room()).await {
                    Ok(()) => self.resume(),
                    Err(_) => return End::Gone,
                },
                Next::Version => {
                    Box::pin(self.learn_version()).await;
                    self.resume()
                }
                Next::Errand(errand) => match Box::pin(self.run_errand(*errand, house)).await {
                    Ok(ControlFlow::Continue(())) => self.resume(),
                    Ok(ControlFlow::Break(())) => Next::Close,
                    Err(_) => return End::Gone,
                },
                Next::Check(credential) => {
                    self.state.resent = Some(self.is_own(house, &credential));
                    self.resume()
                }
                Next::Login => {
                    // What is owed must be out before the doorman speaks.
                    if !Box::pin(self.settle_up(house)).await {
                        return End::Gone;
                    }
                    return End::Login(std::mem::take(&mut self.input));
                }
                Next::Close => return Box::pin(self.farewell(house)).await,
            };
        }
    }

    /// Reads once; an error is the end of the connection.
    async fn wait_for_input(&mut self, house: &House<'_>) -> io::Result<Next> {
        loop {
            if house.closing.get() {
                return Ok(Next::Close);
            }
            if self.outbox.is_deferring() {
                return Ok(Next::Held);
            }
            if self.outbox.is_broken() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if self.outbox.is_blocked() {
                Box::pin(self.wait_for_either()).await?;
            } else {
                tokio::select! {
                    biased;
                    ready = self.outbox.stream().readable() => ready?,
                    () = self.outbox.changed() => continue,
                }
            }
            match self.read(house) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }

    /// Waits for input, or for room for what couldn't be sent.
    async fn wait_for_either(&self) -> io::Result<()> {
        let stream = self.outbox.stream();
        tokio::select! {
            biased;
            ready = stream.readable() => ready,
            () = self.outbox.changed() => Ok(()),
            room = timeout(STALL, stream.writable()) => {
                room.map_err(|_| io::ErrorKind::TimedOut)??;
                self.outbox.flush();
                Ok(())
            }
        }
    }

    /// Reads into the shared buffer and understands as much as may be: the common request is never copied.
    fn read(&mut self, house: &House<'_>) -> io::Result<Next> {
        let mut scratch = house.scratch.borrow_mut();
        let read = self.outbox.stream().read(&mut scratch)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.outbox.has_read(read);
        let fresh = scratch.get(..read).unwrap_or_default();
        if self.dialect.is_none() {
            self.dialect = fresh.first().copied().map(Dialect::detect);
            if let Some(dialect) = self.dialect {
                self.home.hears(&self.seat, dialect);
            }
        }
        if self.input.is_empty() {
            let (consumed, next) = self.understand(fresh);
            if let Some(rest) = fresh.get(consumed..).filter(|rest| !rest.is_empty()) {
                self.input = self.outbox.spare().take();
                self.input.extend_from_slice(rest);
            }
            return Ok(next);
        }
        let goes_on = self.dialect.is_some_and(|dialect| dialect.goes_on(&self.input, fresh));
        self.input.extend_from_slice(fresh);
        drop(scratch);
        if goes_on {
            return Ok(Next::Input);
        }
        Ok(self.resume())
    }

    /// Goes on with what has been read before.
    fn resume(&mut self) -> Next {
        let mut input = std::mem::take(&mut self.input);
        let (consumed, next) = self.understand(&input);
        if consumed < input.len() {
            input.drain(..consumed);
            if input.capacity() > 4 * INPUT_KEEP && input.len() < INPUT_KEEP {
                input.shrink_to_fit();
            }
            self.input = input;
        } else {
            self.outbox.spare().give(input);
        }
        next
    }

    fn has_room(&self) -> bool {
        let in_flight = self.outbox.in_flight();
        let lane_takes = match &self.state.lane {
            Some(lane) if in_flight > 0 => lane.is_open() && !lane.is_full(),
            _ => self.full_lane().is_none(),
        };
        let in_flight_max = if self.state.is_bulky() { 1 } else { IN_FLIGHT_MAX };
        in_flight < in_flight_max
            && self.outbox.unsent() < UNSENT_MAX
            && lane_takes
            && !self.outbox.is_deferring()
            && !(self.state.waits_for_reads && self.outbox.reading() > 0)
    }

    /// The lane that a request would go to, if that takes no more for now.
    fn full_lane(&self) -> Option<Rc<Lane>> {
        self.home.open_lane(&self.seat).filter(|lane| lane.is_full())
    }

    /// Waits until something has changed that may have made room.
    async fn wait_for_room(&self) -> io::Result<()> {
        let _waiting = self.outbox.waiting();
        if let Some(lane) = self.full_lane() {
            lane.hold(&self.outbox);
        }
        let changed = async {
            tokio::select! {
                () = self.outbox.changed() => Ok(()),
                room = self.outbox.stream().writable(), if self.outbox.is_blocked() => {
                    self.outbox.flush();
                    room
                }
            }
        };
        timeout(STALL, changed).await.map_err(|_| io::ErrorKind::TimedOut)?
    }

    /// Opens the lane, and so learns what the memcached behind understands. When that can't be had the
    /// request is read as the newest would, and fails for want of a lane.
    async fn learn_version(&mut self) {
        while self.home.flags() == FlagSet::Unknown {
            let Some(lane) = self.lane() else { break };
            let _waiting = self.outbox.waiting();
            lane.hold(&self.outbox);
            self.outbox.changed().await;
            if self.outbox.is_broken() {
                break;
            }
        }
        self.state.reads_as_newest = self.home.flags() == FlagSet::Unknown;
    }

    /// Waits until all replies have come and gone out; whether they have. Who takes a little now and
    /// then may take long.
    async fn finish(&self) -> bool {
        while self.outbox.in_flight() > 0 || self.outbox.unsent() > 0 {
            if self.outbox.is_broken() || self.wait_for_room().await.is_err() {
                return false;
            }
        }
        true
    }

    /// Waits until all replies have come, and those that were put off have been asked for again, and all
    /// has gone out.
    async fn settle_up(&mut self, house: &House<'_>) -> bool {
        loop {
            if !self.finish().await {
                return false;
            }
            if !self.outbox.is_deferring() {
                return true;
            }
            if Box::pin(self.catch_up(house)).await.is_err() {
                return false;
            }
        }
    }

    /// The socket, for whoever sees to the connection next.
    pub(crate) fn into_stream(self) -> Option<Stream> {
        self.outbox.into_stream()
    }

    async fn farewell(&mut self, house: &House<'_>) -> End {
        self.outbox.flush();
        if self.settle_up(house).await {
            self.outbox.stream().linger(house.scratch).await;
        }
        End::Gone
    }
}
