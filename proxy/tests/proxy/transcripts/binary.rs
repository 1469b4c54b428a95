//! Binary messages in transcripts:
//!
//! ```text
//! > set k=a flags=5 exp=0 v=value cas={a}
//! < set ok cas={a}
//! < get ok x=00000005 v=value cas={?}
//! ```
//!
//! Fields of a request: `k` (key), `v` (value), `x` (extras, in hex), `cas`; extras by name: `flags`,
//! `exp`, `delta`, `initial` (0 if missing); wrong lengths: `keylen`, `extlen`, `body`. Every opaque is
//! 0xdeadbeef. `raw BYTES` stands for those bytes. The value of a status is its text. `stats` stands for
//! all replies to one `stat`.

use testkit::binary::Header;

use super::script::{Element, elements, plain};

const OPAQUE: [u8; 4] = [0xde, 0xad, 0xbe, 0xef];

const OPCODES: [(&str, u8); 36] = [
    ("get", 0x00),
    ("set", 0x01),
    ("add", 0x02),
    ("replace", 0x03),
    ("delete", 0x04),
    ("incr", 0x05),
    ("decr", 0x06),
    ("quit", 0x07),
    ("flush", 0x08),
    ("getq", 0x09),
    ("noop", 0x0a),
    ("version", 0x0b),
    ("getk", 0x0c),
    ("getkq", 0x0d),
    ("append", 0x0e),
    ("prepend", 0x0f),
    ("stat", 0x10),
    ("setq", 0x11),
    ("addq", 0x12),
    ("replaceq", 0x13),
    ("deleteq", 0x14),
    ("incrq", 0x15),
    ("decrq", 0x16),
    ("quitq", 0x17),
    ("flushq", 0x18),
    ("appendq", 0x19),
    ("prependq", 0x1a),
    ("verbosity", 0x1b),
    ("touch", 0x1c),
    ("gat", 0x1d),
    ("gatq", 0x1e),
    ("list", 0x20),
    ("auth", 0x21),
    ("step", 0x22),
    ("gatk", 0x23),
    ("gatkq", 0x24),
];

const STATUSES: [(&str, u16, &str); 12] = [
    ("ok", 0x0000, ""),
    ("miss", 0x0001, "Not found"),
    ("exists", 0x0002, "Data exists for key."),
    ("large", 0x0003, "Too large."),
    ("invalid", 0x0004, "Invalid arguments"),
    ("not-stored", 0x0005, "Not stored."),
    ("non-numeric", 0x0006, "Non-numeric server-side value for incr or decr"),
    ("refused", 0x0020, "Auth failure."),
    ("continue", 0x0021, ""),
    ("unknown", 0x0081, "Unknown command"),
    ("memory", 0x0082, "Out of memory"),
    ("busy", 0x0085, "Busy"),
];

#[derive(Default)]
struct Fields<'a> {
    key: Vec<u8>,
    value: Option<Vec<u8>>,
    any_value: bool,
    extras: Option<Vec<u8>>,
    cas: Option<&'a str>,
    keylen: Option<u16>,
    extlen: Option<u8>,
    body: Option<u32>,
    flags: u32,
    exptime: u32,
    delta: u64,
    initial: u64,
}

impl<'a> Fields<'a> {
    fn read(words: impl Iterator<Item = &'a str>) -> Self {
        let mut fields = Self::default();
        for word in words {
            let (name, what) = word.split_once('=').unwrap_or_else(|| panic!("{word} is no field"));
            match name {
                "k" => fields.key = plain(what),
                "v" if what == "{*}" => fields.any_value = true,
                "v" => fields.value = Some(plain(what)),
                "x" => fields.extras = Some(hex(what)),
                "cas" => fields.cas = Some(what),
                "keylen" => fields.keylen = Some(number(what)),
                "extlen" => fields.extlen = Some(number(what)),
                "body" => fields.body = Some(number(what)),
                "flags" => fields.flags = number(what),
                "exp" => fields.exptime = number(what),
                "delta" => fields.delta = number(what),
                "initial" => fields.initial = number(what),
                other => panic!("{other} is no field"),
            }
        }
        fields
    }

