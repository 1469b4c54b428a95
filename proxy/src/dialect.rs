//! The dialects of callers: bytes in, a [`Frame`] out; an [`Outcome`](crate::request::Outcome) in,
//! bytes out. Pure: no sockets, no clock. `None` means "more bytes, please".

pub(crate) mod binary;
mod binary_reply;
pub(crate) mod number;
pub(crate) use number::length;
pub(crate) mod text;
mod text_reply;

use std::borrow::Cow;

use crate::request::{Answer, Fault, Kind, Limits, Outcome, Request};

/// The longest key, in bytes (memcached's KEY_MAX_LENGTH).
pub(crate) const KEY_MAX: usize = 250;

/// What a connection speaks, fixed by its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Text,
    Binary,
}

/// The first byte of a binary request.
pub(crate) const BINARY_MAGIC: u8 = 0x80;

impl Dialect {
    /// Told by the first byte.
    pub(crate) fn detect(first: u8) -> Self {
        if first == BINARY_MAGIC { Self::Binary } else { Self::Text }
    }

    /// Whether `fresh` behind `input`, which was not enough to parse, isn't enough either. May say `false`
    /// where it isn't sure; keeps long lines in small pieces from being read over and over.
    pub(crate) fn goes_on(self, input: &[u8], fresh: &[u8]) -> bool {
        self == Self::Text && text::goes_on(input, fresh)
    }

    /// Reads the first request of `input`.
    pub(crate) fn parse(self, input: &[u8], limits: Limits) -> Option<Frame<'_>> {
        match self {
            Self::Text => text::parse(input, limits),
            Self::Binary => binary::parse(input, limits),
        }
    }
}

/// One request's bytes, and what they mean.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    /// How many bytes of the input it took.
    pub(crate) consumed: usize,
    pub(crate) parsed: Parsed<'a>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed<'a> {
    /// To be forwarded.
    Request(Request<'a>),
    /// To be forwarded, key by key.
    Keys(text::Keys<'a>),
    /// Answered here, in turn; empty when it was asked not to answer.
    Answer(Cow<'static, [u8]>),
    /// Drop that many bytes that follow, then do the rest.
    Swallow { bytes: u64, then: Then<'a> },
    /// Answered here, in turn, and then the connection ends.
    Close(Cow<'static, [u8]>),
    /// A login (nothing was consumed): the connection is the doorman's again.
    Login,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Then<'a> {
    Answer(Cow<'static, [u8]>),
    Request(Request<'a>),
}

/// Says `outcome` in the caller's dialect. `key` is the request's where [`wants_key`] says so, else empty.
pub(crate) fn answer(answer: Answer, kind: Kind, key: &[u8], outcome: &Outcome<'_>, out: &mut Vec<u8>) {
    match answer {
        Answer::Text(answer) => text_reply::encode(answer, kind, key, outcome, out),
        Answer::Binary(answer) => binary_reply::encode(answer, kind, key, outcome, out),
    }
}

/// Whether the answer names the key.
pub(crate) fn wants_key(answer: Answer) -> bool {
    match answer {
        Answer::Text(answer) => matches!(answer, crate::request::TextAnswer::Value { .. }),
        Answer::Binary(answer) => binary_reply::names_key(answer.opcode),
    }
}

/// The words of a fault (PROTOCOL: texts of ours).
pub(crate) fn fault_line(fault: Fault) -> &'static [u8] {
    match fault {
        Fault::Unavailable => b"SERVER_ERROR backend unavailable\r\n",
        Fault::TimedOut => b"SERVER_ERROR backend timed out\r\n",
    }
}
