//! The binary protocol as the proxy should parse it.

use super::{Change, Column, Frame, Rule, is_blank, number_in};

const HEADER: usize = 24;
const KEY_MAX: usize = 250;
const BODY_MAX: usize = 0x4000_0000;
/// About what memcached reads at once.
const READ_BUFFER: usize = 16_000;
/// Limit of a key that is base64-encoded on the lane (D-7).
const ENCODED_KEY_MAX: usize = 186;

const UNKNOWN: (u16, &[u8]) = (0x0081, b"Unknown command");
const INVALID: (u16, &[u8]) = (0x0004, b"Invalid arguments");
const NOT_FOUND: (u16, &[u8]) = (0x0001, b"Not found");

struct Header<'a> {
    input: &'a [u8],
    opcode: u8,
    key: usize,
    extras: usize,
    body: usize,
}

pub(super) fn first(input: &[u8], column: Column) -> Frame<'_> {
    let length = input.len();
    if input[0] != 0x80 {
        // Both close; memcached waits for a whole header first.
        return Frame::of(length, Rule::ProxyCloses(Vec::new()));
    }
    let Some(bytes) = input.get(..HEADER) else {
        return Frame::of(length, Rule::Incomplete);
    };
    let number = |range: std::ops::Range<usize>| {
        bytes[range].iter().fold(0, |value, byte| value << 8 | usize::from(*byte))
    };
    let header =
        Header { input, opcode: bytes[1], key: number(2..4), extras: number(4..5), body: number(8..12) };
    header.read(column)
}