    /// The extras of this opcode.
    fn extras(&self, opcode: u8) -> Vec<u8> {
        if let Some(extras) = &self.extras {
            return extras.clone();
        }
        match opcode {
            0x01..=0x03 | 0x11..=0x13 => [self.flags.to_be_bytes(), self.exptime.to_be_bytes()].concat(),
            0x05 | 0x06 | 0x15 | 0x16 => {
                let (delta, initial) = (self.delta.to_be_bytes(), self.initial.to_be_bytes());
                [&delta[..], &initial, &self.exptime.to_be_bytes()].concat()
            }
            0x1c..=0x1e | 0x23 | 0x24 => self.exptime.to_be_bytes().into(),
            _ => Vec::new(),
        }
    }

    fn cas(&self) -> Element {
        match self.cas {
            None => Element::Bytes(vec![0; 8]),
            Some(name) if name.starts_with('{') => Element::Cas(name[1..name.len() - 1].to_owned()),
            Some(digits) => Element::Bytes(number::<u64>(digits).to_be_bytes().into()),
        }
    }
}

pub(crate) fn request(line: &str) -> Vec<Element> {
    if let Some(bytes) = line.strip_prefix("raw ") {
        return elements(bytes);
    }
    let mut words = line.split_whitespace();
    let opcode = opcode(words.next().unwrap());
    let fields = Fields::read(words);
    let extras = fields.extras(opcode);
    let value = fields.value.clone().unwrap_or_default();
    let body = u32::try_from(extras.len() + fields.key.len() + value.len()).unwrap();
    let header = Header {
        opcode,
        key_len: fields.keylen.unwrap_or_else(|| u16::try_from(fields.key.len()).unwrap()),
        extras_len: fields.extlen.unwrap_or_else(|| u8::try_from(extras.len()).unwrap()),
        body_len: fields.body.unwrap_or(body),
        opaque: OPAQUE,
        cas: 0,
    };
    // The cas is an element of its own.
    let header = header.encode()[..16].to_vec();
    let rest = [extras, fields.key.clone(), value].concat();
    vec![Element::Bytes(header), fields.cas(), Element::Bytes(rest)]
}

pub(crate) fn reply(line: &str) -> Vec<Element> {
    if line == "stats" {
        return std::iter::once(Element::Stats).chain(reply("stat ok")).collect();
    }
    let mut words = line.split_whitespace();
    let opcode = opcode(words.next().unwrap());
    let status = words.next().unwrap_or_else(|| panic!("{line}: no status"));
    let Some((_, status, text)) = STATUSES.into_iter().find(|(name, ..)| *name == status) else {
        panic!("{status} is no status");
    };
    let fields = Fields::read(words);
    let extras = fields.extras.clone().unwrap_or_default();
    // A miss of GETK has the key in place of the text.
    let text = if fields.key.is_empty() { text } else { "" };
    let value = fields.value.clone().unwrap_or_else(|| text.as_bytes().to_vec());
    let mut header = vec![0x81, opcode];
    header.extend(u16::try_from(fields.key.len()).unwrap().to_be_bytes());
    header.extend([u8::try_from(extras.len()).unwrap(), 0]);
    header.extend(status.to_be_bytes());
    if fields.any_value {
        let opaque = Element::Bytes(OPAQUE.into());
        return vec![Element::Bytes(header), Element::Length, opaque, fields.cas(), Element::Body];
    }
    header.extend(u32::try_from(extras.len() + fields.key.len() + value.len()).unwrap().to_be_bytes());
    header.extend(OPAQUE);
    vec![Element::Bytes(header), fields.cas(), Element::Bytes([extras, fields.key, value].concat())]
}

fn opcode(name: &str) -> u8 {
    match OPCODES.into_iter().find(|(known, _)| *known == name) {
        Some((_, opcode)) => opcode,
        None => number(name),
    }
}

fn number<N: TryFrom<u64>>(digits: &str) -> N {
    let value = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => digits.parse(),
    };
    let value = value.unwrap_or_else(|_| panic!("{digits} is no number"));
    N::try_from(value).unwrap_or_else(|_| panic!("{digits} is too large"))
}

fn hex(digits: &str) -> Vec<u8> {
    assert!(digits.len().is_multiple_of(2), "{digits}: half a byte");
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}
