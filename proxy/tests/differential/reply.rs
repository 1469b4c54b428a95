//! Compares replies of two memcacheds. A cas is only a name: each side assigns its own, and the same must
//! stand where the other side has the same. TTLs may differ by the time passed, and a number by the
//! spaces behind it.

use std::collections::HashMap;

use super::stream::Protocol;

const CLOCK_SKEW_MAX: i64 = 2;

#[derive(Debug, PartialEq, Eq)]
enum Part<'a> {
    Bytes(&'a [u8]),
    Cas(u64),
    TimeToLive(i64),
    /// Its length isn't compared.
    Value(&'a [u8]),
    /// Differs between instances (D-8).
    Version,
}

/// Which cas of one side is which of the other.
#[derive(Clone, Default)]
pub(crate) struct Pairs {
    there: HashMap<u64, u64>,
    back: HashMap<u64, u64>,
}

impl Pairs {
    pub(crate) fn are_same(&mut self, one: u64, other: u64) -> bool {
        if one == 0 || other == 0 {
            return one == other;
        }
        *self.there.entry(one).or_insert(other) == other && *self.back.entry(other).or_insert(one) == one
    }
}

/// Whether both replies mean the same.
pub(crate) fn same(protocol: Protocol, one: &[u8], other: &[u8], pairs: &mut Pairs) -> bool {
    let (one, other) = (parts(protocol, one), parts(protocol, other));
    one.len() == other.len()
        && one.iter().zip(&other).all(|both| match both {
            (Part::Cas(one), Part::Cas(other)) => pairs.are_same(*one, *other),
            (Part::TimeToLive(one), Part::TimeToLive(other)) => {
                // -1 means never.
                (*one < 0) == (*other < 0) && (one - other).abs() <= CLOCK_SKEW_MAX
            }
            (Part::Value(one), Part::Value(other)) => one == other || number_in(one) == number_in(other),
            (one, other) => one == other,
        })
}

/// Returns the digits of a number without the spaces behind it, or the value as an error.
fn number_in(value: &[u8]) -> Result<&[u8], &[u8]> {
    let digits = value.trim_ascii_end();
    let spaces = &value[digits.len()..];
    let is_number = digits.iter().all(u8::is_ascii_digit) && spaces.iter().all(|byte| *byte == b' ');
    if is_number { Ok(digits) } else { Err(value) }
}

fn parts(protocol: Protocol, reply: &[u8]) -> Vec<Part<'_>> {
    let mut all = Vec::new();
    let mut rest = reply;
    while !rest.is_empty() {
        let used = match protocol {
            Protocol::Text | Protocol::Meta => line(rest, &mut all),
            Protocol::Binary => message(rest, &mut all),
        };
        rest = &rest[used..];
    }
    all
}

fn message<'a>(reply: &'a [u8], all: &mut Vec<Part<'a>>) -> usize {
    let Some(header) = reply.first_chunk::<24>().filter(|header| header[0] == 0x81) else {
        all.push(Part::Bytes(reply));
        return reply.len();
    };
    let body = u32::from_be_bytes(*header[8..].first_chunk().unwrap());
    let total = (24 + usize::try_from(body).unwrap()).min(reply.len());
    if header[1] == 0x0b && header[6..8] == [0, 0] {
        all.push(Part::Version);
        return total;
    }
    let fields = 24 + usize::from(header[4]) + usize::from(u16::from_be_bytes([header[2], header[3]]));
    let fields = fields.min(total);
    all.extend([&reply[..8], &reply[12..16]].map(Part::Bytes));
    all.push(Part::Cas(u64::from_be_bytes(*header[16..].first_chunk().unwrap())));
    all.push(Part::Bytes(&reply[24..fields]));
    all.push(Part::Value(&reply[fields..total]));
    total
}

fn line<'a>(reply: &'a [u8], all: &mut Vec<Part<'a>>) -> usize {
    let length = memchr::memchr(b'\n', reply).map_or(reply.len(), |end| end + 1);
    let line = &reply[..length];
    let words: Vec<&[u8]> = line.trim_ascii_end().split(|byte| *byte == b' ').collect();
    let block = match words.as_slice() {
        [b"VERSION", ..] => {
            all.push(Part::Version);
            return length;
        }
        [b"VALUE", key, flags, bytes, cas @ ..] => {
            all.extend([*key, flags].map(Part::Bytes));
            all.extend(cas.iter().map(|cas| number(cas).map_or(Part::Bytes(cas), Part::Cas)));
            number(bytes)
        }
        [b"VA", bytes, flags @ ..] => {
            all.push(Part::Bytes(b"VA"));
            all.extend(flags.iter().map(|flag| meta_flag(flag)));
            number(bytes)
        }
        [status @ (b"HD" | b"EN" | b"NF" | b"NS" | b"EX"), flags @ ..] => {
            all.push(Part::Bytes(status));
            all.extend(flags.iter().map(|flag| meta_flag(flag)));
            None
        }
        [b"ME", key, facts @ ..] => {
            all.extend([&b"ME"[..], key].map(Part::Bytes));
            all.extend(facts.iter().map(|fact| inspected(fact)));
            None
        }
        _ => {
            all.push(Part::Bytes(line));
            return length;
        }
    };
    // The line's ending.
    all.push(Part::Bytes(&line[line.trim_ascii_end().len()..]));
    let Some(block) = block.and_then(|bytes| usize::try_from(bytes).ok()) else { return length };
    let end = (length + block).min(reply.len());
    let total = (end + 2).min(reply.len());
    all.extend([Part::Value(&reply[length..end]), Part::Bytes(&reply[end..total])]);
    total
}

fn meta_flag(flag: &[u8]) -> Part<'_> {
    let text = std::str::from_utf8(flag).unwrap_or_default();
    match text.split_at_checked(1) {
        Some(("c", cas)) => cas.parse().map_or(Part::Bytes(flag), Part::Cas),
        Some(("t" | "l", seconds)) => seconds.parse().map_or(Part::Bytes(flag), Part::TimeToLive),
        _ => Part::Bytes(flag),
    }
}

fn inspected(fact: &[u8]) -> Part<'_> {
    let text = std::str::from_utf8(fact).unwrap_or_default();
    match text.split_once('=') {
        Some(("cas", cas)) => cas.parse().map_or(Part::Bytes(fact), Part::Cas),
        Some(("exp" | "la", seconds)) => seconds.parse().map_or(Part::Bytes(fact), Part::TimeToLive),
        _ => Part::Bytes(fact),
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}
