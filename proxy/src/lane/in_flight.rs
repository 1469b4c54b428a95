//! The requests in flight on a lane, in order. A reply is delivered only if it carries its request's tag.

use std::borrow::Cow;
use std::collections::{HashSet, VecDeque};
use std::rc::Rc;

use super::decode::{self, Decoded, ProtocolError, VALUE_END, ValueLimits};
use crate::metrics::usage::{StartedAt, Usage};
use crate::protocol;
use crate::protocol::request::{CommandKind, Fault, Outcome, Reply, ReplyFormat, Request};
use crate::responses::{Again, ResponseQueue};

/// The most requests of one lane that wait for replies, and the bytes of their contexts: beyond it sessions wait.
pub(super) const PENDING_MAX: usize = 64 * 1024;
const CONTEXTS_MAX: usize = 4 * 1024 * 1024;
/// The most requests that the queue keeps room for while it is empty.
const KEPT_CAPACITY_MAX: usize = 1024;

pub(crate) struct InFlight {
    pending: VecDeque<Pending>,
    /// The reply contexts of the pending requests, one behind the other.
    contexts: VecDeque<u8>,
    next_tag: u64,
    limits: ValueLimits,
    /// Bytes of a large value, its line end included, that are still to be discarded.
    discard_remaining: usize,
    usage: Rc<Usage>,
}

struct Pending {
    client: Rc<ResponseQueue>,
    expected: Expected,
}

enum Expected {
    /// A reply by memcached.
    Reply {
        tag: u64,
        kind: CommandKind,
        format: ReplyFormat,
        context_len: usize,
        started_at: StartedAt,
        repeat: Repeat,
    },
    /// A local reply. It is written once all replies before it have been.
    Local(Cow<'static, [u8]>),
}

/// Whether a request may be sent once more if its lane fails (F-35).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeat {
    /// memcached may have applied it.
    Never,
    Once,
    /// It has been.
    Spent,
}

impl InFlight {
    pub(crate) fn new(limits: ValueLimits, usage: Rc<Usage>) -> Self {
        Self {
            pending: VecDeque::new(),
            contexts: VecDeque::new(),
            next_tag: 0,
            limits,
            discard_remaining: 0,
            usage,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.discard_remaining == 0
    }

    /// Whether sessions should wait before they send more.
    pub(crate) fn is_full(&self) -> bool {
        self.pending.len() >= PENDING_MAX || self.contexts.len() >= CONTEXTS_MAX
    }

    /// How many requests it has room for.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.pending.capacity()
    }

    /// Frees most of the memory of a queue that has become empty.
    fn free_unused(&mut self) {
        if self.pending.is_empty() && self.pending.capacity() > KEPT_CAPACITY_MAX {
            self.pending = VecDeque::new();
            self.contexts = VecDeque::new();
        }
    }

    /// Adds a request, whose reply goes to `client`. Returns the tag to send with it.
    pub(crate) fn push(&mut self, request: &Request<'_>, client: Rc<ResponseQueue>) -> u64 {
        let tag = self.next_tag;
        self.next_tag = tag.wrapping_add(1);
        let before = self.contexts.len();
        protocol::reply_context(request, &mut self.contexts);
        let context_len = self.contexts.len() - before;
        let (kind, format, started_at) = (request.command.kind(), request.format, client.read_at());
        client.expect(kind);
        let repeat = if request.command.may_repeat() { Repeat::Once } else { Repeat::Never };
        let expected = Expected::Reply { tag, kind, format, context_len, started_at, repeat };
        self.pending.push_back(Pending { client, expected });
        tag
    }

    /// The last request has been sent before, on a lane that has failed, and was read at `started_at`.
    pub(crate) fn mark_repeated(&mut self, started_at: StartedAt) {
        if let Some(Pending { expected: Expected::Reply { started_at: at, repeat, .. }, .. }) =
            self.pending.back_mut()
        {
            (*at, *repeat) = (started_at, Repeat::Spent);
        }
    }

