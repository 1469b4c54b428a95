//! Dispatches a session's requests: to its lane, to a dedicated lane, or to a local reply.

use std::borrow::Cow;
use std::rc::Rc;

use store::DenialCause;

use super::dedicated::{DedicatedRequest, StreamedGet, StreamedSet, UntaggedRequest};
use super::state::{OwnedThen, Swallow};
use super::{Session, Step, relogin};
use crate::lane::Lane;
use crate::metrics::denials::{self, ClientInfo, Subject};
use crate::policy;
use crate::protocol::denial::Denial;
use crate::protocol::request::{Command, FlagSet, Key, Limits, Outcome, Request, SHARED_VALUE_MAX};
use crate::protocol::text::classic::Keys;
use crate::protocol::{self, Parsed, ParsedFrame, Then};
use crate::tenant::Pause;

const LINE_END: &[u8] = b"\r\n";
/// The most requests of one session before other tasks run.
const REQUESTS_PER_TURN_MAX: usize = 256;
/// A login on a connection that has logged in costs the proxy as much as this many frames that it answers itself.
const LOGIN_FRAMES: u64 = 64;
/// The longest value, in bytes, that is gathered while the tenant's buffers are tight. A longer one is streamed.
const TIGHT_VALUE_MAX: usize = 2 * 1024;

impl Session {
    /// Dispatches requests from the front of `input`; returns the bytes they took and why it stopped.
    pub(super) fn dispatch(&mut self, input: &[u8]) -> (usize, Step) {
        if let Some(pause) = self.take_due_pause() {
            return (0, pause);
        }
        let operations = self.responses.operations();
        let mut frames = 0;
        let (at, step) = self.dispatch_turn(input, &mut frames);
        // A connection whose frames the proxy answers itself costs it the most, so these are limited even if the plan has
        // no rate.
        let asked = self.responses.operations().wrapping_sub(operations);
        let pause = self.tenant.count_local(frames.saturating_sub(asked));
        if pause.is_some() {
            self.state.due_pause = pause;
        }
        // Nothing is read before the pause: whatever else comes next is done first.
        match step {
            Step::Input | Step::Yield | Step::Backpressured | Step::Login => {
                (at, self.take_due_pause().unwrap_or(step))
            }
            step => (at, step),
        }
    }

    /// The pause that the connection owes, if any.
    #[inline]
    fn take_due_pause(&mut self) -> Option<Step> {
        let time = self.state.due_pause.take()?;
        Some(Step::Throttled(Pause { time, prepaid: self.state.prepaid }))
    }

    /// Dispatches one turn, and counts its `frames`.
    fn dispatch_turn(&mut self, input: &[u8], frames: &mut u64) -> (usize, Step) {
        let mut at = 0;
        // It changes only between turns.
        let gathered_max = if self.tenant.buffers.is_tight() { TIGHT_VALUE_MAX } else { SHARED_VALUE_MAX };
        let begun = std::mem::take(&mut self.state.turn_frames);
        for number in begun..REQUESTS_PER_TURN_MAX {
            if !self.has_capacity() {
                return (at, Step::Backpressured);
            }
            if self.state.keys.is_some() {
                if self.lacks_lane() && !self.responses.has_failed() && self.may_wait() {
                    return (at, Step::AwaitLane);
                }
                match self.next_key() {
                    Ok(()) => continue,
                    Err(next) => return (at, next),
                }
            }
            let rest = input.get(at..).unwrap_or_default();
            if let Some(swallow) = self.state.swallow.take() {
                if let Some(step) = self.must_precede(&swallow.then) {
                    self.state.swallow = Some(swallow);
                    return (at, step);
                }
                at += self.swallow(swallow, rest.len());
                if self.state.swallow.is_some() {
                    let unpaid = self.tenant.has_rate_limit().then(|| self.tenant.unpaid_bytes()).flatten();
                    return (at, unpaid.map_or(Step::Input, Step::Throttled));
                }
                continue;
            }
            if rest.is_empty() {
                return (at, Step::Input);
            }
            let limits = self.limits(gathered_max);
            let Some(frame) = self.protocol.and_then(|protocol| protocol.parse(rest, limits)) else {
                return (at, Step::Input);
            };
            match self.handle(frame) {
                Ok(consumed) => {
                    at += consumed;
                    *frames += 1;
                }
                Err((consumed, next)) => {
                    *frames += match &next {
                        Step::VerifyRelogin(_) => {
                            // Verifying rarely waits, so it ends no turn; it counts as a frame of its own.
                            self.state.turn_frames = number + 1;
                            LOGIN_FRAMES
                        }
                        Step::Login if !std::mem::replace(&mut self.state.charged_login, true) => {
                            LOGIN_FRAMES
                        }
                        // memcached is asked.
                        Step::Dedicated(_) => 0,
                        _ => u64::from(consumed > 0),
                    };
                    return (at + consumed, next);
                }
            }
        }
        (at, Step::Yield)
    }