impl<'a> Header<'a> {
    fn read(&self, column: Column) -> Frame<'a> {
        let total = HEADER + self.body;
        let rule = match self.violation() {
            Some(Violation::Skip) => Rule::Skip,
            // D-10
            Some(Violation::ProxyCloses(status)) => Rule::ProxyCloses(self.reply(status)),
            Some(Violation::BothClose(status)) => {
                // memcached replies only after it has read the key, can't buffer a long
                // one, and 1.6.18 doesn't always reply.
                let head = HEADER + self.key + self.extras;
                let complete = head <= READ_BUFFER && self.input.len() >= head;
                if column == Column::Reference && complete {
                    // Nothing after it is sent: unread bytes could cost memcached's
                    // earlier replies.
                    return Frame::of(head, Rule::BothClose);
                }
                Rule::ProxyCloses(self.reply(status))
            }
            None if self.input.len() < total => {
                return Frame::of(self.input.len(), Rule::Incomplete);
            }
            None => match self.opcode {
                0x01..=0x03 | 0x0e | 0x0f | 0x11..=0x13 | 0x19 | 0x1a if is_blank(self.value()) => Rule::Skip,
                0x07 | 0x17 => Rule::BothClose,
                _ => self.expiring(),
            },
        };
        // What follows a close isn't parsed.
        let is_last = matches!(rule, Rule::BothClose | Rule::ProxyCloses(_) | Rule::Skip);
        if is_last {
            let length = if matches!(rule, Rule::BothClose) { total } else { self.input.len() };
            return Frame::of(length, rule);
        }
        let key = self.named();
        let (reads, writes) = match self.opcode {
            0x00 | 0x09 | 0x0c | 0x0d | 0x1d | 0x1e | 0x23 | 0x24 => (vec![key.into()], None),
            _ => (Vec::new(), Some(key.into()).filter(|_| !key.is_empty())),
        };
        Frame {
            rule,
            change: self.change(),
            highest: self.highest(),
            reads,
            writes,
            ..Frame::of(total, Rule::Same)
        }
    }

    fn highest(&self) -> u64 {
        let extras = &self.input[HEADER..HEADER + self.extras];
        match self.opcode {
            0x05 | 0x06 | 0x15 | 0x16 => {
                let (delta, rest) = extras.split_first_chunk().unwrap();
                u64::from_be_bytes(*delta).max(u64::from_be_bytes(*rest.first_chunk().unwrap()))
            }
            _ => number_in(self.value()),
        }
    }

    fn named(&self) -> &'a [u8] {
        &self.input[HEADER + self.extras..HEADER + self.extras + self.key]
    }

    fn change(&self) -> Change<'a> {
        let key = self.named();
        match self.opcode {
            0x05 | 0x06 | 0x15 | 0x16 => Change::Arithmetic(key.into()),
            0x0e | 0x0f | 0x19 | 0x1a => Change::Concatenates(key.into()),
            _ => Change::None,
        }
    }

    fn value(&self) -> &[u8] {
        &self.input[HEADER + self.extras + self.key..HEADER + self.body]
    }

    fn violation(&self) -> Option<Violation> {
        let fields = self.key + self.extras;
        if self.body < fields {
            return Some(Violation::BothClose(UNKNOWN));
        }
        if self.body > BODY_MAX {
            return Some(Violation::BothClose(INVALID));
        }
        let keyed = (1..=KEY_MAX).contains(&self.key);
        let has_value = self.body > fields;
        let fits = match self.opcode {
            // Statistics can't be compared.
            0x10 => return Some(Violation::Skip),
            0x08 | 0x18 => self.key == 0 && !has_value && matches!(self.extras, 0 | 4),
            // Only the proxy asks for a login.
            0x20..=0x22 => return Some(Violation::Skip),
            0x07 | 0x0a | 0x0b | 0x17 => self.body == 0,
            0x00 | 0x09 | 0x0c | 0x0d | 0x04 | 0x14 => keyed && self.extras == 0 && !has_value,
            0x01..=0x03 | 0x11..=0x13 => keyed && self.extras == 8,
            0x05 | 0x06 | 0x15 | 0x16 => keyed && self.extras == 20 && !has_value,
            0x0e | 0x0f | 0x19 | 0x1a => keyed && self.extras == 0,
            0x1c if keyed && self.extras == 4 && has_value => return Some(Violation::ProxyCloses(NOT_FOUND)),
            0x1d | 0x1e | 0x23 | 0x24 if has_value => return Some(Violation::ProxyCloses(INVALID)),
            0x1c..=0x1e | 0x23 | 0x24 => keyed && self.extras == 4,
            _ if self.body == 0 => true,
            _ => return Some(Violation::ProxyCloses(UNKNOWN)),
        };
        if !fits {
            return Some(Violation::BothClose(INVALID));
        }
        if matches!(self.opcode, 0x08 | 0x18) && self.input.get(HEADER..HEADER + self.body)? > &[0; 4][..] {
            // It would take effect after the stream.
            return Some(Violation::Skip);
        }
        let key = self.input.get(HEADER + self.extras..HEADER + fields)?;
        let encoded = key.iter().any(|byte| *byte <= b' ' || *byte == 0x7f);
        // D-7: no request makes memcached reply so.
        (encoded && key.len() > ENCODED_KEY_MAX).then_some(Violation::Skip)
    }

    /// Expiry beyond 31 bits means never (D-12).
    fn expiring(&self) -> Rule {
        let (at, never) = match self.opcode {
            0x01..=0x03 | 0x11..=0x13 => (4, 0xffff_ffff),
            0x05 | 0x06 | 0x15 | 0x16 => (16, 0xffff_fffe),
            0x1c..=0x1e | 0x23 | 0x24 => (0, 0xffff_ffff),
            _ => return Rule::Same,
        };
        let mut frame = self.input[..HEADER + self.body].to_vec();
        let exptime = frame[HEADER + at..].first_chunk_mut::<4>().unwrap();
        if (0x8000_0000..=never).contains(&u32::from_be_bytes(*exptime)) {
            *exptime = [0; 4];
            return Rule::Replace(frame);
        }
        Rule::Same
    }

    fn reply(&self, (status, text): (u16, &[u8])) -> Vec<u8> {
        let mut out = vec![0x81, self.opcode, 0, 0, 0, 0];
        out.extend(status.to_be_bytes());
        out.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
        out.extend_from_slice(&self.input[12..16]);
        out.extend([0; 8]);
        out.extend_from_slice(text);
        out
    }
}

enum Violation {
    /// memcached replies so and closes.
    BothClose((u16, &'static [u8])),
    /// The proxy replies so and closes.
    ProxyCloses((u16, &'static [u8])),
    Skip,
}
