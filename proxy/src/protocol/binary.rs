//! The binary protocol's requests (memcached's protocol_binary.h): a 24-byte header, extras, key, value.

pub(crate) mod header;
pub(crate) mod reply;

use std::borrow::Cow;

use super::{BINARY_MAGIC, KEY_MAX, Parsed, ParsedFrame, Then};
use crate::protocol::request::{
    Command, Create, Key, KeyForm, Limits, Mode, ReplyFormat, Request, STAT_GROUPS, Store, UntaggedCommand,
    UntaggedKind, needs_base64,
};
use header::{BODY_MAX, HEADER, Header, Status, opcode};

/// The longest key, in bytes, that can be sent base64-encoded: its encoding has 250 bytes (D-7).
const ENCODED_KEY_MAX: usize = 186;

/// Parses the first request of `input`; `None` if it is incomplete.
pub(crate) fn parse(input: &[u8], limits: Limits) -> Option<ParsedFrame<'_>> {
    if input.first().is_some_and(|magic| *magic != BINARY_MAGIC) {
        return Some(ParsedFrame { consumed: 0, parsed: Parsed::Close(Cow::Borrowed(b"")) });
    }
    let header = Header::read(input)?;
    let close = |status| Some(ParsedFrame { consumed: HEADER, parsed: Parsed::Close(header.status(status)) });
    let fields = header.key + header.extras;
    if header.body_len() < fields {
        return close(Status::UNKNOWN);
    }
    if header.body > BODY_MAX {
        return close(Status::INVALID);
    }
    if matches!(header.opcode, opcode::FLUSH | opcode::FLUSH_QUIETLY | opcode::STAT) {
        return untagged(&header, input.get(HEADER..)?);
    }
    let Some(shape) = Shape::of(header.opcode) else {
        return Some(keyless(&header, input.len(), limits));
    };
    if !shape.allows(&header) {
        return close(shape.error(&header));
    }
    let value_len = header.body_len() - fields;
    let (extras, key) = input.get(HEADER..HEADER + fields)?.split_at_checked(header.extras)?;
    if needs_base64(key) && key.len() > ENCODED_KEY_MAX {
        let then = Then::LocalReply(header.status(Status::INVALID));
        return Some(swallow(HEADER + fields, value_len, then));
    }
    let request = |command| Request {
        command,
        key: Key { bytes: key, form: KeyForm::Raw },
        format: ReplyFormat::Binary(header.format()),
    };
    let flags = first_u32(extras).unwrap_or(0);
    if shape.value && !limits.fits(key.len(), value_len, flags) {
        let then = if shape.mode() == Some(Mode::Set) {
            Then::Request(request(Command::Invalidate))
        } else {
            Then::LocalReply(header.status(Status::TOO_LARGE))
        };
        return Some(swallow(HEADER + fields, value_len, then));
    }
    if value_len > limits.gathered_max {
        let request = request(shape.command(&header, extras, b"")?);
        let parsed = Parsed::Stream { request, len: value_len, framing_error: None };
        return Some(ParsedFrame { consumed: HEADER + fields, parsed });
    }
    let consumed = HEADER + header.body_len();
    let value = input.get(HEADER + fields..consumed)?;
    let command = shape.command(&header, extras, value)?;
    Some(ParsedFrame { consumed, parsed: Parsed::Request(request(command)) })
}

/// STAT and FLUSH. If a value follows a STAT, memcached closes without a reply.
fn untagged<'a>(header: &Header, body: &'a [u8]) -> Option<ParsedFrame<'a>> {
    let stat = header.opcode == opcode::STAT;
    let fields = header.key + header.extras;
    let close = |reply| Some(ParsedFrame { consumed: HEADER, parsed: Parsed::Close(reply) });
    if stat && header.body_len() > fields {
        return close(Cow::Borrowed(b""));
    }
    let extras_fit = header.extras == 0 || (!stat && header.extras == 4);
    if !extras_fit || header.key > KEY_MAX || (!stat && header.body_len() > header.extras) {
        return close(header.status(Status::INVALID));
    }
    let (extras, key) = body.get(..fields)?.split_at_checked(header.extras)?;
    let kind = if stat {
        UntaggedKind::Stats { group: key }
    } else {
        UntaggedKind::FlushAll { delay: if header.extras == 0 { None } else { Some(exptime(extras)?) } }
    };
    let parsed = if stat && !STAT_GROUPS.contains(&key) {
        Parsed::LocalReply(header.status(Status::NOT_FOUND))
    } else {
        Parsed::UntaggedCommand(UntaggedCommand { kind, format: ReplyFormat::Binary(header.format()) })
    };
    Some(ParsedFrame { consumed: HEADER + fields, parsed })
}