    /// Handles one frame; returns the bytes to drop. `Err` if dispatching must stop behind them.
    fn handle(&mut self, frame: ParsedFrame<'_>) -> Result<usize, (usize, Step)> {
        if let Parsed::Request(request) = &frame.parsed {
            if let Some(credential) = relogin::parse(request) {
                match self.state.relogin.take() {
                    None => return Err((0, Step::VerifyRelogin(credential))),
                    Some(Ok(())) => {
                        let over_rate = self.charge(&frame.parsed);
                        self.accept_relogin(request);
                        return paced(frame.consumed, over_rate);
                    }
                    Some(Err(reply)) => {
                        self.reply(Cow::Borrowed(reply));
                        return Err((frame.consumed, Step::Close));
                    }
                }
            }
            if self.must_order(&request.command) {
                return Err((0, Step::Backpressured));
            }
        }
        let denial =
            self.handle.permissions.denial(|permissions| policy::deny_frame(permissions, &frame.parsed));
        if denial.is_none() && self.lacks_lane() && self.must_wait(&frame.parsed) {
            return Err((0, Step::AwaitLane));
        }
        let over_rate = if self.tenant.has_rate_limit() { self.charge(&frame.parsed) } else { None };
        let is_denied = || over_rate.is_some() && policy::is_forwarded(&frame.parsed);
        if let Some(denial) = denial.or_else(|| is_denied().then_some(Denial::OverRate)) {
            self.record_denial(denial.cause(), denials::command(&frame.parsed));
            self.deny(&frame.parsed, denial);
            self.state.reads_as_newest = false;
            return paced(frame.consumed, over_rate);
        }
        if over_rate.is_some() {
            self.record_denial(DenialCause::Rate, denials::command(&frame.parsed));
        }
        match frame.parsed {
            Parsed::Request(request) => self.send(&request).map_err(|next| (frame.consumed, next))?,
            Parsed::Keys(keys) => self.send_keys(keys).map_err(|next| (frame.consumed, next))?,
            Parsed::LocalReply(bytes) => self.reply(bytes),
            Parsed::Swallow { bytes, then } => {
                self.state.swallow = Some(Swallow { bytes, then: then.into() });
            }
            Parsed::Stream { request, len, framing_error } => {
                if len > SHARED_VALUE_MAX {
                    self.tenant.usage.saw_large_value();
                }
                let store = StreamedSet::new(&request, len, framing_error, self.tenant.backend.next_tag());
                return Err((frame.consumed, Step::Dedicated(Box::new(DedicatedRequest::Store(store)))));
            }
            Parsed::UntaggedCommand(command) => {
                let dedicated = DedicatedRequest::Untagged(UntaggedRequest::new(&command));
                return Err((frame.consumed, Step::Dedicated(Box::new(dedicated))));
            }
            Parsed::NeedsVersion => return Err((0, Step::NeedsVersion)),
            Parsed::Close(bytes) => {
                self.reply(bytes);
                return Err((frame.consumed, Step::Close));
            }
            Parsed::Login => return Err((0, over_rate.map_or(Step::Login, Step::Throttled))),
        }
        self.state.reads_as_newest = false;
        paced(frame.consumed, over_rate)
    }

