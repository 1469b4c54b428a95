//! The binary protocol, as the proxy should read it.

use super::{Change, Column, Frame, Rule, is_blank, number_in};

const HEADER: usize = 24;
const KEY_MAX: usize = 250;
const BODY_MAX: usize = 0x4000_0000;
/// What memcached reads at once, about.
const ROOM: usize = 16_000;
/// A key that travels encoded (D-7).
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
        // Both close, memcached when it has a header's length of it.
        return Frame::of(length, Rule::Ends(Vec::new()));
    }
    let Some(bytes) = input.get(..HEADER) else {
        return Frame::of(length, Rule::Waits);
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
        let rule = match self.complaint() {
            Some(Complaint::Stop) => Rule::Stop,
            // D-10
            Some(Complaint::Ours(status)) => Rule::Ends(self.reply(status)),
            Some(Complaint::Theirs(status)) => {
                // memcached waits for the key before it says so, has no room for any, and 1.6.18 doesn't always
                // say it.
                let head = HEADER + self.key + self.extras;
                let complete = head <= ROOM && self.input.len() >= head;
                if column == Column::Model && complete {
                    // No more of it: what it leaves unread may cost it the replies before.
                    return Frame::of(head, Rule::Closes);
                }
                Rule::Ends(self.reply(status))
            }
            None if self.input.len() < total => {
                return Frame::of(self.input.len(), Rule::Waits);
            }
            None => match self.opcode {
                0x01..=0x03 | 0x0e | 0x0f | 0x11..=0x13 | 0x19 | 0x1a if is_blank(self.value()) => Rule::Stop,
                0x07 | 0x17 => Rule::Closes,
                _ => self.expiring(),
            },
        };
        // Nothing behind what closes is looked at.
        let ends = matches!(rule, Rule::Closes | Rule::Ends(_) | Rule::Stop);
        if ends {
            let length = if matches!(rule, Rule::Closes) { total } else { self.input.len() };
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
            0x05 | 0x06 | 0x15 | 0x16 => Change::Counts(key.into()),
            0x0e | 0x0f | 0x19 | 0x1a => Change::Shows(key.into()),
            _ => Change::None,
        }
    }

    fn value(&self) -> &[u8] {
        &self.input[HEADER + self.extras + self.key..HEADER + self.body]
    }

    fn complaint(&self) -> Option<Complaint> {
        let fields = self.key + self.extras;
        if self.body < fields {
            return Some(Complaint::Theirs(UNKNOWN));
        }
        if self.body > BODY_MAX {
            return Some(Complaint::Theirs(INVALID));
        }
        let keyed = (1..=KEY_MAX).contains(&self.key);
        let has_value = self.body > fields;
        let fits = match self.opcode {
            // Nothing that can be compared.
            0x10 => return Some(Complaint::Stop),
            0x08 | 0x18 => self.key == 0 && !has_value && matches!(self.extras, 0 | 4),
            // The one asks for logins, the other doesn't.
            0x20..=0x22 => return Some(Complaint::Stop),
            0x07 | 0x0a | 0x0b | 0x17 => self.body == 0,
            0x00 | 0x09 | 0x0c | 0x0d | 0x04 | 0x14 => keyed && self.extras == 0 && !has_value,
            0x01..=0x03 | 0x11..=0x13 => keyed && self.extras == 8,
            0x05 | 0x06 | 0x15 | 0x16 => keyed && self.extras == 20 && !has_value,
            0x0e | 0x0f | 0x19 | 0x1a => keyed && self.extras == 0,
            0x1c if keyed && self.extras == 4 && has_value => return Some(Complaint::Ours(NOT_FOUND)),
            0x1d | 0x1e | 0x23 | 0x24 if has_value => return Some(Complaint::Ours(INVALID)),
            0x1c..=0x1e | 0x23 | 0x24 => keyed && self.extras == 4,
            _ if self.body == 0 => true,
            _ => return Some(Complaint::Ours(UNKNOWN)),
        };
        if !fits {
            return Some(Complaint::Theirs(INVALID));
        }
        if matches!(self.opcode, 0x08 | 0x18) && self.input.get(HEADER..HEADER + self.body)? > &[0; 4][..] {
            // It would go on behind the stream.
            return Some(Complaint::Stop);
        }
        let key = self.input.get(HEADER + self.extras..HEADER + fields)?;
        let encoded = key.iter().any(|byte| *byte <= b' ' || *byte == 0x7f);
        // D-7: an answer that no request to memcached has.
        (encoded && key.len() > ENCODED_KEY_MAX).then_some(Complaint::Stop)
    }

    /// D-12: times beyond 31 bits are never.
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
            return Rule::Instead(frame);
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

enum Complaint {
    /// memcached closes, with these words.
    Theirs((u16, &'static [u8])),
    /// We do, with these.
    Ours((u16, &'static [u8])),
    Stop,
}
