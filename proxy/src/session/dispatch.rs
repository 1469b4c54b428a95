//! What a client's bytes ask for, and where it goes: to the lane, to a lane of its own, or answered here.

use std::borrow::Cow;
use std::rc::Rc;

use store::DenialCause;

use super::dedicated::{DedicatedRequest, StreamedGet, StreamedSet, Untagged};
use super::state::{OwnedThen, Swallow};
use super::{Client, Step, WorkerContext};
use crate::lane::Lane;
use crate::login::{self, Credential};
use crate::metrics::denials::{self, ClientInfo, Subject};
use crate::policy;
use crate::protocol::denial::Denial;
use crate::protocol::request::{
    Answer, Command, Fault, FlagSet, Key, Limits, Mode, Outcome, Request, TextAnswer,
};
use crate::protocol::text::classic::Keys;
use crate::protocol::{self, Frame, Parsed};

const LINE_END: &[u8] = b"\r\n";
/// Requests of one client in one turn of the loop.
const BUDGET: usize = 256;

impl Client {
    /// Understands requests from the front of `input` until something stops it; returns how many bytes they were.
    pub(super) fn understand(&mut self, input: &[u8]) -> (usize, Step) {
        let mut at = 0;
        for _ in 0..BUDGET {
            if !self.has_room() {
                return (at, Step::Backpressured);
            }
            if self.state.keys.is_some() {
                match self.next_key() {
                    Ok(()) => continue,
                    Err(next) => return (at, next),
                }
            }
            let rest = input.get(at..).unwrap_or_default();
            if let Some(swallow) = self.state.swallow.take() {
                if matches!(swallow.then, OwnedThen::Invalidate { .. })
                    && self.must_wait(&Command::Invalidate)
                {
                    self.state.swallow = Some(swallow);
                    return (at, Step::Backpressured);
                }
                at += self.swallow(swallow, rest.len());
                if self.state.swallow.is_some() {
                    return (at, Step::Input);
                }
                continue;
            }
            if rest.is_empty() {
                return (at, Step::Input);
            }
            let limits = self.limits();
            let Some(frame) = self.protocol.and_then(|protocol| protocol.parse(rest, limits)) else {
                return (at, Step::Input);
            };
            match self.act(frame) {
                Ok(consumed) => at += consumed,
                Err((consumed, next)) => return (at + consumed, next),
            }
        }
        (at, Step::Yield)
    }

    /// Does what a frame asks; `Err` when reading must stop behind so many bytes.
    fn act(&mut self, frame: Frame<'_>) -> Result<usize, (usize, Step)> {
        if let Parsed::Request(request) = &frame.parsed
            && let Some(credential) = self.maybe_resent(request)
        {
            match self.state.resent.take() {
                None => return Err((0, Step::VerifyRelogin(credential))),
                Some(true) => {
                    self.answer_resent(request);
                    return Ok(frame.consumed);
                }
                Some(false) => {}
            }
        }
        let denial = self.session.pass.denial(|permissions| policy::frame(permissions, &frame.parsed));
        let over_rate = || (!self.tenant.allows(|| policy::cost(&frame.parsed))).then_some(Denial::OverRate);
        if let Some(denial) = denial.or_else(over_rate) {
            self.note_refused(denial.cause(), denials::command(&frame.parsed));
            self.refuse(&frame.parsed, denial);
            self.state.reads_as_newest = false;
            return Ok(frame.consumed);
        }
        match frame.parsed {
            Parsed::Request(request) => {
                if self.must_wait(&request.command) {
                    return Err((0, Step::Backpressured));
                }
                self.send(&request).map_err(|next| (frame.consumed, next))?;
            }
            Parsed::Keys(keys) => self.ask_for(keys).map_err(|next| (frame.consumed, next))?,
            Parsed::Answer(words) => self.say(words),
            Parsed::Swallow { bytes, then } => {
                self.state.swallow = Some(Swallow { bytes, then: then.into() });
            }
            Parsed::Stream { request, len, complaint } => {
                self.tenant.usage.met_long_value();
                let store = StreamedSet::new(&request, len, complaint, self.tenant.tag());
                return Err((frame.consumed, Step::Dedicated(Box::new(DedicatedRequest::Store(store)))));
            }
            Parsed::UntaggedCommand(alone) => {
                let dedicated = DedicatedRequest::Untagged(Untagged::new(&alone));
                return Err((frame.consumed, Step::Dedicated(Box::new(dedicated))));
            }
            Parsed::NeedsVersion => return Err((0, Step::Version)),
            Parsed::Close(words) => {
                self.say(words);
                return Err((frame.consumed, Step::Close));
            }
            Parsed::Login => return Err((0, Step::Login)),
        }
        self.state.reads_as_newest = false;
        Ok(frame.consumed)
    }

    /// Notes for the token's owner that something was refused: which command it was, and never about what.
    pub(super) fn note_refused(&self, cause: DenialCause, command: &'static str) {
        let client = ClientInfo::new(self.source, self.protocol, self.responses.stream());
        let subject = Subject::Token(self.session.pass.token());
        self.tenant.metrics.denials.note(subject, cause, client, command);
    }

    /// Says that something isn't allowed, when its value, if it has one, is out of the way.
    fn refuse(&mut self, parsed: &Parsed<'_>, denial: Denial) {
        let says = |answer| protocol::refused(answer, denial);
        match parsed {
            Parsed::Stream { request, len, complaint } => {
                let end = complaint.map_or(0, |_| LINE_END.len());
                let bytes = u64::try_from(len.saturating_add(end)).unwrap_or(u64::MAX);
                let then = OwnedThen::Answer(says(request.answer));
                self.state.swallow = Some(Swallow { bytes, then });
            }
            Parsed::Request(request) => self.say(says(request.answer)),
            Parsed::UntaggedCommand(alone) => self.say(says(alone.answer)),
            // One error for the whole line.
            _ => self.say(Cow::Borrowed(denial.line())),
        }
    }

