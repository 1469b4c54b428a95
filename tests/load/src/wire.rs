//! Requests and expected replies of every key, encoded once before the run. Pure.

use clap::ValueEnum;

use crate::reply_checker::ExpectedReply;

pub(crate) const KEY_LEN: usize = 30;
const CRLF: &[u8] = b"\r\n";
const GET: u8 = 0x00;
const SET: u8 = 0x01;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocol {
    Text,
    Meta,
    Binary,
}

/// The request that a reply belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Get,
    /// Any key of a multi-get except its last.
    GetMore,
    Set,
    Login,
}

/// Rows of equal length, stored back to back.
struct Table {
    bytes: Vec<u8>,
    stride: usize,
}

/// The encoded requests and replies for a number of keys with values of one size.
pub(crate) struct Wire {
    protocol: Protocol,
    keys: Table,
    get: Table,
    /// A set, up to the key that its value begins with.
    set: Table,
    /// The rest of every value, with the line end if the protocol has one.
    filler: Vec<u8>,
    get_reply_first: Table,
    /// The part after the unpredictable bytes, if any.
    get_reply_second: Table,
    set_reply: Table,
    rest: usize,
}

impl Table {
    fn new(keys: usize, row: impl Fn(usize) -> Vec<u8>) -> Self {
        let stride = row(0).len();
        let bytes: Vec<u8> = (0..keys).flat_map(row).collect();
        debug_assert_eq!(bytes.len(), stride * keys);
        Self { bytes, stride }
    }

    #[inline]
    fn row(&self, key: usize) -> &[u8] {
        &self.bytes[key * self.stride..(key + 1) * self.stride]
    }
}

impl Wire {
    pub(crate) fn new(protocol: Protocol, keys: usize, value: usize) -> Self {
        let key = |i: usize| format!("load:{i:0width$}", width = KEY_LEN - 5).into_bytes();
        let with_key = |head: Vec<u8>, i: usize| [head, key(i)].concat();
        let rest = value - KEY_LEN;
        let mut filler = vec![b'v'; rest];
        let binary = protocol == Protocol::Binary;
        if !binary {
            filler.extend_from_slice(CRLF);
        }
        let text = |line: &str, i: usize| line.replace('K', &String::from_utf8_lossy(&key(i))).into_bytes();
        let (get, set, got, stored): (&str, String, String, &str) = match protocol {
            Protocol::Text | Protocol::Binary => (
                "get K\r\n",
                format!("set K 0 0 {value}\r\n"),
                format!("VALUE K 0 {value}\r\n"),
                "STORED\r\n",
            ),
            Protocol::Meta => {
                ("mg K v\r\n", format!("ms K {value}\r\n"), format!("VA {value}\r\n"), "HD\r\n")
            }
        };
        let rows = |binary_row: &dyn Fn(usize) -> Vec<u8>, text_row: &dyn Fn(usize) -> Vec<u8>| {
            Table::new(keys, if binary { binary_row } else { text_row })
        };
        Self {
            protocol,
            keys: Table::new(keys, |i| [b" ".to_vec(), key(i)].concat()),
            get: rows(&|i| with_key(request(GET, i, 0, 0), i), &|i| text(get, i)),
            set: rows(
                &|i| with_key(with_key([request(SET, i, 8, value), vec![0; 8]].concat(), i), i),
                &|i| with_key(text(&set, i), i),
            ),
            filler,
            get_reply_first: rows(&|i| reply(GET, i, 4, value), &|i| with_key(text(&got, i), i)),
            get_reply_second: rows(&|i| with_key(vec![0; 4], i), &|_| Vec::new()),
            set_reply: rows(&|i| reply(SET, i, 0, 0), &|_| stored.into()),
            rest,
        }
    }

    #[inline]
    pub(crate) fn get(&self, key: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(self.get.row(key));
    }

