//! A logged-in connection at home: reads requests, puts them on its lane, and keeps its replies in order.
//!
//! A client is on one lane at a time and changes lanes only when nothing of its own is in flight.

mod state;

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use store::Grant;
use tokio::time::timeout;

use crate::dialect::{Dialect, Frame, Parsed};
use crate::grants::{Grants, Verdict};
use crate::home::{Home, Seat};
use crate::lane::Lane;
use crate::login::{self, Credential};
use crate::outbox::Outbox;
use crate::request::{Answer, Command, Fault, Limits, Mode, Outcome, Request, TextAnswer};
use crate::socket::{self, linger};
pub(crate) use state::State;
use state::{OwnedThen, Swallow};

/// Requests of one client that may wait for replies.
const IN_FLIGHT_MAX: usize = 256;
/// Unsent bytes at which no more requests are taken.
const UNSENT_MAX: usize = 256 * 1024;
/// Requests of one client in one turn of the loop.
const BUDGET: usize = 256;
/// A client that takes nothing of what it asked for so long is closed.
const STALL: Duration = Duration::from_secs(60);
/// Room for input that is kept when hardly any of it is used.
const INPUT_KEEP: usize = 64 * 1024;

pub(crate) struct Client {
    pub(crate) outbox: Rc<Outbox>,
    pub(crate) dialect: Dialect,
    pub(crate) grant: Arc<Grant>,
    pub(crate) home: Rc<Home>,
    pub(crate) seat: Seat,
    pub(crate) limits: Limits,
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
            next = match next {
                Next::Input => match self.wait_for_input(house).await {
                    Ok(next) => next,
                    Err(_) => return self.farewell(house).await,
                },
                Next::Yield => {
                    tokio::task::yield_now().await;
                    self.resume()
                }
                // The flush above may have made it: nobody would wake us for that.
                Next::Held if self.has_room() => self.resume(),
                Next::Held => match self.wait_for_room().await {
                    Ok(()) => self.resume(),
                    Err(_) => return End::Gone,
                },
                Next::Check(credential) => {
                    let own = self.is_own(house, &credential).await;
                    self.state.resent = Some(own);
                    self.resume()
                }
                Next::Login => {
                    // What is owed must be out before the doorman speaks.
                    if !self.finish().await {
                        return End::Gone;
                    }
                    return End::Login(std::mem::take(&mut self.input));
                }
                Next::Close => return self.farewell(house).await,
            };
        }
    }

    /// Reads once; an error is the end of the connection.
    async fn wait_for_input(&mut self, house: &House<'_>) -> io::Result<Next> {
        loop {
            if house.closing.get() {
                return Ok(Next::Close);
            }
            let stream = self.outbox.stream();
            let blocked = self.outbox.is_blocked();
            tokio::select! {
                biased;
                ready = stream.readable() => {
                    ready?;
                    match self.read(house) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        read => return read,
                    }
                }
                () = self.outbox.changed() => {}
                room = timeout(STALL, stream.writable()), if blocked => {
                    room.map_err(|_| io::ErrorKind::TimedOut)??;
                    self.outbox.flush();
                }
            }
            if self.outbox.is_broken() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
    }

    /// Reads into the shared buffer and understands as much as may be: the common request is never copied.
    fn read(&mut self, house: &House<'_>) -> io::Result<Next> {
        let mut scratch = house.scratch.borrow_mut();
        let read = socket::read(self.outbox.stream(), &mut scratch)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let fresh = scratch.get(..read).unwrap_or_default();
        if self.input.is_empty() {
            let (consumed, next) = self.understand(fresh);
            self.input.extend_from_slice(fresh.get(consumed..).unwrap_or_default());
            return Ok(next);
        }
        let goes_on = self.dialect.goes_on(&self.input, fresh);
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
        }
        next
    }

    /// Understands requests from the front of `input` until something stops it; returns how many bytes they were.
    fn understand(&mut self, input: &[u8]) -> (usize, Next) {
        let mut at = 0;
        for _ in 0..BUDGET {
            if !self.has_room() {
                return (at, Next::Held);
            }
            if self.next_key() {
                continue;
            }
            let rest = input.get(at..).unwrap_or_default();
            if let Some(swallow) = self.state.swallow.take() {
                at += self.swallow(swallow, rest.len());
                if self.state.swallow.is_some() {
                    return (at, Next::Input);
                }
                continue;
            }
            if rest.is_empty() {
                return (at, Next::Input);
            }
            let Some(frame) = self.dialect.parse(rest, self.limits) else { return (at, Next::Input) };
            match self.act(frame) {
                Ok(consumed) => at += consumed,
                Err((consumed, next)) => return (at + consumed, next),
            }
        }
        (at, Next::Yield)
    }

    /// Does what a frame asks; `Err` when reading must stop behind so many bytes.
    fn act(&mut self, frame: Frame<'_>) -> Result<usize, (usize, Next)> {
        match frame.parsed {
            Parsed::Request(request) => {
                if let Some(credential) = self.maybe_resent(&request) {
                    match self.state.resent.take() {
                        None => return Err((0, Next::Check(credential))),
                        Some(true) => {
                            self.answer_resent(&request);
                            return Ok(frame.consumed);
                        }
                        Some(false) => {}
                    }
                }
                self.send(&request);
            }
            Parsed::Keys(keys) => self.state.keys = Some(keys.into()),
            Parsed::Answer(words) => self.say(words),
            Parsed::Swallow { bytes, then } => {
                self.state.swallow = Some(Swallow { bytes, then: then.into() });
            }
            Parsed::Close(words) => {
                self.say(words);
                return Err((frame.consumed, Next::Close));
            }
            Parsed::Login => return Err((0, Next::Login)),
        }
        Ok(frame.consumed)
    }

    /// Asks for the next key of an unfinished `get` line, if there is one.
    fn next_key(&mut self) -> bool {
        let Some(mut keys) = self.state.keys.take() else { return false };
        let Some((request, more)) = keys.next() else { return false };
        self.send(&request);
        if let Some(at) = more {
            keys.at = at;
            self.state.keys = Some(keys);
        }
        true
    }

    /// Drops bytes that nobody wants; when all are gone, does what was to be done then.
    fn swallow(&mut self, mut swallow: Swallow, have: usize) -> usize {
        let dropped = usize::try_from(swallow.bytes).unwrap_or(usize::MAX).min(have);
        swallow.bytes = swallow.bytes.saturating_sub(u64::try_from(dropped).unwrap_or(u64::MAX));
        if swallow.bytes > 0 {
            self.state.swallow = Some(swallow);
        } else {
            match swallow.then {
                OwnedThen::Answer(words) => self.say(words),
                OwnedThen::Forget { key, answer } => {
                    self.send(&Request { command: Command::Forget, key: &key, answer });
                }
            }
        }
        dropped
    }

    /// Puts a request on the lane, or answers that there is none.
    fn send(&mut self, request: &Request<'_>) {
        match self.lane() {
            Some(lane) => {
                self.home.metrics.requests.inc();
                lane.send(request, &self.outbox);
            }
            None => {
                let unavailable = Outcome::Failed(Fault::Unavailable);
                let kind = request.command.kind();
                self.outbox.speak(request.answer, kind, request.key, &unavailable);
            }
        }
    }

    /// Says words of ours, behind the replies that are still to come.
    fn say(&mut self, words: Cow<'static, [u8]>) {
        if words.is_empty() {
            return;
        }
        match &self.state.lane {
            Some(lane) if self.outbox.in_flight() > 0 => lane.say(words, &self.outbox),
            _ => self.outbox.say(&words),
        }
    }

    /// The lane to use now. A lane that has ended is left only when nothing is in flight on it, which
    /// [`Client::has_room`] has made sure of.
    fn lane(&mut self) -> Option<Rc<Lane>> {
        if !self.state.lane.as_ref().is_some_and(|lane| lane.is_open()) {
            self.state.lane = self.home.lane(&self.seat);
        }
        self.state.lane.clone()
    }

    fn has_room(&self) -> bool {
        let in_flight = self.outbox.in_flight();
        let lane_takes = match &self.state.lane {
            Some(lane) if in_flight > 0 => lane.is_open() && !lane.is_full(),
            _ => self.full_lane().is_none(),
        };
        in_flight < IN_FLIGHT_MAX && self.outbox.unsent() < UNSENT_MAX && lane_takes
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

    /// A `set` that looks like a login: well-formed token, checksum and all. Rare among real data.
    fn maybe_resent(&self, request: &Request<'_>) -> Option<Credential> {
        match (&request.command, request.answer) {
            (Command::Store(store), Answer::Text(_)) if store.mode == Mode::Set && store.cas.is_none() => {
                login::resent(request.key, store.value)
            }
            _ => None,
        }
    }

    /// Whether a login sent again is a good one, of the same user.
    async fn is_own(&self, house: &House<'_>, credential: &Credential) -> bool {
        match house.grants.check(credential).await {
            Verdict::Welcome(grant) => grant.user_id == self.grant.user_id,
            Verdict::Refused(_) | Verdict::Unavailable => false,
        }
    }

    /// Welcome again; and not stored, for it would be in the cache for all to read.
    fn answer_resent(&mut self, request: &Request<'_>) {
        if request.answer == Answer::Text(TextAnswer::Line { noreply: false }) {
            self.say(Cow::Borrowed(b"STORED\r\n"));
        }
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

    /// The socket, for whoever sees to the connection next.
    pub(crate) fn into_stream(self) -> Option<tokio::net::TcpStream> {
        self.outbox.into_stream()
    }

    async fn farewell(&self, house: &House<'_>) -> End {
        self.outbox.flush();
        if self.finish().await {
            linger(self.outbox.stream(), house.scratch).await;
        }
        End::Gone
    }
}
