//! The binary protocol's replies: memcached's statuses and their texts, with the caller's opcode and opaque.

use super::binary::{Parts, Status};
use super::number;
use crate::request::{BinaryAnswer, Kind, Mode, Outcome};

const MAGIC: u8 = 0x81;

/// GETK and its kin answer with the key.
pub(super) fn names_key(opcode: u8) -> bool {
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

pub(super) fn encode(answer: BinaryAnswer, kind: Kind, key: &[u8], outcome: &Outcome<'_>, out: &mut Vec<u8>) {
    let opcode = answer.opcode;
    match (kind, outcome) {
        (Kind::Get, Outcome::Value { flags, cas, data }) => {
            message(answer, 0, Parts { extras: &flags.to_be_bytes(), key, value: data, cas: *cas }, out);
        }
        (Kind::Get, Outcome::Miss) if hides_miss(opcode) => {}
        (Kind::Get, Outcome::Miss) if names_key(opcode) => {
            message(answer, Status::NOT_FOUND.0, Parts { key, ..Parts::default() }, out);
        }
        (Kind::Forget, Outcome::Done { .. } | Outcome::Miss) => status(answer, Status::TOO_LARGE, out),
        (Kind::Touch, Outcome::Done { flags, cas }) => {
            message(answer, 0, Parts { extras: &flags.to_be_bytes(), cas: *cas, ..Parts::default() }, out);
        }
        (_, Outcome::Done { .. } | Outcome::Value { .. }) if hides_success(opcode) => {}
        (Kind::Arithmetic, Outcome::Value { cas, data, .. }) => {
            let value = number::unsigned(data.trim_ascii_end()).unwrap_or(0);
            message(answer, 0, Parts { value: &value.to_be_bytes(), cas: *cas, ..Parts::default() }, out);
        }
        (Kind::Delete, Outcome::Done { .. }) => status(answer, Status::OK, out),
        (_, Outcome::Done { cas, .. }) => message(answer, 0, Parts { cas: *cas, ..Parts::default() }, out),
        (_, Outcome::Version(version)) => {
            message(answer, 0, Parts { value: version, ..Parts::default() }, out);
        }
        (_, other) => status(answer, refusal(kind, other), out),
    }
}

fn refusal(kind: Kind, outcome: &Outcome<'_>) -> Status {
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

/// Appends a whole reply.
pub(super) fn message(answer: BinaryAnswer, status: u16, parts: Parts<'_>, out: &mut Vec<u8>) {
    let body = parts.extras.len() + parts.key.len() + parts.value.len();
    out.extend_from_slice(&[MAGIC, answer.opcode]);
    out.extend_from_slice(&u16::try_from(parts.key.len()).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(&[u8::try_from(parts.extras.len()).unwrap_or(0), 0]);
    out.extend_from_slice(&status.to_be_bytes());
    out.extend_from_slice(&u32::try_from(body).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(&answer.opaque);
    out.extend_from_slice(&parts.cas.to_be_bytes());
    out.extend_from_slice(parts.extras);
    out.extend_from_slice(parts.key);
    out.extend_from_slice(parts.value);
}
