//! Through the door to real memcacheds and back.

use std::io::{Read as _, Write as _};

use super::dice::Dice;
use super::door::{Door, pair, sasl, set};
use super::memcached::Memcached;

/// Sends `pieces` one by one on a new connection; all that comes until its end.
fn say<'a>(door: &Door, pieces: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut stream = door.call();
    stream.set_nodelay(true).unwrap();
    let mut reading = stream.try_clone().unwrap();
    let reader = std::thread::spawn(move || {
        let mut said = Vec::new();
        reading.read_to_end(&mut said).map(|_| said)
    });
    for piece in pieces {
        // The session may be over before its last bytes.
        if stream.write_all(piece).is_err() {
            break;
        }
    }
    reader.join().unwrap().unwrap()
}

/// `session` in pieces of 1 to `longest` bytes.
fn split<'a>(mut session: &'a [u8], longest: usize, dice: &mut Dice) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    while !session.is_empty() {
        let (piece, rest) = session.split_at((1 + dice.below(longest)).min(session.len()));
        pieces.push(piece);
        session = rest;
    }
    pieces
}

pub(super) fn binary(opcode: u8, extras: &[u8], key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut out = vec![0x80, opcode];
    out.extend(u16::try_from(key.len()).unwrap().to_be_bytes());
    out.extend([u8::try_from(extras.len()).unwrap(), 0, 0, 0]);
    out.extend(u32::try_from(extras.len() + key.len() + value.len()).unwrap().to_be_bytes());
    out.extend([opcode; 4]);
    out.extend([0; 8]);
    out.extend([extras, key, value].concat());
    out
}

/// Sessions that end by themselves, and mean the same whenever they are held.
fn text_sessions(login: &str) -> Vec<Vec<u8>> {
    let k251 = "k".repeat(251);
    let large = set("large", &"l".repeat(100_000));
    let too_large = set("large", &"l".repeat(1_048_576));
    let many: String = (0..700).map(|i| format!(" key{}", i % 7)).collect();
    let begun = format!(
        "{login}delete n noreply\r\ndelete key1 noreply\r\n{}{}get key1 key2 nothing\r\n{large}get large\r\n\
         {login}set n 0 0 1 noreply\r\n5\r\nincr n 10\r\ndecr n 1\r\nincr key1 1\r\nincr n x\r\ntouch n 0\r\n\
         add n 0 0 1\r\n1\r\nreplace nothing 0 0 1\r\n1\r\ncas n 0 0 1 1\r\n1\r\nbogus\r\n\r\nget\r\n get a\r\n\
         {}get {k251}\r\n{too_large}get large\r\nset x 0 0 -9 \r\n",
        set("key1", "one\r\nget n\r\n"),
        set("key2", ""),
        set(&k251, "set n 0 0 1"),
    );
    // Without the line that ends it.
    let open = begun.strip_suffix("set x 0 0 -9 \r\n").unwrap().to_owned();
    [
        begun,
        format!("{open}get key2{many}\r\nversion\r\nquit\r\nget n\r\n"),
        format!("{open}set n 0 0 1\r\n12345\r\nget n\r\n"),
        format!("{login}set n 0 0 1\r\n7\r\nget n\r\n{}\r\n", "x".repeat(2049)),
        format!("{login}{}\r\nget key2{}\r\nquit\r\n", "x".repeat(2048), " nothing".repeat(20_000)),
    ]
    .map(String::into_bytes)
    .into()
}

