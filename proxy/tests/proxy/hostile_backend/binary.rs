//! The binary protocol as clients use it: batches with quiet requests, ended by a no-op.

use std::io::{BufReader, Read as _, Write as _};
use std::net::TcpStream;

use store::Token;

use super::client::{Found, Outcome, Request};
use testkit::binary;

mod opcode {
    pub(super) const SET: u8 = 0x01;
    pub(super) const ADD: u8 = 0x02;
    pub(super) const DELETE: u8 = 0x04;
    pub(super) const INCREMENT: u8 = 0x05;
    pub(super) const NOOP: u8 = 0x0a;
    pub(super) const VERSION: u8 = 0x0b;
    pub(super) const GETK: u8 = 0x0c;
    pub(super) const GETKQ: u8 = 0x0d;
    pub(super) const SETQ: u8 = 0x11;
    pub(super) const TOUCH: u8 = 0x1c;
    pub(super) const GATK: u8 = 0x23;
}

pub(crate) fn log_in(stream: &mut BufReader<TcpStream>, token: &Token) {
    stream.get_mut().write_all(&binary::login(token)).unwrap();
    let reply = Reply::read(stream);
    assert_eq!((reply.status, &reply.value[..]), (0, &b"Authenticated"[..]));
}

/// Every second request is quiet, if its opcode has a quiet form.
fn opcode_of(nth: usize, request: &Request) -> u8 {
    let quiet = nth % 2 == 1;
    match request {
        Request::Get { touch: true, .. } => opcode::GATK,
        Request::Get { .. } if quiet => opcode::GETKQ,
        Request::Get { .. } => opcode::GETK,
        Request::Store { .. } if quiet => opcode::SETQ,
        Request::Store { .. } => opcode::SET,
        Request::Delete { .. } => opcode::DELETE,
        Request::Touch { .. } => opcode::TOUCH,
        Request::Begin { .. } => opcode::ADD,
        Request::Count { .. } => opcode::INCREMENT,
        Request::Version => opcode::VERSION,
    }
}

/// The extras of an increment by one that doesn't create the item.
const ONE_AND_DONT_MAKE_IT: &[u8] = b"\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\xff\xff\xff\xff";

pub(crate) fn write(requests: &[Request], flags: u32, out: &mut Vec<u8>) {
    for (nth, request) in requests.iter().enumerate() {
        let opcode = opcode_of(nth, request);
        let mut put = |extras: &[u8], key: &str, value: &[u8]| {
            let opaque = opaque(nth);
            let request = binary::Request { opcode, extras, key: key.as_bytes(), value, opaque, cas: 0 };
            out.extend(request.encode());
        };
        let store = [flags.to_be_bytes(), [0; 4]].concat();
        match request {
            Request::Get { keys, touch } => put(if *touch { &[0; 4] } else { b"" }, &keys[0].1, b""),
            Request::Store { name, value, .. } => put(&store, name, value),
            Request::Delete { name, .. } => put(b"", name, b""),
            Request::Touch { name, .. } => put(&[0; 4], name, b""),
            Request::Begin { name } => put(&[0; 8], name, b"0"),
            Request::Count { name } => put(ONE_AND_DONT_MAKE_IT, name, b""),
            Request::Version => put(b"", "", b""),
        }
    }
    let noop = binary::Request { opcode: opcode::NOOP, opaque: opaque(requests.len()), ..Default::default() };
    out.extend(noop.encode());
}

/// The opaque of the request at index `nth` of a batch.
fn opaque(nth: usize) -> [u8; 4] {
    u32::try_from(nth).unwrap().to_be_bytes()
}

struct Reply {
    opcode: u8,
    status: u16,
    nth: usize,
    extras: Vec<u8>,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Reply {
    fn read(stream: &mut BufReader<TcpStream>) -> Self {
        let mut head = [0; 24];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(head[0], 0x81, "no reply's head: {head:02x?}");
        let number =
            |at: usize, len: usize| head[at..at + len].iter().fold(0, |n, byte| n << 8 | usize::from(*byte));
        let (key_len, extras_len) = (number(2, 2), number(4, 1));
        let mut extras = vec![0; number(8, 4)];
        stream.read_exact(&mut extras).unwrap();
        let mut key = extras.split_off(extras_len);
        let value = key.split_off(key_len);
        let status = u16::try_from(number(6, 2)).unwrap();
        Self { opcode: head[1], status, nth: number(12, 4), extras, key, value }
    }
}

/// The replies to one batch, in order. A quiet request may have none.
#[derive(Default)]
pub(crate) struct Replies {
    next: Option<Reply>,
}

impl Replies {
    pub(crate) fn read(
        &mut self,
        stream: &mut BufReader<TcpStream>,
        nth: usize,
        request: &Request,
    ) -> Outcome {
        let reply = self.next.take().unwrap_or_else(|| Reply::read(stream));
        let opcode = opcode_of(nth, request);
        if reply.nth != nth {
            assert!(reply.nth > nth, "a reply out of turn");
            self.next = Some(reply);
            return match opcode {
                opcode::GETKQ => Outcome::Values { found: Vec::new(), whole: true },
                opcode::SETQ => Outcome::Done,
                _ => panic!("no reply to {request:?}"),
            };
        }
        assert_eq!(reply.opcode, opcode, "another request's reply to {request:?}");
        match (reply.status, request) {
            (0, Request::Get { .. }) => {
                let flags = u32::from_be_bytes(reply.extras.try_into().unwrap());
                let found = vec![Found { name: reply.key, flags, value: reply.value }];
                Outcome::Values { found, whole: true }
            }
            (1, Request::Get { .. }) => Outcome::Values { found: Vec::new(), whole: true },
            (0x86, Request::Get { .. }) => Outcome::Values { found: Vec::new(), whole: false },
            (0, Request::Count { .. }) => {
                Outcome::Number(u64::from_be_bytes(reply.value.try_into().unwrap()))
            }
            (0, Request::Version) => Outcome::Version,
            (0, _) => Outcome::Done,
            (1, _) => Outcome::Missing,
            (2, Request::Begin { .. }) => Outcome::NotStored,
            (6 | 0x82, _) => Outcome::Rejected,
            (0x86, _) => Outcome::Unavailable,
            (status, _) => panic!("{status:#x} to {request:?}"),
        }
    }

    /// Reads the reply to the no-op.
    pub(crate) fn end(mut self, stream: &mut BufReader<TcpStream>, nth: usize) {
        let reply = self.next.take().unwrap_or_else(|| Reply::read(stream));
        assert_eq!((reply.opcode, reply.status, reply.nth), (opcode::NOOP, 0, nth));
    }
}
