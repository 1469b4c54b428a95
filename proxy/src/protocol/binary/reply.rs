//! The binary protocol's replies: memcached's statuses and texts, with the request's opcode and opaque.

use std::borrow::Cow;

use super::header::{HEADER, Header, Parts, Status, opcode};
use crate::protocol::number;
use crate::protocol::request::{BinaryFormat, CommandKind, Mode, Outcome, ValueHeader};

const MAGIC: u8 = 0x81;

impl Header {
    /// A reply to this request with a status and its text.
    pub(crate) fn status(&self, status: Status) -> Cow<'static, [u8]> {
        self.reply(status, status.1)
    }

    /// A reply to this request with a status and a body.
    pub(crate) fn reply(&self, status: Status, body: &[u8]) -> Cow<'static, [u8]> {
        let mut out = Vec::with_capacity(HEADER + body.len());
        message(self.format(), status.0, Parts { value: body, ..Parts::default() }, &mut out);
        Cow::Owned(out)
    }
}

/// Whether replies to `opcode` contain the key: GETK, GATK and their quiet forms.
fn echoes_key(opcode: u8) -> bool {
    matches!(opcode, 0x0c | 0x0d | 0x23 | 0x24)
}

/// Whether misses are suppressed: quiet gets.
fn suppresses_miss(opcode: u8) -> bool {
    matches!(opcode, 0x09 | 0x0d | 0x1e | 0x24)
}

/// Whether success is suppressed: quiet stores, deletes and arithmetic.
pub(in crate::protocol) fn suppresses_success(opcode: u8) -> bool {
    matches!(opcode, 0x11..=0x16 | 0x19 | 0x1a)
}

pub(in crate::protocol) fn encode(
    format: BinaryFormat,
    kind: CommandKind,
    context: &[u8],
    outcome: &Outcome<'_>,
    out: &mut Vec<u8>,
) {
    let opcode = format.opcode;
    match (kind, outcome) {
        (CommandKind::Get, Outcome::Value(item, data)) => {
            encode_value_header(
                format,
                context,
                &ValueHeader { item: *item, len: data.len(), tokens: b"" },
                out,
            );
            out.extend_from_slice(data);
        }
        (CommandKind::Get, Outcome::Miss) if suppresses_miss(opcode) => {}
        (CommandKind::Get, Outcome::Miss) if echoes_key(opcode) => {
            message(format, Status::NOT_FOUND.0, Parts { key: context, ..Parts::default() }, out);
        }
        (CommandKind::Invalidate, Outcome::Done(_) | Outcome::Miss) => status(format, Status::TOO_LARGE, out),
        (CommandKind::Touch, Outcome::Done(item)) => {
            let extras = item.flags.to_be_bytes();
            message(format, 0, Parts { extras: &extras, cas: item.cas, ..Parts::default() }, out);
        }
        (_, Outcome::Done(_) | Outcome::Value(..)) if suppresses_success(opcode) => {}
        (CommandKind::Arithmetic, Outcome::Value(item, data)) => {
            let value = number::unsigned(data.trim_ascii_end()).unwrap_or(0).to_be_bytes();
            message(format, 0, Parts { value: &value, cas: item.cas, ..Parts::default() }, out);
        }
        (CommandKind::Delete, Outcome::Done(_)) => status(format, Status::OK, out),
        (_, Outcome::Done(item)) => message(format, 0, Parts { cas: item.cas, ..Parts::default() }, out),
        (_, Outcome::Version(version)) => {
            message(format, 0, Parts { value: version, ..Parts::default() }, out);
        }
        (_, other) => status(format, error_status(kind, other), out),
    }
}

/// The status of an outcome that is not a success (T-3).
fn error_status(kind: CommandKind, outcome: &Outcome<'_>) -> Status {
    match (kind, outcome) {
        (CommandKind::Store(Mode::Add), Outcome::NotStored) => Status::EXISTS,
        (CommandKind::Store(Mode::Replace), Outcome::NotStored) => Status::NOT_FOUND,
        (_, Outcome::NotStored) => Status::NOT_STORED,
        (_, Outcome::Miss) => Status::NOT_FOUND,
        (_, Outcome::Exists) => Status::EXISTS,
        (_, Outcome::TooLarge) => Status::TOO_LARGE,
        (_, Outcome::OutOfMemory | Outcome::OutOfMemoryDuringRead) => Status::OUT_OF_MEMORY,
        (_, Outcome::NonNumeric) => Status::NON_NUMERIC,
        _ => Status::TEMPORARY,
    }
}

fn status(format: BinaryFormat, status: Status, out: &mut Vec<u8>) {
    message(format, status.0, Parts { value: status.1, ..Parts::default() }, out);
}

/// Appends a get's reply up to the first byte of its value.
pub(in crate::protocol) fn encode_value_header(
    format: BinaryFormat,
    context: &[u8],
    header: &ValueHeader<'_>,
    out: &mut Vec<u8>,
) {
    let key = if echoes_key(format.opcode) { context } else { b"" };
    let extras = header.item.flags.to_be_bytes();
    let parts = Parts { extras: &extras, key, value: b"", cas: header.item.cas };
    begin(format, Status::OK.0, parts, header.len, out);
}

/// Appends a whole reply.
pub(in crate::protocol) fn message(format: BinaryFormat, status: u16, parts: Parts<'_>, out: &mut Vec<u8>) {
    begin(format, status, parts, parts.value.len(), out);
    out.extend_from_slice(parts.value);
}

/// Appends a reply up to its value of `value_len` bytes.
fn begin(format: BinaryFormat, status: u16, parts: Parts<'_>, value_len: usize, out: &mut Vec<u8>) {
    let body = parts.extras.len() + parts.key.len() + value_len;
    out.extend_from_slice(&[MAGIC, format.opcode]);
    out.extend_from_slice(&u16::try_from(parts.key.len()).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(&[u8::try_from(parts.extras.len()).unwrap_or(0), 0]);
    out.extend_from_slice(&status.to_be_bytes());
    out.extend_from_slice(&u32::try_from(body).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(&format.opaque);
    out.extend_from_slice(&parts.cas.to_be_bytes());
    out.extend_from_slice(parts.extras);
    out.extend_from_slice(parts.key);
}

/// A whole reply with a status and its text.
pub(in crate::protocol) fn encode_status(format: BinaryFormat, code: Status) -> Vec<u8> {
    let mut out = Vec::new();
    status(format, code, &mut out);
    out
}

/// Appends one statistic; an empty name and value end the list.
pub(crate) fn statistic(format: BinaryFormat, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    message(format, Status::OK.0, Parts { key: name, value, ..Parts::default() }, out);
}

/// Appends the reply to a flush; none to FLUSHQ.
pub(crate) fn flushed(format: BinaryFormat, out: &mut Vec<u8>) {
    if format.opcode == opcode::FLUSH {
        status(format, Status::OK, out);
    }
}