fn binary_sessions(user: &str, secret: &str) -> Vec<Vec<u8>> {
    let login = sasl(0x21, "PLAIN", &format!("\0{user}\0{secret}"));
    let flags = [0, 0, 0, 5, 0, 0, 0, 0];
    let open = [
        login.clone(),
        binary(0x14, b"", b"b", b""),
        binary(0x11, &flags, b"b", &[b'v'; 70_000]),
        binary(0x11, &flags, b"a key\r\n", b"\x80\x00in"),
        binary(0x0d, b"", b"nothing", b""),
        binary(0x09, b"", b"nothing", b""),
        binary(0x1c, &[0; 4], b"b", b""),
        binary(0x02, &flags, b"b", b"w"),
        binary(0x12, &flags, b"b", &[b'w'; 1_048_576]),
        binary(0x0a, b"", b"", b""),
        login,
        binary(0x20, b"", b"", b""),
        binary(0x50, b"", b"", b""),
        binary(0x04, b"", b"b", b""),
    ]
    .concat();
    [binary(0x07, b"", b"", b""), binary(0x50, b"", b"k", b"v"), binary(0x00, b"x", b"k", b""), vec![0x82]]
        .map(|end| [&open[..], &end, &binary(0x0a, b"", b"", b"")].concat())
        .into()
}

/// What memcached says to the sessions above: a delete's miss, a touch, an add of what is there, one of
/// what is too large, a no-op, a login, its mechanisms, a command that nobody knows, a delete.
const BINARY_STATUSES: &[u16] = &[0, 1, 0, 2, 3, 0, 0, 0, 0x81, 0];

/// A reply's cas is another at every turn: not compared.
fn without_cas(said: Vec<u8>) -> Vec<u8> {
    let mut out = said;
    let mut at = 0;
    while out.get(at) == Some(&0x81) {
        let body = u32::from_be_bytes(out[at + 8..at + 12].try_into().unwrap());
        out[at + 16..at + 24].fill(0);
        at += 24 + usize::try_from(body).unwrap();
    }
    out
}

#[test]
fn however_a_session_is_split_its_replies_are_the_same() {
    let door = Door::open();
    let token = door.sign_up("ann@example.com");
    let _memcached = Memcached::start(&door, &token, "10.214.7.1");
    let (user, secret) = (token.id().username(), token.secret().reveal().to_owned());
    let mut dice = Dice::new(1);
    let sessions = [text_sessions(&set("x", &pair(&token))), binary_sessions(&user, &secret)].concat();
    for session in sessions {
        let whole = without_cas(say(&door, [&session[..]].into_iter()));
        let words = String::from_utf8_lossy(&whole);
        assert!(
            !words.contains("unavailable") && !words.contains("Temporary") && whole.len() > 30,
            "{words}"
        );
        if whole.starts_with(b"\x81") {
            let status = super::statuses(&whole);
            assert!(status.starts_with(BINARY_STATUSES), "{status:04x?}");
        }
        for longest in [3000, 100, 100_000, 1_000_000, 20_000] {
            let pieces = split(&session, longest, &mut dice);
            let said = without_cas(say(&door, pieces.into_iter()));
            assert!(said == whole, "pieces of {longest}: {}", String::from_utf8_lossy(&said));
        }
    }
}

#[test]
fn much_asked_for_at_once_arrives_whole_before_the_end() {
    const TIMES: usize = 300;
    let door = Door::open();
    let token = door.sign_up("ann@example.com");
    let _memcached = Memcached::start(&door, &token, "10.214.7.4");
    let mut stream = door.call();
    let value = "v".repeat(200_000);
    let asked = set("x", &pair(&token)) + &set("big", &value) + &"get big\r\n".repeat(TIMES) + "quit\r\n";
    stream.write_all(asked.as_bytes()).unwrap();
    let mut stored = [0; 16];
    stream.read_exact(&mut stored).unwrap();
    assert_eq!(&stored, b"STORED\r\nSTORED\r\n");
    let one = format!("VALUE big 0 {}\r\n{value}\r\nEND\r\n", value.len()).into_bytes();
    let mut said = vec![0; one.len()];
    for nth in 0..TIMES {
        stream.read_exact(&mut said).unwrap();
        assert!(said == one, "the {nth}th is another");
    }
    assert_eq!(stream.read(&mut said).unwrap(), 0);
}
