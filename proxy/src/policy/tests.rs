//! Every scope with every command of all protocols, and keys within and outside a prefix.

use store::{KeyPrefix, Permissions, Scope, Scopes};

use super::*;
use crate::protocol::request::{FlagSet, Limits, ReplyFormat, SHARED_VALUE_MAX, TextFormat};
use crate::protocol::{self, Protocol};

const NONE: Scopes = Scopes::NONE;
const READ: Scopes = Scopes::READ;
const WRITE: Scopes = Scopes::WRITE;
const FLUSH: Scopes = Scopes::FLUSH;
const STATS: Scopes = Scopes::STATS;

/// Every text command, and the scopes it needs. `#` stands for a value that is streamed.
const LINES: [(&str, [Scopes; 2]); 64] = [
    ("get a", [READ, NONE]),
    ("gets a b c", [READ, NONE]),
    ("gat 0 a", [READ, WRITE]),
    ("gats 0 a b", [READ, WRITE]),
    ("set a 0 0 1\r\n1", [WRITE, NONE]),
    ("set a 0 0 1 noreply\r\n1", [WRITE, NONE]),
    ("set a 0 0 200000\r\n#", [WRITE, NONE]),
    ("add a 0 0 1\r\n1", [WRITE, NONE]),
    ("add a 0 0 200000\r\n#", [WRITE, NONE]),
    ("replace a 0 0 1\r\n1", [WRITE, NONE]),
    ("append a 0 0 1\r\n1", [WRITE, NONE]),
    ("prepend a 0 0 1\r\n1", [WRITE, NONE]),
    ("cas a 0 0 1 1\r\n1", [WRITE, NONE]),
    ("incr a 1", [READ, WRITE]),
    ("decr a 1", [READ, WRITE]),
    ("incr a 1 noreply", [WRITE, NONE]),
    ("decr a 1 noreply", [WRITE, NONE]),
    ("delete a", [WRITE, NONE]),
    ("delete a noreply", [WRITE, NONE]),
    ("touch a 0", [WRITE, NONE]),
    ("mg a", [READ, NONE]),
    ("mg a v", [READ, NONE]),
    ("mg a v f k s c t h l u q O1", [READ, NONE]),
    ("mg YQ== b v", [READ, NONE]),
    ("mg a v N30", [READ, WRITE]),
    ("mg a T0", [READ, WRITE]),
    ("mg a v q  T30", [READ, WRITE]),
    ("mg a v R30", [READ, WRITE]),
    ("mg a Oxx N0 v", [READ, WRITE]),
    ("mg a OT", [READ, NONE]),
    ("ms a 1\r\n1", [WRITE, NONE]),
    ("ms a 1 q\r\n1", [WRITE, NONE]),
    ("ms a 1 ME\r\n1", [WRITE, NONE]),
    ("ms a 1 MA\r\n1", [WRITE, NONE]),
    ("ms a 1 I C1\r\n1", [WRITE, NONE]),
    ("ms a 200000 q\r\n#", [WRITE, NONE]),
    ("ms a 1 c k\r\n1", [WRITE, NONE]),
    ("ms a 1 MA s\r\n1", [READ, WRITE]),
    ("ms a 200000 s\r\n#", [READ, WRITE]),
    ("md a", [WRITE, NONE]),
    ("md a q", [WRITE, NONE]),
    ("md a I T30", [WRITE, NONE]),
    ("ma a", [WRITE, NONE]),
    ("ma a v D0", [READ, WRITE]),
    ("ma a D0 q v", [READ, WRITE]),
    ("ma a t", [READ, WRITE]),
    ("ma a c k Ov", [WRITE, NONE]),
    ("ma a N0 J1 MD q", [WRITE, NONE]),
    ("me a", [READ, NONE]),
    ("me YQ== b b", [READ, NONE]),
    ("stats", [STATS, NONE]),
    ("stats items", [STATS, NONE]),
    ("stats slabs", [STATS, NONE]),
    ("stats sizes", [STATS, NONE]),
    ("stats settings", [STATS, NONE]),
    ("flush_all", [FLUSH, NONE]),
    ("flush_all 30", [FLUSH, NONE]),
    ("flush_all noreply", [FLUSH, NONE]),
    ("version", [NONE, NONE]),
    ("verbosity 1", [NONE, NONE]),
    ("mn", [NONE, NONE]),
    ("quit", [NONE, NONE]),
    ("bogus", [NONE, NONE]),
    // The proxy replies; nothing is forwarded.
    ("stats reset", [NONE, NONE]),
];

