//! The text protocol's replies, as memcached words them.

use crate::protocol::request::{Head, ItemMeta, Kind, Outcome, TextAnswer};
use crate::protocol::{fault_line, number};

pub(in crate::protocol) fn encode(
    answer: TextAnswer,
    kind: Kind,
    key: &[u8],
    outcome: &Outcome<'_>,
    out: &mut Vec<u8>,
) {
    match answer {
        TextAnswer::Value { with_cas, last } => {
            match outcome {
                Outcome::Value(stamp, data) => {
                    value_line(key, *stamp, data.len(), with_cas, out);
                    out.extend_from_slice(data);
                    out.extend_from_slice(b"\r\n");
                }
                // Ends the whole line: no END behind it.
                Outcome::Failed(fault) => return out.extend_from_slice(fault_line(*fault)),
                _ => {}
            }
            if last {
                out.extend_from_slice(b"END\r\n");
            }
        }
        TextAnswer::Line { noreply: true } => {}
        TextAnswer::Line { noreply: false } => line(kind, outcome, out),
    }
}

pub(in crate::protocol) fn value_head(answer: TextAnswer, key: &[u8], head: &Head<'_>, out: &mut Vec<u8>) {
    let with_cas = matches!(answer, TextAnswer::Value { with_cas: true, .. });
    value_line(key, head.stamp, head.len, with_cas, out);
}

fn value_line(key: &[u8], stamp: ItemMeta, len: usize, with_cas: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(b"VALUE ");
    out.extend_from_slice(key);
    out.push(b' ');
    number::write(u64::from(stamp.flags), out);
    out.push(b' ');
    number::write_len(len, out);
    if with_cas {
        out.push(b' ');
        number::write(stamp.cas, out);
    }
    out.extend_from_slice(b"\r\n");
}

fn line(kind: Kind, outcome: &Outcome<'_>, out: &mut Vec<u8>) {
    let words: &[u8] = match (kind, outcome) {
        (Kind::Arithmetic, Outcome::Value(_, data)) => {
            out.extend_from_slice(data);
            b"\r\n"
        }
        (_, Outcome::Version(version)) => {
            out.extend_from_slice(b"VERSION ");
            out.extend_from_slice(version);
            b"\r\n"
        }
        (Kind::Invalidate, Outcome::Done(_) | Outcome::Miss) | (_, Outcome::TooLarge) => {
            b"SERVER_ERROR object too large for cache\r\n"
        }
        (Kind::Delete, Outcome::Done(_)) => b"DELETED\r\n",
        (Kind::Touch, Outcome::Done(_)) => b"TOUCHED\r\n",
        (_, Outcome::Done(_)) => b"STORED\r\n",
        (_, Outcome::Miss) => b"NOT_FOUND\r\n",
        (_, Outcome::NotStored) => b"NOT_STORED\r\n",
        (_, Outcome::Exists) => b"EXISTS\r\n",
        (Kind::Arithmetic, Outcome::OutOfMemory) => b"SERVER_ERROR out of memory\r\n",
        (_, Outcome::OutOfMemory) => b"SERVER_ERROR out of memory storing object\r\n",
        (_, Outcome::NonNumeric) => b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n",
        (_, Outcome::Failed(fault)) => fault_line(*fault),
        (_, Outcome::Value(..)) => b"SERVER_ERROR backend unavailable\r\n",
    };
    out.extend_from_slice(words);
}