    /// The first request isn't sent again: its reply has broken the protocol.
    pub(crate) fn spend_first(&mut self) {
        if let Some(Pending { expected: Expected::Reply { repeat: repeat @ Repeat::Once, .. }, .. }) =
            self.pending.front_mut()
        {
            *repeat = Repeat::Spent;
        }
    }

    /// Whether memcached has replied to a request.
    pub(crate) fn has_delivered(&self) -> bool {
        let is_reply = |pending: &&Pending| matches!(pending.expected, Expected::Reply { .. });
        let unanswered = u64::try_from(self.pending.iter().filter(is_reply).count()).unwrap_or(u64::MAX);
        self.next_tag > unanswered
    }

    /// Adds a local reply to `client` behind the replies in flight.
    pub(crate) fn push_local(&mut self, bytes: Cow<'static, [u8]>, client: Rc<ResponseQueue>) {
        client.expect_local(if let Cow::Owned(owned) = &bytes { owned.len() } else { 0 });
        self.pending.push_back(Pending { client, expected: Expected::Local(bytes) });
    }

    /// Delivers every complete reply in `input` and returns how many bytes they took. Adds each client that
    /// was written to once to `dirty`.
    pub(crate) fn deliver(
        &mut self,
        input: &[u8],
        dirty: &mut Vec<Rc<ResponseQueue>>,
    ) -> Result<usize, ProtocolError> {
        let mut consumed = if self.discard_remaining > 0 { self.discard(input)? } else { 0 };
        let now = self.usage.now();
        while let Some(rest) = input.get(consumed..).filter(|rest| !rest.is_empty()) {
            let Some(decoded) = decode::parse(rest, self.limits)? else { break };
            match decoded {
                Decoded::Complete(decoded) => {
                    consumed += decoded.consumed;
                    let next = self.pop_matching(|kind, tag| decoded.answers(kind, tag))?;
                    self.complete(next, &decoded.reply, now, dirty);
                }
                Decoded::LargeValue { header, tag, consumed: line } => {
                    consumed += line;
                    let next =
                        self.pop_matching(|kind, own| tag == Some(own) && decode::may_be_large(kind))?;
                    self.defer(next, header.tokens, dirty);
                    self.discard_remaining = header.len + VALUE_END.len();
                    consumed += self.discard(input.get(consumed..).unwrap_or_default())?;
                }
            }
            while let Some(Pending { expected: Expected::Local(_), .. }) = self.pending.front() {
                let Some(next) = self.pending.pop_front() else { break };
                // A local reply needs no reply by memcached.
                self.complete(next, &Outcome::Miss.into(), now, dirty);
            }
        }
        self.free_unused();
        Ok(consumed)
    }

    /// Completes everything in flight with `fault`. Returns the clients that were written to.
    pub(crate) fn fail(&mut self, fault: Fault) -> Vec<Rc<ResponseQueue>> {
        let mut dirty = Vec::new();
        let now = self.usage.now();
        while let Some(next) = self.pending.pop_front() {
            self.complete(next, &Outcome::Failed(fault).into(), now, &mut dirty);
        }
        self.free_unused();
        dirty
    }

    /// The same, but reads that may be sent once more are deferred: their sessions do that when a lane is open. A client's
    /// read before one of its writes fails too: on another lane it could see that write, and the write's error, which
    /// comes behind it, is due at once.
    pub(crate) fn fail_writes(&mut self, fault: Fault) -> Vec<Rc<ResponseQueue>> {
        self.spend_reads_before_writes();
        let mut dirty = Vec::new();
        let now = self.usage.now();
        while let Some(next) = self.pending.pop_front() {
            match next.expected {
                Expected::Reply { repeat: Repeat::Once, kind, format, context_len, started_at, .. } => {
                    let context = self.first_context(context_len).to_vec();
                    self.contexts.drain(..context_len);
                    next.client.defer_again(Again { format, kind, context, started_at });
                    if next.client.mark_dirty() {
                        dirty.push(next.client);
                    }
                }
                _ => self.complete(next, &Outcome::Failed(fault).into(), now, &mut dirty),
            }
        }
        self.free_unused();
        dirty
    }