/// The scopes that an opcode needs, and the length of its extras in bytes.
fn opcode(opcode: u8) -> (Scopes, usize) {
    match opcode {
        0x00 | 0x09 | 0x0c | 0x0d => (READ, 0),
        0x1d | 0x1e | 0x23 | 0x24 => (READ | WRITE, 4),
        0x01..=0x03 | 0x11..=0x13 => (WRITE, 8),
        0x04 | 0x14 | 0x0e | 0x0f | 0x19 | 0x1a => (WRITE, 0),
        0x05 | 0x06 => (READ | WRITE, 20),
        0x15 | 0x16 => (WRITE, 20),
        // The reply has the item's flags.
        0x1c => (READ | WRITE, 4),
        0x08 | 0x18 => (FLUSH, 0),
        0x10 => (STATS, 0),
        // Quit, no-op, version, login, and unknown opcodes.
        _ => (NONE, 0),
    }
}

fn binary(opcode: u8, extras: usize, key: &[u8], value: usize) -> Vec<u8> {
    let mut bytes = vec![0x80, opcode];
    bytes.extend(u16::try_from(key.len()).unwrap().to_be_bytes());
    bytes.extend([u8::try_from(extras).unwrap(), 0, 0, 0]);
    bytes.extend(u32::try_from(extras + key.len() + value).unwrap().to_be_bytes());
    bytes.extend([0xde, 0xad, 0xbe, 0xef]);
    bytes.extend([0; 8]);
    bytes.extend(vec![0; extras]);
    bytes.extend(key);
    bytes.extend(vec![b'v'; value]);
    bytes
}

fn denial_of(permissions: &Permissions, bytes: &[u8]) -> Option<Denial> {
    let limits = Limits {
        item_size_max: 1 << 20,
        gathered_max: SHARED_VALUE_MAX,
        flags: FlagSet::NEWEST,
        mechanisms: crate::login::mechanisms(false),
    };
    let parsed = Protocol::detect(bytes[0]).parse(bytes, limits);
    let parsed = parsed.unwrap_or_else(|| panic!("{} is incomplete", bytes.escape_ascii()));
    deny_frame(permissions, &parsed.parsed)
}

fn every_set() -> impl Iterator<Item = Scopes> {
    let either = |scope| [NONE, scope];
    either(READ).into_iter().flat_map(move |read| {
        either(WRITE).into_iter().flat_map(move |write| {
            either(FLUSH).into_iter().flat_map(move |flush| either(STATS).map(|s| read | write | flush | s))
        })
    })
}

/// The denial for the first needed scope that is missing.
fn expected(needed: Scopes, have: Scopes) -> Option<Denial> {
    [
        (READ, Denial::NeedsScope(Scope::Read)),
        (WRITE, Denial::NeedsScope(Scope::Write)),
        (FLUSH, Denial::NeedsScope(Scope::Flush)),
        (STATS, Denial::NeedsScope(Scope::Stats)),
    ]
    .into_iter()
    .find(|(scope, _)| needed.contains(*scope) && !have.contains(*scope))
    .map(|(_, denial)| denial)
}

fn check_every_set(needed: Scopes, bytes: &[u8]) {
    for scopes in every_set() {
        let permissions = Permissions { scopes, ..Permissions::ALL };
        let shown = &bytes[..bytes.len().min(60)];
        assert_eq!(
            denial_of(&permissions, bytes),
            expected(needed, scopes),
            "{scopes} {}",
            shown.escape_ascii()
        );
    }
}

// D-14, R-13, R-40.
#[test]
fn every_scope_with_every_line() {
    assert_eq!(every_set().count(), 16);
    for (line, [first, second]) in LINES {
        let line = format!("{}\r\n", line.replace('#', &"v".repeat(200_000)));
        check_every_set(first | second, line.as_bytes());
    }
}

// D-14, R-13, R-40.
#[test]
fn every_scope_with_every_opcode() {
    for code in 0..=u8::MAX {
        let (needed, extras) = opcode(code);
        let keyed = needed != NONE && !matches!(code, 0x08 | 0x10 | 0x18);
        let key: &[u8] = if keyed { b"a" } else { b"" };
        check_every_set(needed, &binary(code, extras, key, 0));
        if matches!(code, 0x01..=0x03 | 0x0e | 0x0f | 0x11..=0x13 | 0x19 | 0x1a) {
            check_every_set(needed, &binary(code, extras, key, SHARED_VALUE_MAX + 1));
        }
        // Every forwarded command except VERSION needs a scope.
        let limits = Limits {
            item_size_max: 1 << 20,
            gathered_max: SHARED_VALUE_MAX,
            flags: FlagSet::NEWEST,
            mechanisms: crate::login::mechanisms(false),
        };
        let bytes = binary(code, extras, key, 0);
        let parsed = protocol::Protocol::Binary.parse(&bytes, limits).unwrap().parsed;
        let forwarded =
            matches!(parsed, Parsed::Request(_) | Parsed::UntaggedCommand(_) | Parsed::Stream { .. });
        assert_eq!(forwarded, needed != NONE || code == 0x0b, "{code:#04x}");
    }
}

