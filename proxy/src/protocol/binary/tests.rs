//! Binary requests, and how memcached 1.6.45 reads them (B-4).

use super::*;
use crate::protocol::request::{FlagSet, SHARED_VALUE_MAX};

const LIMITS: Limits = Limits {
    item_size_max: 1024 * 1024,
    gathered_max: SHARED_VALUE_MAX,
    flags: FlagSet::NEWEST,
    mechanisms: b"PLAIN",
};

struct RequestParts<'a> {
    opcode: u8,
    extras: &'a [u8],
    key: &'a [u8],
    value: &'a [u8],
}

fn bytes(request: &RequestParts<'_>) -> Vec<u8> {
    let body = u32::try_from(request.extras.len() + request.key.len() + request.value.len()).unwrap();
    let mut out = vec![0x80, request.opcode];
    out.extend(u16::try_from(request.key.len()).unwrap().to_be_bytes());
    out.extend([u8::try_from(request.extras.len()).unwrap(), 0, 0, 0]);
    out.extend(body.to_be_bytes());
    out.extend([0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 0, 0, 0, 0, 0]);
    out.extend([request.extras, request.key, request.value].concat());
    out
}

/// A parsed request in short.
fn describe(input: &[u8]) -> String {
    let Some(frame) = parse(input, LIMITS) else { return "more".into() };
    let status =
        |reply: &[u8]| reply.get(6..8).map_or("nothing".into(), |s| format!("{:02x}{:02x}", s[0], s[1]));
    match frame.parsed {
        Parsed::Request(request) => format!("{:?}", request.command.kind()),
        Parsed::LocalReply(reply) => format!("reply {}", status(&reply)),
        Parsed::Close(reply) => format!("close {}", status(&reply)),
        Parsed::Swallow { bytes, then: Then::Request(_) } => format!("swallow {bytes} invalidate"),
        Parsed::Swallow { bytes, then: Then::LocalReply(reply) } => {
            format!("swallow {bytes} {}", status(&reply))
        }
        Parsed::Login => "login".into(),
        Parsed::Stream { len, .. } => format!("stream {len}"),
        Parsed::UntaggedCommand(command) => format!("{:?}", command.kind),
        Parsed::Keys(_) | Parsed::NeedsVersion => "not binary".into(),
    }
}

#[test]
fn requests_are_parsed_as_memcached_does() {
    let k251 = [b'k'; 251];
    let spaced = [b' '; 187];
    for (opcode, extras, key, value, expected) in [
        (0x00, &b""[..], &b"a"[..], &b""[..], "Get"),
        (0x09, b"", b"a", b"", "Get"),
        (0x00, b"", b"", b"", "close 0004"),
        (0x00, b"1234", b"a", b"", "close 0004"),
        (0x00, b"", b"a", b"v", "close 0004"),
        (0x00, b"", &k251, b"", "close 0004"),
        (0x00, b"", &spaced, b"", "swallow 0 0004"),
        (0x01, b"12345678", b"a", b"v", "Store(Set)"),
        (0x01, b"", b"a", b"v", "close 0004"),
        (0x05, b"12345678", b"a", b"", "close 0004"),
        (0x05, b"12345678123456781234", b"a", b"", "Arithmetic"),
        (0x1c, b"1234", b"a", b"", "Touch"),
        (0x1c, b"1234", b"a", b"v", "close 0001"),
        (0x1c, b"", b"a", b"", "close 0004"),
        (0x0a, b"", b"", b"", "reply 0000"),
        (0x0a, b"", b"a", b"", "close 0004"),
        (0x0b, b"", b"", b"", "Version"),
        (0x07, b"", b"", b"", "close 0000"),
        (0x17, b"", b"", b"", "close nothing"),
        (0x50, b"", b"", b"", "reply 0081"),
        (0x50, b"", b"a", b"", "close 0081"),
        (0x08, b"", b"", b"", "FlushAll { delay: None }"),
        (0x18, b"\0\0\0\x05", b"", b"", "FlushAll { delay: Some(5) }"),
        (0x08, b"123", b"", b"", "close 0004"),
        (0x08, b"", b"a", b"", "close 0004"),
        (0x10, b"", b"", b"", "Stats { group: [] }"),
        (0x10, b"", b"slabs", b"", "Stats { group: [115, 108, 97, 98, 115] }"),
        (0x10, b"", b"detail", b"", "reply 0001"),
        (0x10, b"", b"reset", b"", "reply 0001"),
        (0x10, b"", b"", b"v", "close nothing"),
        (0x20, b"", b"", b"", "reply 0000"),
        (0x21, b"", b"PLAIN", b"x", "login"),
    ] {
        assert_eq!(
            describe(&bytes(&RequestParts { opcode, extras, key, value })),
            expected,
            "{opcode:#x} {key:?}"
        );
    }
}

// V-2, B-4.
#[test]
fn lengths_are_checked_first() {
    let header = |key: u16, extras: u8, body: u32| {
        let mut out = vec![0x80, 0x00];
        out.extend(key.to_be_bytes());
        out.extend([extras, 0, 0, 0]);
        out.extend(body.to_be_bytes());
        out.extend([0; 12]);
        out
    };
    assert_eq!(describe(&header(1, 0, 0)), "close 0081");
    assert_eq!(describe(&header(1, 1, 1)), "close 0081");
    for body in [0x4000_0001, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff] {
        assert_eq!(describe(&header(1, 0, body)), "close 0004");
    }
    assert_eq!(describe(&header(1, 0, 1)), "more");
    assert_eq!(describe(&[0x80, 0, 0]), "more");
    assert_eq!(describe(&[0x82]), "close nothing");
}

//
#[test]
fn too_large_value_is_swallowed_at_once() {
    let mut set = bytes(&RequestParts { opcode: 0x01, extras: b"12345678", key: b"a", value: b"" });
    set[8..12].copy_from_slice(&0x4000_0000_u32.to_be_bytes());
    assert_eq!(describe(&set), format!("swallow {} invalidate", 0x4000_0000 - 9));
}