    /// Charges a frame to the plan's rates. Returns the pause for the connection if it exceeds one.
    #[cold]
    fn charge(&mut self, parsed: &Parsed<'_>) -> Option<Pause> {
        match policy::cost(parsed) {
            0 => None,
            cost => self.tenant.charge(cost, std::mem::take(&mut self.state.prepaid)).err(),
        }
    }

    /// Records a denial for the token's owner: the command, never a key.
    pub(super) fn record_denial(&self, cause: DenialCause, command: &'static str) {
        let client = ClientInfo::new(self.source, self.protocol, self.responses.stream());
        let subject = Subject::Token(self.handle.permissions.token());
        self.tenant.metrics.denials.record(subject, cause, client, command);
    }

    /// Replies with a denial, after the value, if any, has been dropped.
    fn deny(&mut self, parsed: &Parsed<'_>, denial: Denial) {
        let encode = |format| protocol::encode_denial(format, denial);
        match parsed {
            Parsed::Stream { request, len, framing_error } => {
                let end = framing_error.map_or(0, |_| LINE_END.len());
                let bytes = u64::try_from(len.saturating_add(end)).unwrap_or(u64::MAX);
                let then = OwnedThen::LocalReply(encode(request.format));
                self.state.swallow = Some(Swallow { bytes, then });
            }
            Parsed::Swallow { bytes, then: Then::Request(request) } => {
                let then = OwnedThen::LocalReply(encode(request.format));
                self.state.swallow = Some(Swallow { bytes: *bytes, then });
            }
            Parsed::Request(request) => self.reply(encode(request.format)),
            Parsed::UntaggedCommand(command) => self.reply(encode(command.format)),
            // One error for the whole line (D-6).
            _ => self.reply(Cow::Borrowed(denial.line())),
        }
    }

    /// The limits of the cache, and the flags that its memcached knows.
    fn limits(&self, gathered_max: usize) -> Limits {
        let flags = match self.tenant.backend.flags() {
            FlagSet::Unknown if self.state.reads_as_newest => FlagSet::NEWEST,
            known => known,
        };
        Limits { item_size_max: self.item_size_max, gathered_max, flags, mechanisms: self.mechanisms }
    }

    /// Forwards the keys of a `get` line while there is capacity; keeps the rest for later.
    fn send_keys(&mut self, mut keys: Keys<'_>) -> Result<(), Step> {
        while let Some((request, rest)) = keys.next() {
            keys.line = rest;
            let sent = self.send(&request);
            if !rest.is_empty() && (sent.is_err() || !self.has_capacity()) {
                self.state.keys = Some(keys.into());
                return sent;
            }
            sent?;
        }
        Ok(())
    }

    /// Forwards the next key of a partly forwarded `get` line.
    fn next_key(&mut self) -> Result<(), Step> {
        let Some(mut keys) = self.state.keys.take() else { return Ok(()) };
        let Some((request, more)) = keys.next() else { return Ok(()) };
        if let Some(denial) =
            self.handle.permissions.denial(|permissions| policy::deny_request(permissions, &request))
        {
            self.record_denial(denial.cause(), denials::verb(&request));
            // The permissions have changed, and some of the line's values may have been sent.
            return Err(Step::Close);
        }
        let sent = self.send(&request);
        if let Some(at) = more {
            keys.at = at;
            self.state.keys = Some(keys);
        }
        sent
    }

