//! The protocols of callers: bytes in, a [`Frame`] out; a [`Reply`] in,
//! bytes out. Pure: no sockets, no clock. `None` means "more bytes, please".

pub(crate) mod binary;
pub(crate) mod denial;
pub(crate) mod meta;
pub(crate) mod number;
pub(crate) mod request;
pub(crate) mod text;

use std::borrow::Cow;

use denial::Denial;
pub(crate) use number::length;
use request::{Answer, Command, Fault, Head, Kind, Limits, Reply, Request, TextAnswer, UntaggedCommand};

/// The longest key, in bytes (memcached's KEY_MAX_LENGTH).
pub(crate) const KEY_MAX: usize = 250;

/// What a connection speaks, fixed by its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Text,
    Binary,
}

/// The first byte of a binary request.
pub(crate) const BINARY_MAGIC: u8 = 0x80;

impl Protocol {
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
    Keys(text::classic::Keys<'a>),
    /// Answered here, in turn; empty when it was asked not to answer.
    Answer(Cow<'static, [u8]>),
    /// A store whose value of `len` bytes is forwarded as it comes. `complaint` is said, and the connection
    /// ends, if no line end is behind it; a protocol without line ends has none.
    Stream { request: Request<'a>, len: usize, complaint: Option<&'static [u8]> },
    /// Forwarded alone: its answer carries no tag.
    UntaggedCommand(UntaggedCommand<'a>),
    /// Nothing was consumed: what it means depends on memcached's version, which isn't known yet.
    NeedsVersion,
    /// Drop that many bytes that follow, then do the rest.
    Swallow { bytes: u64, then: Then<'a> },
    /// Answered here, in turn, and then the connection ends.
    Close(Cow<'static, [u8]>),
    /// A login (nothing was consumed): the connection is the authenticator's again.
    Login,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Then<'a> {
    Answer(Cow<'static, [u8]>),
    Request(Request<'a>),
}

/// What is kept of a request until its answer: what the answer names, and enough to ask a `get` again.
pub(crate) fn note<'a, E: Extend<&'a u8>>(request: &Request<'a>, out: &mut E) {
    match (request.answer, request.command) {
        (Answer::Text(TextAnswer::Value { .. }), _) | (Answer::Binary(_), Command::Get { .. }) => {
            out.extend(request.key.bytes);
        }
        (Answer::Meta(_), Command::Meta(meta)) => meta::reply::note(request.key.bytes, &meta, out),
        _ => {}
    }
}

/// Says `reply` in the caller's protocol. `note` is the request's [`note`].
pub(crate) fn answer(answer: Answer, kind: Kind, note: &[u8], reply: &Reply<'_>, out: &mut Vec<u8>) {
    match answer {
        Answer::Text(answer) => text::reply::encode(answer, kind, note, &reply.outcome, out),
        Answer::Meta(answer) => meta::reply::encode(answer, kind, note, reply, out),
        Answer::Binary(answer) => binary::reply::encode(answer, kind, note, &reply.outcome, out),
    }
}

/// Says a denial of ours. Only text's `noreply` hides it: what is quiet otherwise
/// would look like a miss, or like success.
pub(crate) fn refused(answer: Answer, why: Denial) -> Cow<'static, [u8]> {
    match answer {
        Answer::Text(TextAnswer::Line { noreply: true }) => Cow::Borrowed(b""),
        Answer::Text(_) | Answer::Meta(_) => Cow::Borrowed(why.line()),
        Answer::Binary(answer) => Cow::Owned(binary::reply::refused(answer, why.status())),
    }
}

/// Says the beginning of a value, up to its first byte.
pub(crate) fn value_head(answer: Answer, note: &[u8], head: &Head<'_>, out: &mut Vec<u8>) {
    match answer {
        Answer::Text(answer) => text::reply::value_head(answer, note, head, out),
        Answer::Meta(answer) => meta::reply::value_head(answer, note, head, out),
        Answer::Binary(answer) => binary::reply::value_head(answer, note, head, out),
    }
}

/// What is said behind a value.
pub(crate) fn value_tail(answer: Answer) -> &'static [u8] {
    match answer {
        Answer::Text(TextAnswer::Value { last: true, .. }) => b"\r\nEND\r\n",
        Answer::Text(_) | Answer::Meta(_) => b"\r\n",
        Answer::Binary(_) => b"",
    }
}

/// The words of a fault (PROTOCOL: texts of ours).
pub(crate) fn fault_line(fault: Fault) -> &'static [u8] {
    match fault {
        Fault::Unavailable => b"SERVER_ERROR backend unavailable\r\n",
        Fault::TimedOut => b"SERVER_ERROR backend timed out\r\n",
    }
}
