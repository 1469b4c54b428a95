//! Answers that must wait: one before them is asked for again, on a lane of the client's own.

use std::borrow::Cow;
use std::collections::VecDeque;

use crate::protocol::request::{CommandKind, Outcome, Reply, ReplyFormat};

/// A longer value isn't kept: it is asked for again too.
const KEPT_VALUE_MAX: usize = 1024;

/// One answer, in the order of the requests.
#[derive(Debug)]
pub(crate) enum Deferred {
    /// Words of our own.
    Words(Cow<'static, [u8]>),
    /// What memcached has said.
    Said {
        format: ReplyFormat,
        kind: CommandKind,
        context: Vec<u8>,
        outcome: Outcome<'static>,
        data: Vec<u8>,
        tokens: Vec<u8>,
    },
    /// A value that has to be asked for again; the flags of the first answer.
    Again { format: ReplyFormat, kind: CommandKind, context: Vec<u8>, tokens: Vec<u8> },
}

impl Deferred {
    /// An answer behind one that was put off.
    pub(super) fn of(format: ReplyFormat, kind: CommandKind, context: &[u8], reply: &Reply<'_>) -> Self {
        let (outcome, data) = match reply.outcome {
            Outcome::Value(_, data) if kind.is_get() && data.len() > KEPT_VALUE_MAX => {
                return Self::again(format, kind, context, reply.tokens);
            }
            Outcome::Value(item, data) => (Outcome::Value(item, b""), data),
            Outcome::Version(version) => (Outcome::Version(b""), version),
            Outcome::Done(item) => (Outcome::Done(item), &b""[..]),
            Outcome::Miss => (Outcome::Miss, &b""[..]),
            Outcome::NotStored => (Outcome::NotStored, &b""[..]),
            Outcome::Exists => (Outcome::Exists, &b""[..]),
            Outcome::TooLarge => (Outcome::TooLarge, &b""[..]),
            Outcome::OutOfMemory => (Outcome::OutOfMemory, &b""[..]),
            Outcome::NonNumeric => (Outcome::NonNumeric, &b""[..]),
            Outcome::Failed(fault) => (Outcome::Failed(fault), &b""[..]),
        };
        Self::Said {
            format,
            kind,
            context: context.to_vec(),
            outcome,
            data: data.to_vec(),
            tokens: reply.tokens.to_vec(),
        }
    }

    pub(super) fn again(format: ReplyFormat, kind: CommandKind, context: &[u8], tokens: &[u8]) -> Self {
        Self::Again { format, kind, context: context.to_vec(), tokens: tokens.to_vec() }
    }
}

/// With the value that was kept.
pub(crate) fn whole<'a>(outcome: Outcome<'static>, data: &'a [u8]) -> Outcome<'a> {
    match outcome {
        Outcome::Value(item, _) => Outcome::Value(item, data),
        Outcome::Version(_) => Outcome::Version(data),
        other => other,
    }
}

/// Those of one client.
#[derive(Debug, Default)]
pub(super) struct Queue(VecDeque<Deferred>);

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn push(&mut self, deferred: Deferred) {
        self.0.push_back(deferred);
    }

    pub(super) fn pop(&mut self) -> Option<Deferred> {
        let first = self.0.pop_front();
        if self.0.is_empty() {
            // It may never be needed again.
            self.0 = VecDeque::new();
        }
        first
    }
}