    /// Drops up to `have` bytes of a data block; when it is complete, does what follows. Returns the bytes dropped.
    fn swallow(&mut self, mut swallow: Swallow, have: usize) -> usize {
        let dropped = usize::try_from(swallow.bytes).unwrap_or(usize::MAX).min(have);
        swallow.bytes = swallow.bytes.saturating_sub(u64::try_from(dropped).unwrap_or(u64::MAX));
        if swallow.bytes > 0 {
            self.state.swallow = Some(swallow);
        } else {
            match swallow.then {
                OwnedThen::LocalReply(bytes) => self.reply(bytes),
                OwnedThen::Fail { format, kind, context, fault } => {
                    self.responses.write_reply(format, kind, &context, &Outcome::Failed(fault).into());
                }
                OwnedThen::Invalidate { key, form, format } => {
                    let request =
                        Request { command: Command::Invalidate, key: Key { bytes: &key, form }, format };
                    match self
                        .handle
                        .permissions
                        .denial(|permissions| policy::deny_request(permissions, &request))
                    {
                        Some(denial) => {
                            self.record_denial(denial.cause(), denials::verb(&request));
                            self.reply(protocol::encode_denial(format, denial));
                        }
                        // A delete never needs a dedicated lane.
                        None => drop(self.send(&request)),
                    }
                }
            }
        }
        dropped
    }

    /// What must be done before the data block is dropped that a delete follows.
    fn must_precede(&mut self, then: &OwnedThen) -> Option<Step> {
        if !matches!(then, OwnedThen::Invalidate { .. }) {
            None
        } else if self.must_order(&Command::Invalidate) {
            Some(Step::Backpressured)
        } else {
            (self.lacks_lane() && self.may_wait()).then_some(Step::AwaitLane)
        }
    }

    /// Whether a write must wait for the session's gets: large values are requested a second time, and the write
    /// must not change them in between.
    fn must_order(&mut self, command: &Command<'_>) -> bool {
        let reads = matches!(command, Command::Get { .. } | Command::Version) || command.kind().is_get();
        self.state.waits_for_reads =
            !reads && self.responses.gets_in_flight() > 0 && self.tenant.usage.has_large_values();
        self.state.waits_for_reads
    }

    /// Sends a request on the session's lane, or replies that the backend is unavailable. `Err` if it needs a
    /// dedicated lane.
    fn send(&mut self, request: &Request<'_>) -> Result<(), Step> {
        if self.needs_dedicated(&request.command) {
            return Err(Step::Dedicated(Box::new(DedicatedRequest::Get(StreamedGet::new(request)))));
        }
        if self.state.prefers_dedicated() {
            self.state.note_small();
        }
        match self.lane() {
            Some(lane) => lane.send(request, &self.responses),
            None => self.answer_unavailable(request),
        }
        Ok(())
    }

    /// Whether a request goes to a dedicated lane.
    pub(super) fn needs_dedicated(&self, command: &Command<'_>) -> bool {
        match command {
            // The item may have expired when it is requested a second time.
            _ if command.may_expire_what_it_reads() => self.tenant.usage.has_large_values(),
            _ => self.state.prefers_dedicated() && command.kind().is_get(),
        }
    }

    /// Queues a local reply behind the replies in flight.
    pub(super) fn reply(&mut self, bytes: Cow<'static, [u8]>) {
        if bytes.is_empty() {
            return;
        }
        match &self.state.lane {
            Some(lane) if self.responses.in_flight() > 0 => lane.send_local(bytes, &self.responses),
            _ => self.responses.write_raw(&bytes),
        }
    }

    /// The lane to use, if one is open. A closed lane is replaced only while nothing is in flight, which
    /// [`Session::has_capacity`] ensures.
    pub(super) fn lane(&mut self) -> Option<Rc<Lane>> {
        if self.lacks_lane() {
            let is_wanted = !self.state.gives_up.get();
            self.state.lane = is_wanted.then(|| self.tenant.backend.open_lane(self.handle.number)).flatten();
        }
        self.state.lane.clone()
    }
}

/// Continues behind a frame of `consumed` bytes, after the pause if it exceeded a rate.
fn paced(consumed: usize, over_rate: Option<Pause>) -> Result<usize, (usize, Step)> {
    match over_rate {
        None => Ok(consumed),
        Some(pause) => Err((consumed, Step::Throttled(pause))),
    }
}