// T-1.
#[test]
fn too_large_store_is_a_write() {
    let permissions = Permissions { scopes: READ, ..Permissions::ALL };
    let format = ReplyFormat::Text(TextFormat::Line { noreply: false });
    let invalidate = Request { command: Command::Invalidate, key: Key::plain(b"a"), format };
    assert_eq!(deny_request(&permissions, &invalidate), Some(Denial::NeedsScope(Scope::Write)));
}

#[test]
fn prefix_is_compared_with_the_stored_key() {
    let prefix: KeyPrefix = "app:".parse().unwrap();
    let permissions = Permissions { prefix: Some(prefix), ..Permissions::ALL };
    let stored = |key: &[u8]| binary(0x00, 0, key, 0);
    let text = |line: &str| format!("{line}\r\n").into_bytes();
    for (bytes, within) in [
        (text("get app:"), true),
        (text("get app:a app:b"), true),
        (text("get app:a b"), false),
        (text("gat 0 app:a b"), false),
        (text("get b app:a"), false),
        (text("get app"), false),
        (text("get APP:a"), false),
        (text("get xapp:a"), false),
        (text("set app:a 0 0 1\r\n1"), true),
        (text("set b 0 0 1\r\n1"), false),
        (text(&format!("set b 0 0 200000\r\n{}", "v".repeat(200_000))), false),
        (text("delete b noreply"), false),
        (text("mg app:a v"), true),
        (text("mg b v"), false),
        // "app:x" and "other", encoded.
        (text("mg YXBwOng= b v"), true),
        (text("ms YXBwOng= 1 b\r\n1"), true),
        (text("mg b3RoZXI= b v"), false),
        (text("mg YXBwOng= v"), false),
        (text("mg app:x b v"), false),
        (text("me YXBwOng= b b"), true),
        // Not decoded: no word follows the b.
        (text("me YXBwOng= b"), false),
        (text("me app:x"), true),
        (text("me other"), false),
        // Bytes that memcached would skip or ignore.
        (text("mg YXB!wOng= b v"), false),
        (text("mg YXBwOnh= b v"), false),
        (text("mg YXBwOng=YXBw b v"), false),
        (stored(b"app:a"), true),
        (stored(b"app:\r\n \0"), true),
        (stored(b"b"), false),
        (stored(b"YXBwOng="), false),
        // Commands that concern all keys.
        (text("stats"), false),
        (text("flush_all"), false),
        (binary(0x10, 0, b"", 0), false),
        (binary(0x08, 0, b"", 0), false),
        (text("version"), true),
        (text("mn"), true),
        (binary(0x0b, 0, b"", 0), true),
        (binary(0x0a, 0, b"", 0), true),
    ] {
        let denied = (!within).then_some(Denial::OutsidePrefix);
        assert_eq!(
            denial_of(&permissions, &bytes),
            denied,
            "{}",
            bytes[..bytes.len().min(60)].escape_ascii()
        );
    }
    let reads = Permissions { scopes: READ, ..permissions };
    assert_eq!(
        denial_of(&reads, &text("set b 0 0 1\r\n1")),
        Some(Denial::NeedsScope(Scope::Write)),
        "the scope is reported first"
    );
}

#[test]
fn denial_is_suppressed_only_by_text_noreply() {
    let denied = |bytes: &[u8]| {
        let limits = Limits {
            item_size_max: 1 << 20,
            gathered_max: SHARED_VALUE_MAX,
            flags: FlagSet::NEWEST,
            mechanisms: crate::login::mechanisms(false),
        };
        let parsed = Protocol::detect(bytes[0]).parse(bytes, limits).unwrap().parsed;
        let format = match parsed {
            Parsed::Request(request) => request.format,
            Parsed::UntaggedCommand(command) => command.format,
            other => panic!("{other:?}"),
        };
        protocol::encode_denial(format, Denial::NeedsScope(Scope::Write)).into_owned()
    };
    let line = b"CLIENT_ERROR access denied: needs write scope\r\n";
    assert_eq!(denied(b"delete a\r\n"), line);
    assert_eq!(denied(b"delete a noreply\r\n"), b"");
    assert_eq!(denied(b"flush_all noreply\r\n"), b"");
    assert_eq!(denied(b"md a q\r\n"), line);
    for opcode in [0x00, 0x09, 0x14, 0x18] {
        let mut reply = vec![0x81, opcode, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 13, 0xde, 0xad, 0xbe, 0xef];
        reply.extend([0; 8]);
        reply.extend(b"Auth failure.");
        let key: &[u8] = if opcode == 0x18 { b"" } else { b"a" };
        assert_eq!(denied(&binary(opcode, 0, key, 0)), reply);
    }
}
