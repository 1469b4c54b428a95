//! Replies that must wait because one before them is requested again: on a dedicated lane, or on a new one.

use std::borrow::Cow;
use std::collections::VecDeque;

use crate::metrics::usage::StartedAt;
use crate::protocol;
use crate::protocol::request::{CommandKind, Outcome, Reply, ReplyFormat, Request};

/// The longest value that is kept, in bytes. A longer one is requested again.
const KEPT_VALUE_MAX: usize = 1024;

/// One deferred reply.
#[derive(Debug)]
pub(crate) enum Deferred {
    /// A local reply.
    Bytes(Cow<'static, [u8]>),
    /// A reply by memcached; `data` is its value or version.
    Reply {
        format: ReplyFormat,
        kind: CommandKind,
        context: Vec<u8>,
        outcome: Outcome<'static>,
        data: Vec<u8>,
        tokens: Vec<u8>,
    },
    /// A get to send again; `tokens` are the flags of its first reply.
    Refetch { format: ReplyFormat, kind: CommandKind, context: Vec<u8>, tokens: Vec<u8> },
    /// A read to send again.
    Again(Again),
}

/// A read that was in flight on a lane that has failed (F-35).
#[derive(Debug)]
pub(crate) struct Again {
    pub(crate) format: ReplyFormat,
    pub(crate) kind: CommandKind,
    pub(crate) context: Vec<u8>,
    /// When the client's request was read.
    pub(crate) started_at: StartedAt,
}

impl Again {
    pub(crate) fn request(&self) -> Request<'_> {
        protocol::request_again(self.format, self.kind, &self.context, None)
    }
}

impl Deferred {
    /// Copies a reply that arrived behind a deferred one.
    pub(super) fn reply(format: ReplyFormat, kind: CommandKind, context: &[u8], reply: &Reply<'_>) -> Self {
        let (outcome, data) = match reply.outcome {
            Outcome::Value(_, data) if kind.is_get() && data.len() > KEPT_VALUE_MAX => {
                return Self::refetch(format, kind, context, reply.tokens);
            }
            Outcome::Value(item, data) => (Outcome::Value(item, b""), data),
            Outcome::Version(version) => (Outcome::Version(b""), version),
            Outcome::Done(item) => (Outcome::Done(item), &b""[..]),
            Outcome::Miss => (Outcome::Miss, &b""[..]),
            Outcome::NotStored => (Outcome::NotStored, &b""[..]),
            Outcome::Exists => (Outcome::Exists, &b""[..]),
            Outcome::TooLarge => (Outcome::TooLarge, &b""[..]),
            Outcome::OutOfMemory => (Outcome::OutOfMemory, &b""[..]),
            Outcome::OutOfMemoryDuringRead => (Outcome::OutOfMemoryDuringRead, &b""[..]),
            Outcome::NonNumeric => (Outcome::NonNumeric, &b""[..]),
            Outcome::Failed(fault) => (Outcome::Failed(fault), &b""[..]),
        };
        Self::Reply {
            format,
            kind,
            context: context.to_vec(),
            outcome,
            data: data.to_vec(),
            tokens: reply.tokens.to_vec(),
        }
    }

    /// The memory that it takes, in bytes.
    fn bytes(&self) -> usize {
        let owned = match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Reply { context, data, tokens, .. } => context.len() + data.len() + tokens.len(),
            Self::Refetch { context, tokens, .. } => context.len() + tokens.len(),
            Self::Again(again) => again.context.len(),
        };
        size_of::<Self>() + owned
    }

    pub(super) fn refetch(format: ReplyFormat, kind: CommandKind, context: &[u8], tokens: &[u8]) -> Self {
        Self::Refetch { format, kind, context: context.to_vec(), tokens: tokens.to_vec() }
    }
}

/// Returns the outcome of a [`Deferred::Reply`] with its `data`.
pub(crate) fn with_data<'a>(outcome: Outcome<'static>, data: &'a [u8]) -> Outcome<'a> {
    match outcome {
        Outcome::Value(item, _) => Outcome::Value(item, data),
        Outcome::Version(_) => Outcome::Version(data),
        other => other,
    }
}

/// The deferred replies of one session, in the order of their requests.
#[derive(Debug, Default)]
pub(super) struct DeferredQueue {
    replies: VecDeque<Deferred>,
    /// Those behind a read that is being sent again.
    aside: VecDeque<Deferred>,
    /// The memory of both.
    bytes: usize,
}

impl DeferredQueue {
    /// Whether none must be sent now. More may have been set aside.
    pub(super) fn is_empty(&self) -> bool {
        self.replies.is_empty()
    }

    /// Sets all replies aside: those that are deferred from now on come before them.
    pub(super) fn set_aside(&mut self) {
        self.aside.append(&mut self.replies);
    }

    /// Removes the first of those set aside if it is a read to send again; else returns whether there are any.
    pub(super) fn pop_aside(&mut self) -> Result<Again, bool> {
        let Some(Deferred::Again(_)) = self.aside.front() else { return Err(!self.aside.is_empty()) };
        let first = self.aside.pop_front();
        self.bytes = self.bytes.saturating_sub(first.as_ref().map_or(0, Deferred::bytes));
        match first {
            Some(Deferred::Again(again)) => Ok(again),
            _ => Err(false),
        }
    }

    /// Puts those set aside behind the others.
    pub(super) fn bring_back(&mut self) {
        self.replies.append(&mut self.aside);
        if self.replies.is_empty() {
            (self.replies, self.aside) = (VecDeque::new(), VecDeque::new());
        }
    }

    /// The memory that the replies take, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn push(&mut self, deferred: Deferred) {
        self.bytes += deferred.bytes();
        self.replies.push_back(deferred);
    }

    pub(super) fn pop(&mut self) -> Option<Deferred> {
        let first = self.replies.pop_front();
        if let Some(first) = &first {
            self.bytes = self.bytes.saturating_sub(first.bytes());
        }
        if self.replies.is_empty() {
            // Frees the memory: few sessions defer replies.
            self.replies = VecDeque::new();
        }
        first
    }
}