    /// What the instance behind allows and understands.
    fn limits(&self) -> Limits {
        let flags = match self.tenant.flags() {
            FlagSet::Unknown if self.state.reads_as_newest => FlagSet::Newest,
            known => known,
        };
        Limits { item_size_max: self.item_size_max, flags, mechanisms: self.mechanisms }
    }

    /// Asks for the keys of a `get` line, as far as there is room; the rest is kept for later.
    fn ask_for(&mut self, mut keys: Keys<'_>) -> Result<(), Step> {
        while let Some((request, rest)) = keys.next() {
            keys.line = rest;
            let sent = self.send(&request);
            if !rest.is_empty() && (sent.is_err() || !self.has_room()) {
                self.state.keys = Some(keys.into());
                return sent;
            }
            sent?;
        }
        Ok(())
    }

    /// Asks for the next key of an unfinished `get` line.
    fn next_key(&mut self) -> Result<(), Step> {
        let Some(mut keys) = self.state.keys.take() else { return Ok(()) };
        let Some((request, more)) = keys.next() else { return Ok(()) };
        if let Some(denial) = self.session.pass.denial(|permissions| policy::request(permissions, &request)) {
            self.note_refused(denial.cause(), denials::verb(&request));
            // Not any more: some of the line's values may have been told.
            return Err(Step::Close);
        }
        let sent = self.send(&request);
        if let Some(at) = more {
            keys.at = at;
            self.state.keys = Some(keys);
        }
        sent
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
                OwnedThen::Fail { answer, kind, note, fault } => {
                    self.responses.speak(answer, kind, &note, &Outcome::Failed(fault).into());
                }
                OwnedThen::Invalidate { key, form, answer } => {
                    let request =
                        Request { command: Command::Invalidate, key: Key { bytes: &key, form }, answer };
                    match self.session.pass.denial(|permissions| policy::request(permissions, &request)) {
                        Some(denial) => {
                            self.note_refused(denial.cause(), denials::verb(&request));
                            self.say(protocol::refused(answer, denial));
                        }
                        // Never too large for the lane.
                        None => drop(self.send(&request)),
                    }
                }
            }
        }
        dropped
    }

    /// Whether a request would change what the client has asked for and not been told yet. Where values
    /// are so long that they are asked for a second time, that must be done before.
    fn must_wait(&mut self, command: &Command<'_>) -> bool {
        let reads = matches!(command, Command::Get { .. } | Command::Version) || command.kind().is_get();
        self.state.waits_for_reads =
            !reads && self.responses.reading() > 0 && self.tenant.usage.has_long_values();
        self.state.waits_for_reads
    }

    /// Puts a request on the lane, or answers that there is none. A client that asks for long values
    /// reads them from a lane of its own.
    fn send(&mut self, request: &Request<'_>) -> Result<(), Step> {
        let on_its_own = match request.command {
            // Asked for a second time, it might be gone.
            _ if request.command.may_end_what_it_reads() => self.tenant.usage.has_long_values(),
            _ => self.state.is_bulky() && request.command.kind().is_get(),
        };
        if on_its_own {
            return Err(Step::Dedicated(Box::new(DedicatedRequest::Get(StreamedGet::new(request)))));
        }
        if self.state.is_bulky() {
            self.state.saw_small();
        }
        match self.lane() {
            Some(lane) => lane.send(request, &self.responses),
            None => {
                let (kind, asked) = (request.command.kind(), self.responses.asked());
                let unavailable = Outcome::Failed(Fault::Unavailable);
                let mut note = Vec::new();
                protocol::note(request, &mut note);
                self.responses.speak(request.answer, kind, &note, &unavailable.into());
                self.tenant.usage.answered(kind, &unavailable, asked, asked);
            }
        }
        Ok(())
    }

    /// Says words of ours, behind the replies that are still to come.
    fn say(&mut self, words: Cow<'static, [u8]>) {
        if words.is_empty() {
            return;
        }
        match &self.state.lane {
            Some(lane) if self.responses.in_flight() > 0 => lane.say(words, &self.responses),
            _ => self.responses.say(&words),
        }
    }

    /// The lane to use now. A lane that has ended is left only when nothing is in flight on it, which
    /// [`Client::has_room`] has made sure of.
    pub(super) fn lane(&mut self) -> Option<Rc<Lane>> {
        if !self.state.lane.as_ref().is_some_and(|lane| lane.is_open()) {
            self.state.lane = self.tenant.lane(&self.session);
        }
        self.state.lane.clone()
    }

    /// A `set` that looks like a login: well-formed token, checksum and all. Rare among real data.
    fn maybe_resent(&self, request: &Request<'_>) -> Option<Credential> {
        match (&request.command, request.answer) {
            (Command::Store(store), Answer::Text(_)) if store.mode == Mode::Set && store.cas.is_none() => {
                login::parse_relogin(request.key.bytes, store.value)
            }
            _ => None,
        }
    }

    /// Whether a login sent again is a good one, of the same user.
    pub(super) fn is_own(&self, context: &WorkerContext<'_>, credential: &Credential) -> bool {
        context.grants.is_known_of(&self.session.pass.user_id(), credential, self.source)
    }

    /// Welcome again; and not stored, for it would be in the cache for all to read.
    fn answer_resent(&mut self, request: &Request<'_>) {
        if request.answer == Answer::Text(TextAnswer::Line { noreply: false }) {
            self.say(Cow::Borrowed(b"STORED\r\n"));
        }
    }
}