    /// Lets reads fail that can't be sent again: those behind which their client has sent a write, and each `mg` that is one
    /// itself.
    fn spend_reads_before_writes(&mut self) {
        let contexts = self.contexts.make_contiguous();
        let mut end = contexts.len();
        let mut writers = HashSet::new();
        for Pending { client, expected } in self.pending.iter_mut().rev() {
            let Expected::Reply { kind, context_len, repeat, .. } = expected else { continue };
            let start = end.saturating_sub(*context_len);
            let context = contexts.get(start..end).unwrap_or_default();
            end = start;
            let client = Rc::as_ptr(client).addr();
            if *repeat == Repeat::Never || *repeat == Repeat::Once && protocol::mutates(*kind, context) {
                *repeat = Repeat::Never;
                writers.insert(client);
            } else if writers.contains(&client) {
                *repeat = Repeat::Spent;
            }
        }
    }

    /// Removes the first request if `matches` is true for its kind and tag.
    fn pop_matching<F: Fn(CommandKind, u64) -> bool>(
        &mut self,
        matches: F,
    ) -> Result<Pending, ProtocolError> {
        let next = self.pending.pop_front().ok_or(ProtocolError::Unasked)?;
        if !matches!(next.expected, Expected::Reply { kind, tag, .. } if matches(kind, tag)) {
            self.pending.push_front(next);
            return Err(ProtocolError::Mismatch);
        }
        Ok(next)
    }

    fn complete(
        &mut self,
        next: Pending,
        reply: &Reply<'_>,
        now: StartedAt,
        dirty: &mut Vec<Rc<ResponseQueue>>,
    ) {
        let client = next.client;
        match next.expected {
            Expected::Local(bytes) => client.complete_local(bytes),
            Expected::Reply { kind, format, context_len, started_at, .. } => {
                client.complete(format, kind, self.first_context(context_len), reply);
                self.contexts.drain(..context_len);
                self.usage.answered(kind, format, &reply.outcome, now.since(started_at));
            }
        }
        if client.mark_dirty() {
            dirty.push(client);
        }
    }

    /// Defers a get whose value is too large for this lane: the session sends it again on a dedicated lane.
    fn defer(&mut self, next: Pending, tokens: &[u8], dirty: &mut Vec<Rc<ResponseQueue>>) {
        self.usage.saw_large_value();
        let client = next.client;
        if let Expected::Reply { format, kind, context_len, .. } = next.expected {
            client.defer(format, kind, self.first_context(context_len), tokens);
            self.contexts.drain(..context_len);
        }
        if client.mark_dirty() {
            dirty.push(client);
        }
    }

    #[inline]
    fn first_context(&mut self, len: usize) -> &[u8] {
        if self.contexts.as_slices().0.len() < len {
            self.contexts.make_contiguous();
        }
        self.contexts.as_slices().0.get(..len).unwrap_or_default()
    }

    /// Discards what `input` has of a large value. Returns how many bytes that was.
    fn discard(&mut self, input: &[u8]) -> Result<usize, ProtocolError> {
        let (discarded, _) = input.split_at_checked(self.discard_remaining).unwrap_or((input, b""));
        let left = self.discard_remaining - discarded.len();
        for (back, byte) in discarded.iter().rev().take(VALUE_END.len()).enumerate() {
            let expected = VALUE_END.iter().rev().nth(left + back);
            if expected.is_some_and(|expected| byte != expected) {
                return Err(ProtocolError::Value);
            }
        }
        self.discard_remaining = left;
        Ok(discarded.len())
    }
}
