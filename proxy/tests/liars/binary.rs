//! The binary protocol, as a client speaks it: quiet requests among others, and a no-op behind them.

use std::io::{BufReader, Read as _, Write as _};
use std::net::TcpStream;

use store::Token;

use crate::client::{Ask, Found, Told};
use crate::door::sasl;

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
    let message = format!("\0{}\0{}", token.id().username(), token.secret().reveal());
    stream.get_mut().write_all(&sasl(0x21, "PLAIN", &message)).unwrap();
    let reply = Reply::read(stream);
    assert_eq!((reply.status, &reply.value[..]), (0, &b"Authenticated"[..]));
}

/// Every other one is quiet, where there is a quiet form.
fn opcode_of(nth: usize, ask: &Ask) -> u8 {
    let quiet = nth % 2 == 1;
    match ask {
        Ask::Get { touch: true, .. } => opcode::GATK,
        Ask::Get { .. } if quiet => opcode::GETKQ,
        Ask::Get { .. } => opcode::GETK,
        Ask::Store { .. } if quiet => opcode::SETQ,
        Ask::Store { .. } => opcode::SET,
        Ask::Delete { .. } => opcode::DELETE,
        Ask::Touch { .. } => opcode::TOUCH,
        Ask::Begin { .. } => opcode::ADD,
        Ask::Count { .. } => opcode::INCREMENT,
        Ask::Version => opcode::VERSION,
    }
}

/// The extras of an increment.
const ONE_AND_DONT_MAKE_IT: &[u8] = b"\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\xff\xff\xff\xff";

pub(crate) fn write(asks: &[Ask], flags: u32, out: &mut Vec<u8>) {
    for (nth, ask) in asks.iter().enumerate() {
        let opcode = opcode_of(nth, ask);
        let mut put = |extras: &[u8], key: &str, value: &[u8]| {
            request(opcode, nth, [extras, key.as_bytes(), value], out);
        };
        let store = [flags.to_be_bytes(), [0; 4]].concat();
        match ask {
            Ask::Get { keys, touch } => put(if *touch { &[0; 4] } else { b"" }, &keys[0].1, b""),
            Ask::Store { name, value, .. } => put(&store, name, value),
            Ask::Delete { name, .. } => put(b"", name, b""),
            Ask::Touch { name, .. } => put(&[0; 4], name, b""),
            Ask::Begin { name } => put(&[0; 8], name, b"0"),
            Ask::Count { name } => put(ONE_AND_DONT_MAKE_IT, name, b""),
            Ask::Version => put(b"", "", b""),
        }
    }
    request(opcode::NOOP, asks.len(), [b""; 3], out);
}

fn request(opcode: u8, nth: usize, [extras, key, value]: [&[u8]; 3], out: &mut Vec<u8>) {
    out.extend([0x80, opcode]);
    out.extend(u16::try_from(key.len()).unwrap().to_be_bytes());
    out.extend([u8::try_from(extras.len()).unwrap(), 0, 0, 0]);
    out.extend(u32::try_from(extras.len() + key.len() + value.len()).unwrap().to_be_bytes());
    out.extend(u32::try_from(nth).unwrap().to_be_bytes());
    out.extend([0; 8]);
    out.extend_from_slice(extras);
    out.extend_from_slice(key);
    out.extend_from_slice(value);
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
    pub(crate) fn read(&mut self, stream: &mut BufReader<TcpStream>, nth: usize, ask: &Ask) -> Told {
        let reply = self.next.take().unwrap_or_else(|| Reply::read(stream));
        let opcode = opcode_of(nth, ask);
        if reply.nth != nth {
            assert!(reply.nth > nth, "a reply out of turn");
            self.next = Some(reply);
            return match opcode {
                opcode::GETKQ => Told::Values { found: Vec::new(), whole: true },
                opcode::SETQ => Told::Done,
                _ => panic!("no reply to {ask:?}"),
            };
        }
        assert_eq!(reply.opcode, opcode, "another request's reply to {ask:?}");
        match (reply.status, ask) {
            (0, Ask::Get { .. }) => {
                let flags = u32::from_be_bytes(reply.extras.try_into().unwrap());
                let found = vec![Found { name: reply.key, flags, value: reply.value }];
                Told::Values { found, whole: true }
            }
            (1, Ask::Get { .. }) => Told::Values { found: Vec::new(), whole: true },
            (0x86, Ask::Get { .. }) => Told::Values { found: Vec::new(), whole: false },
            (0, Ask::Count { .. }) => Told::Number(u64::from_be_bytes(reply.value.try_into().unwrap())),
            (0, Ask::Version) => Told::Version,
            (0, _) => Told::Done,
            (1, _) => Told::Missing,
            (2, Ask::Begin { .. }) => Told::NotStored,
            (6 | 0x82, _) => Told::Refused,
            (0x86, _) => Told::Fault,
            (status, _) => panic!("{status:#x} to {ask:?}"),
        }
    }

    /// The no-op's.
    pub(crate) fn end(mut self, stream: &mut BufReader<TcpStream>, nth: usize) {
        let reply = self.next.take().unwrap_or_else(|| Reply::read(stream));
        assert_eq!((reply.opcode, reply.status, reply.nth), (opcode::NOOP, 0, nth));
    }
}
