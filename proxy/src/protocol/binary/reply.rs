//! The binary protocol's replies: memcached's statuses and their texts, with the caller's opcode and opaque.

use std::borrow::Cow;

use super::header::{HEADER, Header, Parts, Status, opcode};
use crate::protocol::number;
use crate::protocol::request::{BinaryAnswer, Head, Kind, Mode, Outcome};

const MAGIC: u8 = 0x81;

impl Header {
    /// A reply to this request that holds a status and its text.
    pub(crate) fn status(&self, status: Status) -> Cow<'static, [u8]> {
        self.reply(status, status.1)
    }

    /// A reply to this request with a body of its own.
    pub(crate) fn reply(&self, status: Status, body: &[u8]) -> Cow<'static, [u8]> {
        let mut out = Vec::with_capacity(HEADER + body.len());
        message(self.answer(), status.0, Parts { value: body, ..Parts::default() }, &mut out);
        Cow::Owned(out)
    }
}

/// GETK and its kin answer with the key.
fn names_key(opcode: u8) -> bool {
    matches!(opcode, 0x0c | 0x0d | 0x23 | 0x24)
}

/// Quiet gets hide a miss.
fn hides_miss(opcode: u8) -> bool {
    matches!(opcode, 0x09 | 0x0d | 0x1e | 0x24)
}

/// Quiet stores, deletes and arithmetic hide success.
fn hides_success(opcode: u8) -> bool {
    matches!(opcode, 0x11..=0x16 | 0x19 | 0x1a)
}

pub(in crate::protocol) fn encode(
    answer: BinaryAnswer,
    kind: Kind,
    note: &[u8],
    outcome: &Outcome<'_>,
    out: &mut Vec<u8>,
) {
    let opcode = answer.opcode;
    match (kind, outcome) {
        (Kind::Get, Outcome::Value(stamp, data)) => {
            value_head(answer, note, &Head { stamp: *stamp, len: data.len(), tokens: b"" }, out);
            out.extend_from_slice(data);
        }
        (Kind::Get, Outcome::Miss) if hides_miss(opcode) => {}
        (Kind::Get, Outcome::Miss) if names_key(opcode) => {
            message(answer, Status::NOT_FOUND.0, Parts { key: note, ..Parts::default() }, out);
        }
        (Kind::Invalidate, Outcome::Done(_) | Outcome::Miss) => status(answer, Status::TOO_LARGE, out),
        (Kind::Touch, Outcome::Done(stamp)) => {
            let extras = stamp.flags.to_be_bytes();
            message(answer, 0, Parts { extras: &extras, cas: stamp.cas, ..Parts::default() }, out);
        }
        (_, Outcome::Done(_) | Outcome::Value(..)) if hides_success(opcode) => {}
        (Kind::Arithmetic, Outcome::Value(stamp, data)) => {
            let value = number::unsigned(data.trim_ascii_end()).unwrap_or(0).to_be_bytes();
            message(answer, 0, Parts { value: &value, cas: stamp.cas, ..Parts::default() }, out);
        }
        (Kind::Delete, Outcome::Done(_)) => status(answer, Status::OK, out),
        (_, Outcome::Done(stamp)) => message(answer, 0, Parts { cas: stamp.cas, ..Parts::default() }, out),
        (_, Outcome::Version(version)) => {
            message(answer, 0, Parts { value: version, ..Parts::default() }, out);
        }
        (_, other) => status(answer, denial(kind, other), out),
    }
}

fn denial(kind: Kind, outcome: &Outcome<'_>) -> Status {
    match (kind, outcome) {
        (Kind::Store(Mode::Add), Outcome::NotStored) => Status::EXISTS,
        (Kind::Store(Mode::Replace), Outcome::NotStored) => Status::NOT_FOUND,
        (_, Outcome::NotStored) => Status::NOT_STORED,
        (_, Outcome::Miss) => Status::NOT_FOUND,
        (_, Outcome::Exists) => Status::EXISTS,
        (_, Outcome::TooLarge) => Status::TOO_LARGE,
        (_, Outcome::OutOfMemory) => Status::OUT_OF_MEMORY,
        (_, Outcome::NonNumeric) => Status::NON_NUMERIC,
        _ => Status::TEMPORARY,
    }
}

fn status(answer: BinaryAnswer, status: Status, out: &mut Vec<u8>) {
    message(answer, status.0, Parts { value: status.1, ..Parts::default() }, out);
}

/// A value's reply up to its first byte.
pub(in crate::protocol) fn value_head(answer: BinaryAnswer, note: &[u8], head: &Head<'_>, out: &mut Vec<u8>) {
    let key = if names_key(answer.opcode) { note } else { b"" };
    let extras = head.stamp.flags.to_be_bytes();
    let parts = Parts { extras: &extras, key, value: b"", cas: head.stamp.cas };
    begin(answer, Status::OK.0, parts, head.len, out);
}

/// Appends a whole reply.
pub(in crate::protocol) fn message(answer: BinaryAnswer, status: u16, parts: Parts<'_>, out: &mut Vec<u8>) {
    begin(answer, status, parts, parts.value.len(), out);
    out.extend_from_slice(parts.value);
}

/// Appends a reply up to its value, which will be so long.
fn begin(answer: BinaryAnswer, status: u16, parts: Parts<'_>, value_len: usize, out: &mut Vec<u8>) {
    let body = parts.extras.len() + parts.key.len() + value_len;
    out.extend_from_slice(&[MAGIC, answer.opcode]);
    out.extend_from_slice(&u16::try_from(parts.key.len()).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(&[u8::try_from(parts.extras.len()).unwrap_or(0), 0]);
    out.extend_from_slice(&status.to_be_bytes());
    out.extend_from_slice(&u32::try_from(body).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(&answer.opaque);
    out.extend_from_slice(&parts.cas.to_be_bytes());
    out.extend_from_slice(parts.extras);
    out.extend_from_slice(parts.key);
}

/// The token doesn't allow it.
pub(in crate::protocol) fn refused(answer: BinaryAnswer, why: Status) -> Vec<u8> {
    let mut out = Vec::new();
    status(answer, why, &mut out);
    out
}

/// One statistic, or with neither name nor value the end of them.
pub(crate) fn statistic(answer: BinaryAnswer, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    message(answer, Status::OK.0, Parts { key: name, value, ..Parts::default() }, out);
}

/// All items are gone; the quiet form says nothing.
pub(crate) fn flushed(answer: BinaryAnswer, out: &mut Vec<u8>) {
    if answer.opcode == opcode::FLUSH {
        status(answer, Status::OK, out);
    }
}