fn swallow(consumed: usize, bytes: usize, then: Then<'_>) -> ParsedFrame<'_> {
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    ParsedFrame { consumed, parsed: Parsed::Swallow { bytes, then } }
}

/// NOOP, VERSION, QUIT, SASL, and every opcode that clients may not use.
fn keyless(header: &Header, have: usize, limits: Limits) -> ParsedFrame<'static> {
    let parsed = match (header.opcode, header.body) {
        (opcode::SASL_AUTH | opcode::SASL_STEP, _) => {
            return ParsedFrame { consumed: 0, parsed: Parsed::Login };
        }
        (opcode::SASL_LIST, 0) => Parsed::LocalReply(header.reply(Status::OK, limits.mechanisms)),
        (0x0a, 0) => Parsed::LocalReply(header.status(Status::OK)),
        (0x07, 0) => Parsed::Close(header.status(Status::OK)),
        (0x17, 0) => Parsed::Close(Cow::Borrowed(b"")),
        (opcode::VERSION, 0) => {
            let format = ReplyFormat::Binary(header.format());
            Parsed::Request(Request { command: Command::Version, key: Key::plain(b""), format })
        }
        (0x07 | 0x0a | opcode::VERSION | 0x17 | opcode::SASL_LIST, _) => {
            Parsed::Close(header.status(Status::INVALID))
        }
        (_, 0) => Parsed::LocalReply(header.status(Status::UNKNOWN)),
        // memcached would also swallow the next request (D-10).
        _ => Parsed::Close(header.status(Status::UNKNOWN)),
    };
    ParsedFrame { consumed: HEADER.min(have), parsed }
}

/// What a request with a key must carry, by its opcode.
#[derive(Clone, Copy)]
struct Shape {
    verb: Verb,
    extras: usize,
    value: bool,
}

#[derive(Clone, Copy)]
enum Verb {
    Get,
    Store(Mode),
    Delete,
    Arithmetic { decrement: bool },
    Touch,
    GetAndTouch,
}

impl Shape {
    fn of(opcode: u8) -> Option<Self> {
        let (verb, extras, value) = match opcode {
            0x00 | 0x09 | 0x0c | 0x0d => (Verb::Get, 0, false),
            0x01 | 0x11 => (Verb::Store(Mode::Set), 8, true),
            0x02 | 0x12 => (Verb::Store(Mode::Add), 8, true),
            0x03 | 0x13 => (Verb::Store(Mode::Replace), 8, true),
            0x04 | 0x14 => (Verb::Delete, 0, false),
            0x05 | 0x15 => (Verb::Arithmetic { decrement: false }, 20, false),
            0x06 | 0x16 => (Verb::Arithmetic { decrement: true }, 20, false),
            0x0e | 0x19 => (Verb::Store(Mode::Append), 0, true),
            0x0f | 0x1a => (Verb::Store(Mode::Prepend), 0, true),
            0x1c => (Verb::Touch, 4, false),
            0x1d | 0x1e | 0x23 | 0x24 => (Verb::GetAndTouch, 4, false),
            _ => return None,
        };
        Some(Self { verb, extras, value })
    }

    fn allows(self, header: &Header) -> bool {
        let has_value = header.body_len() > header.key + header.extras;
        self.has_fields(header) && (self.value || !has_value)
    }

    fn has_fields(self, header: &Header) -> bool {
        (1..=KEY_MAX).contains(&header.key) && header.extras == self.extras
    }

    /// The status for a request that [`Shape::allows`] doesn't. memcached looks up the key of a touch before it
    /// notices a value behind it.
    fn error(self, header: &Header) -> Status {
        let looks_up = matches!(self.verb, Verb::Touch) && self.has_fields(header);
        if looks_up { Status::NOT_FOUND } else { Status::INVALID }
    }

    fn mode(self) -> Option<Mode> {
        match self.verb {
            Verb::Store(mode) => Some(mode),
            _ => None,
        }
    }

    fn command<'a>(self, header: &Header, extras: &'a [u8], value: &'a [u8]) -> Option<Command<'a>> {
        let cas = (header.cas != 0).then_some(header.cas);
        Some(match self.verb {
            Verb::Get => Command::Get { exptime: None },
            Verb::Delete => Command::Delete { cas },
            Verb::Touch => Command::Touch { exptime: exptime(extras)? },
            Verb::GetAndTouch => Command::Get { exptime: Some(exptime(extras)?) },
            Verb::Store(mode @ (Mode::Append | Mode::Prepend)) => {
                Command::Store(Store { mode, flags: 0, exptime: 0, cas, value })
            }
            Verb::Store(mode) => {
                // With a cas, SET, ADD and REPLACE mean the same (T-2).
                let mode = if cas.is_some() { Mode::Set } else { mode };
                let (flags, expires) = extras.split_at_checked(4)?;
                Command::Store(Store {
                    mode,
                    flags: first_u32(flags)?,
                    exptime: exptime(expires)?,
                    cas,
                    value,
                })
            }
            Verb::Arithmetic { decrement } => {
                let (delta, rest) = extras.split_first_chunk::<8>()?;
                let (initial, expires) = rest.split_first_chunk::<8>()?;
                // All ones: a missing item is not created.
                let create = (expires != [0xff; 4])
                    .then_some(Create { initial: u64::from_be_bytes(*initial), exptime: exptime(expires)? });
                Command::Arithmetic { decrement, delta: u64::from_be_bytes(*delta), create, cas }
            }
        })
    }
}

/// Reads an expiry; 0x80000000 and above mean never (D-12).
fn exptime(extras: &[u8]) -> Option<i32> {
    first_u32(extras).map(|exptime| i32::try_from(exptime).unwrap_or(0))
}

fn first_u32(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().copied().map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests;
