//! The protocols that clients speak: bytes in, a [`ParsedFrame`] out; a [`Reply`] in, bytes out.
//! Pure: no socket, no clock. A parser returns `None` when it needs more bytes.

pub(crate) mod binary;
pub(crate) mod denial;
pub(crate) mod line;
pub(crate) mod meta;
pub(crate) mod number;
pub(crate) mod request;
pub(crate) mod text;

use std::borrow::Cow;

use binary::header::{Header, Status};
use denial::{Denial, Ending};
pub(crate) use number::length;
use request::{
    Command, CommandKind, Fault, Key, KeyForm, Limits, Reply, ReplyFormat, Request, TextFormat,
    UntaggedCommand, ValueHeader, Verb,
};

/// The longest key, in bytes (memcached's `KEY_MAX_LENGTH`).
pub(crate) const KEY_MAX: usize = 250;

/// The protocol of a connection. Its first byte decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Text, which includes meta.
    Text,
    Binary,
}

/// The first byte of a binary request.
pub(crate) const BINARY_MAGIC: u8 = 0x80;

impl Protocol {
    /// Detects the protocol from the first byte of a connection.
    pub(crate) fn detect(first: u8) -> Self {
        if first == BINARY_MAGIC { Self::Binary } else { Self::Text }
    }

    /// Whether `input`, which [`Protocol::parse`] found incomplete, is still incomplete with `fresh` behind
    /// it. May return `false` when in doubt. Avoids parsing a long line again for each small packet.
    pub(crate) fn is_incomplete_line(self, input: &[u8], fresh: &[u8]) -> bool {
        self == Self::Text && text::is_incomplete_line(input, fresh)
    }

    /// Encodes why the connection ends, for the request at the front of `input`; nothing for a binary request without a
    /// whole header, nor for an idle connection: its client would take it for the reply to its next request.
    pub(crate) fn encode_ending(self, input: &[u8], ending: Ending) -> Cow<'static, [u8]> {
        match self {
            Self::Text if ending == Ending::ProxyLimit && input.is_empty() => Cow::Borrowed(b""),
            Self::Text => Cow::Borrowed(ending.line()),
            Self::Binary => match Header::read(input).filter(|header| header.magic == BINARY_MAGIC) {
                Some(header) => header.status(Status::TEMPORARY),
                None => Cow::Borrowed(b""),
            },
        }
    }

    /// Parses the first request of `input`; `None` if it is incomplete.
    pub(crate) fn parse(self, input: &[u8], limits: Limits) -> Option<ParsedFrame<'_>> {
        match self {
            Self::Text => text::parse(input, limits),
            Self::Binary => binary::parse(input, limits),
        }
    }
}

/// One request, and how many bytes it took.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ParsedFrame<'a> {
    /// Bytes of the input to drop.
    pub(crate) consumed: usize,
    pub(crate) parsed: Parsed<'a>,
}

