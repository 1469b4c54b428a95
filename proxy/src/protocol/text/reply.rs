//! The text protocol's replies, with memcached's texts.

use crate::protocol::request::{CommandKind, ItemMeta, Outcome, TextFormat, ValueHeader};
use crate::protocol::{fault_line, number};

/// Appends the reply to a text request; `key` is the request's context.
pub(in crate::protocol) fn encode(
    format: TextFormat,
    kind: CommandKind,
    key: &[u8],
    outcome: &Outcome<'_>,
    out: &mut Vec<u8>,
) {
    match format {
        TextFormat::Value { with_cas, last } => {
            match outcome {
                Outcome::Value(item, data) => {
                    value_line(key, *item, data.len(), with_cas, out);
                    out.extend_from_slice(data);
                    out.extend_from_slice(b"\r\n");
                }
                // The error ends the reply to the whole line: no END follows (D-6).
                Outcome::Failed(fault) => return out.extend_from_slice(fault_line(*fault)),
                _ => {}
            }
            if last {
                out.extend_from_slice(b"END\r\n");
            }
        }
        TextFormat::Line { noreply: true } => {}
        TextFormat::Line { noreply: false } => line(kind, outcome, out),
    }
}

/// Appends the `VALUE` line.
pub(in crate::protocol) fn encode_value_header(
    format: TextFormat,
    key: &[u8],
    header: &ValueHeader<'_>,
    out: &mut Vec<u8>,
) {
    let with_cas = matches!(format, TextFormat::Value { with_cas: true, .. });
    value_line(key, header.item, header.len, with_cas, out);
}

fn value_line(key: &[u8], item: ItemMeta, len: usize, with_cas: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(b"VALUE ");
    out.extend_from_slice(key);
    out.push(b' ');
    number::write(u64::from(item.flags), out);
    out.push(b' ');
    number::write_len(len, out);
    if with_cas {
        out.push(b' ');
        number::write(item.cas, out);
    }
    out.extend_from_slice(b"\r\n");
}

fn line(kind: CommandKind, outcome: &Outcome<'_>, out: &mut Vec<u8>) {
    let text: &[u8] = match (kind, outcome) {
        (CommandKind::Arithmetic, Outcome::Value(_, data)) => {
            out.extend_from_slice(data);
            b"\r\n"
        }
        (_, Outcome::Version(version)) => {
            out.extend_from_slice(b"VERSION ");
            out.extend_from_slice(version);
            b"\r\n"
        }
        (CommandKind::Invalidate, Outcome::Done(_) | Outcome::Miss) | (_, Outcome::TooLarge) => {
            b"SERVER_ERROR object too large for cache\r\n"
        }
        (CommandKind::Delete, Outcome::Done(_)) => b"DELETED\r\n",
        (CommandKind::Touch, Outcome::Done(_)) => b"TOUCHED\r\n",
        (_, Outcome::Done(_)) => b"STORED\r\n",
        (_, Outcome::Miss) => b"NOT_FOUND\r\n",
        (_, Outcome::NotStored) => b"NOT_STORED\r\n",
        (_, Outcome::Exists) => b"EXISTS\r\n",
        (CommandKind::Arithmetic, Outcome::OutOfMemory) => b"SERVER_ERROR out of memory\r\n",
        (_, Outcome::OutOfMemory) => b"SERVER_ERROR out of memory storing object\r\n",
        (_, Outcome::OutOfMemoryDuringRead) => b"SERVER_ERROR Out of memory during read\r\n",
        (_, Outcome::NonNumeric) => b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n",
        (_, Outcome::Failed(fault)) => fault_line(*fault),
        (_, Outcome::Value(..)) => b"SERVER_ERROR backend unavailable\r\n",
    };
    out.extend_from_slice(text);
}