    /// A text get of several keys.
    pub(crate) fn multiget(&self, keys: impl Iterator<Item = usize>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"get");
        keys.for_each(|key| out.extend_from_slice(self.keys.row(key)));
        out.extend_from_slice(CRLF);
    }

    #[inline]
    pub(crate) fn set(&self, key: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(self.set.row(key));
        out.extend_from_slice(&self.filler);
    }

    /// The expected reply to a get or set of `key`.
    #[inline]
    pub(crate) fn expect(&self, op: Op, key: usize) -> ExpectedReply<'_> {
        let unknown = if self.protocol == Protocol::Binary { 8 } else { 0 };
        match op {
            Op::Set | Op::Login => ExpectedReply { unknown, ..ExpectedReply::line(self.set_reply.row(key)) },
            Op::Get | Op::GetMore => ExpectedReply {
                first: self.get_reply_first.row(key),
                unknown,
                second: self.get_reply_second.row(key),
                rest: self.rest,
                last: match (self.protocol, op) {
                    (Protocol::Text, Op::Get) => b"\r\nEND\r\n",
                    (Protocol::Binary, _) => b"",
                    _ => CRLF,
                },
            },
        }
    }
}

/// The header of a binary request; its opaque is the key's number.
fn request(opcode: u8, key: usize, extras: u8, value: usize) -> Vec<u8> {
    let body = KEY_LEN + usize::from(extras) + value;
    let mut header = head([0x80, opcode, 0, u8::try_from(KEY_LEN).unwrap_or(0), extras], body, key);
    header.extend_from_slice(&[0; 8]);
    header
}

/// The header of a binary reply, up to its CAS.
fn reply(opcode: u8, key: usize, extras: u8, value: usize) -> Vec<u8> {
    head([0x81, opcode, 0, 0, extras], usize::from(extras) + value, key)
}

fn head(first: [u8; 5], body: usize, opaque: usize) -> Vec<u8> {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes();
    let mut header = first.to_vec();
    // Data type, then the vbucket or the status: all zero.
    header.extend_from_slice(&[0; 3]);
    header.extend_from_slice(&number(body));
    header.extend_from_slice(&number(opaque));
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(protocol: Protocol) -> (Vec<u8>, Vec<u8>) {
        let wire = Wire::new(protocol, 8, 32);
        let (mut get, mut set) = (Vec::new(), Vec::new());
        wire.get(7, &mut get);
        wire.set(7, &mut set);
        (get, set)
    }

    #[test]
    fn requests() {
        let key = "load:".to_owned() + &"0".repeat(24) + "7";
        assert_eq!(key.len(), KEY_LEN);
        let (get, set) = encoded(Protocol::Text);
        assert_eq!(get, format!("get {key}\r\n").as_bytes());
        assert_eq!(set, format!("set {key} 0 0 32\r\n{key}vv\r\n").as_bytes());
        let (get, set) = encoded(Protocol::Meta);
        assert_eq!(get, format!("mg {key} v\r\n").as_bytes());
        assert_eq!(set, format!("ms {key} 32\r\n{key}vv\r\n").as_bytes());
        let (get, set) = encoded(Protocol::Binary);
        assert_eq!(get[..24], *b"\x80\0\0\x1e\0\0\0\0\0\0\0\x1e\0\0\0\x07\0\0\0\0\0\0\0\0");
        assert_eq!(get[24..], *key.as_bytes());
        assert_eq!(set[..16], *b"\x80\x01\0\x1e\x08\0\0\0\0\0\0\x46\0\0\0\x07");
        assert_eq!(set[32..], *format!("{key}{key}vv").as_bytes());
    }

    #[test]
    fn replies() {
        let key = "load:".to_owned() + &"0".repeat(24) + "7";
        let mut binary = b"\x81\0\0\0\x04\0\0\0\0\0\0\x24\0\0\0\x07somecas!\0\0\0\0".to_vec();
        binary.extend_from_slice(format!("{key}vv").as_bytes());
        for (protocol, op, reply) in [
            (Protocol::Text, Op::Get, format!("VALUE {key} 0 32\r\n{key}vv\r\nEND\r\n").into_bytes()),
            (Protocol::Text, Op::GetMore, format!("VALUE {key} 0 32\r\n{key}vv\r\n").into_bytes()),
            (Protocol::Text, Op::Set, b"STORED\r\n".to_vec()),
            (Protocol::Meta, Op::Get, format!("VA 32\r\n{key}vv\r\n").into_bytes()),
            (Protocol::Meta, Op::Set, b"HD\r\n".to_vec()),
            (Protocol::Binary, Op::Get, binary),
            (Protocol::Binary, Op::Set, b"\x81\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\x07somecas!".to_vec()),
        ] {
            let wire = Wire::new(protocol, 8, 32);
            let read = crate::reply_checker::ReplyChecker::default().step(&wire.expect(op, 7), &reply);
            assert_eq!(read, Ok((reply.len(), true)), "{protocol:?} {op:?}");
        }
    }
}