/// What to do with a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed<'a> {
    /// Forward it.
    Request(Request<'a>),
    /// Forward it key by key.
    Keys(text::classic::Keys<'a>),
    /// Reply with these bytes, in order; empty for `noreply`.
    LocalReply(Cow<'static, [u8]>),
    /// Forward a store whose value of `len` bytes follows. If no line end follows the value, reply with
    /// `framing_error` and close; `None` in the binary protocol, which has no line ends.
    Stream { request: Request<'a>, len: usize, framing_error: Option<&'static [u8]> },
    /// Forward it on a dedicated lane, since its reply carries no tag.
    UntaggedCommand(UntaggedCommand<'a>),
    /// Learn memcached's version, then parse again: the meaning depends on it. Nothing was consumed.
    NeedsVersion,
    /// Drop the `bytes` that follow, then do the rest.
    Swallow { bytes: u64, then: Then<'a> },
    /// Reply with these bytes, in order, then close the connection.
    Close(Cow<'static, [u8]>),
    /// Return the connection to the authenticator: the input begins with a login. Nothing was consumed.
    Login,
}

/// What to do after a data block was dropped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Then<'a> {
    LocalReply(Cow<'static, [u8]>),
    Request(Request<'a>),
}

/// Appends what [`encode_reply`] needs of `request`, and what repeating a get needs: key or opaque, and
/// the flags of `mg`.
pub(crate) fn reply_context<'a, E: Extend<&'a u8>>(request: &Request<'a>, out: &mut E) {
    match (request.format, request.command) {
        (ReplyFormat::Text(TextFormat::Value { .. }), _) | (ReplyFormat::Binary(_), Command::Get { .. }) => {
            out.extend(request.key.bytes);
        }
        (ReplyFormat::Meta(_), Command::Meta(meta)) => meta::reply::context(request.key.bytes, &meta, out),
        _ => {}
    }
}

/// The request that a [`reply_context`] is of: a get, with the expiry of a `gat`, or `version`.
pub(crate) fn request_again(
    format: ReplyFormat,
    kind: CommandKind,
    context: &[u8],
    exptime: Option<i32>,
) -> Request<'_> {
    let plain = |bytes| Key { bytes, form: KeyForm::Plain };
    let (key, command) = match format {
        _ if kind == CommandKind::Version => (plain(b""), Command::Version),
        ReplyFormat::Meta(_) => meta::reply::get_again(context),
        ReplyFormat::Binary(_) => (Key { bytes: context, form: KeyForm::Raw }, Command::Get { exptime }),
        ReplyFormat::Text(_) => (plain(context), Command::Get { exptime }),
    };
    Request { command, key, format }
}

/// Whether a get of this kind and [`reply_context`] is an `mg` that changes the item.
pub(crate) fn mutates(kind: CommandKind, context: &[u8]) -> bool {
    matches!(kind, CommandKind::Meta { verb: Verb::Get, .. }) && meta::reply::mutates(context)
}

/// Appends `reply` in the client's protocol. `context` is the request's [`reply_context`].
pub(crate) fn encode_reply(
    format: ReplyFormat,
    kind: CommandKind,
    context: &[u8],
    reply: &Reply<'_>,
    out: &mut Vec<u8>,
) {
    match format {
        ReplyFormat::Text(format) => text::reply::encode(format, kind, context, &reply.outcome, out),
        ReplyFormat::Meta(format) => meta::reply::encode(format, kind, context, reply, out),
        ReplyFormat::Binary(format) => binary::reply::encode(format, kind, context, &reply.outcome, out),
    }
}

/// Whether a successful store, delete or arithmetic has no reply: text `noreply`, quiet binary opcodes. Meta `q`
/// isn't asked: its flags say what a reply shows.
pub(crate) fn hides_success(format: ReplyFormat) -> bool {
    match format {
        ReplyFormat::Text(format) => matches!(format, TextFormat::Line { noreply: true }),
        ReplyFormat::Binary(format) => binary::reply::suppresses_success(format.opcode),
        ReplyFormat::Meta(_) => false,
    }
}

/// Encodes a denial. Only the text protocol's `noreply` suppresses it: the quiet forms of the other
/// protocols would turn it into a miss or a success.
pub(crate) fn encode_denial(format: ReplyFormat, denial: Denial) -> Cow<'static, [u8]> {
    match format {
        ReplyFormat::Text(TextFormat::Line { noreply: true }) => Cow::Borrowed(b""),
        ReplyFormat::Text(_) | ReplyFormat::Meta(_) => Cow::Borrowed(denial.line()),
        ReplyFormat::Binary(format) => Cow::Owned(binary::reply::encode_status(format, denial.status())),
    }
}

/// Appends the reply of a get up to the first byte of its value.
pub(crate) fn encode_value_header(
    format: ReplyFormat,
    context: &[u8],
    header: &ValueHeader<'_>,
    out: &mut Vec<u8>,
) {
    match format {
        ReplyFormat::Text(format) => text::reply::encode_value_header(format, context, header, out),
        ReplyFormat::Meta(format) => meta::reply::encode_value_header(format, context, header, out),
        ReplyFormat::Binary(format) => binary::reply::encode_value_header(format, context, header, out),
    }
}

/// The bytes that follow a value.
pub(crate) fn value_end(format: ReplyFormat) -> &'static [u8] {
    match format {
        ReplyFormat::Text(TextFormat::Value { last: true, .. }) => b"\r\nEND\r\n",
        ReplyFormat::Text(_) | ReplyFormat::Meta(_) => b"\r\n",
        ReplyFormat::Binary(_) => b"",
    }
}

/// The text of a fault (docs/protocol.md, section 2).
pub(crate) fn fault_line(fault: Fault) -> &'static [u8] {
    match fault {
        Fault::Unavailable => b"SERVER_ERROR backend unavailable\r\n",
        Fault::TimedOut => b"SERVER_ERROR backend timed out\r\n",
    }
}
