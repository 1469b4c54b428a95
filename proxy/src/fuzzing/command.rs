//! What may be sent to a memcached: exactly one well-formed command, and nothing that could be read as
//! another.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use memchr::memchr;

use crate::lane::encode;
use crate::protocol::request::{Ask, Command, Key, KeyForm, Meta, Request, UntaggedCommand};

/// Longer ones are no line for memcached.
const LINE_MAX: usize = 2048;
/// All that may be asked for (PROTOCOL, what a user may run).
const STATS: [&[u8]; 5] = [b"stats", b"stats items", b"stats slabs", b"stats sizes", b"stats settings"];
/// With our tag among them.
const FLAGS_MAX: usize = 17;

/// `request` as a lane sends it. Panics unless that is one command that any memcached takes.
pub(crate) fn encoded(request: &Request<'_>, tag: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode::request(request, tag, &mut bytes);
    let value = match &request.command {
        Command::Store(store) => Some(store.value),
        Command::Meta(Meta { value, .. }) => Some(*value),
        _ => None,
    };
    let end = memchr(b'\n', &bytes).map_or(0, |end| end + 1);
    let (line, block) = bytes.split_at_checked(end).unwrap_or_default();
    match value.filter(|_| bytes.starts_with(b"ms ")) {
        Some(value) => {
            assert_eq!(block.strip_suffix(b"\r\n"), Some(value), "another block");
            check_line(line, request, tag, Some(value.len()));
        }
        None => {
            assert!(block.is_empty(), "more behind {}", bytes.escape_ascii());
            check_line(line, request, tag, None);
        }
    }
    bytes
}

/// The line of a store whose value follows.
pub(crate) fn encoded_line(request: &Request<'_>, len: usize, tag: u64) -> Vec<u8> {
    let mut line = Vec::new();
    encode::line(request, len, tag, &mut line);
    check_line(&line, request, tag, Some(len));
    line
}

/// What goes alone on a lane.
pub(crate) fn encoded_alone(alone: &UntaggedCommand<'_>) -> Vec<u8> {
    let mut line = Vec::new();
    encode::alone(alone, &mut line);
    let fine = match (alone.ask, words(&line).as_slice()) {
        (Ask::Stats { .. }, _) => STATS.iter().any(|stats| line.strip_suffix(b"\r\n") == Some(stats)),
        (Ask::FlushAll { delay: None }, words) => words == [b"flush_all"],
        (Ask::FlushAll { delay: Some(delay) }, words) => {
            words == [b"flush_all", delay.to_string().as_bytes()]
        }
        (Ask::Inspect { base64: false, .. }, [b"me", key]) => (1..=250).contains(&key.len()),
        (Ask::Inspect { base64: true, .. }, [b"me", key, b"b", b"b"]) => (1..=250).contains(&key.len()),
        _ => false,
    };
    assert!(fine, "{alone:?} is sent as {}", line.escape_ascii());
    line
}

/// The words of one line and no more.
fn words(line: &[u8]) -> Vec<&[u8]> {
    let said = line.escape_ascii();
    let bare = line.strip_suffix(b"\r\n").unwrap_or_default();
    assert!(!bare.is_empty() && bare.len() <= LINE_MAX, "no line: {said}");
    assert!(!bare.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n')), "more than a line: {said}");
    bare.split(|byte| *byte == b' ').collect()
}

fn check_line(line: &[u8], request: &Request<'_>, tag: u64, len: Option<usize>) {
    let words = words(line);
    let mut rest = words.iter().copied();
    let verb = rest.next().unwrap_or_default();
    if request.command == Command::Version {
        return assert_eq!(words, [b"version"]);
    }
    assert!([&b"mg"[..], b"ms", b"md", b"ma"].contains(&verb), "{}", line.escape_ascii());
    assert_eq!(verb == b"ms", len.is_some());
    let key = rest.next().unwrap_or_default();
    if let Some(len) = len {
        assert_eq!(rest.next(), Some(len.to_string().as_bytes()), "the block isn't as long as it says");
    }
    let flags: Vec<&[u8]> = rest.collect();
    check_flags(&flags, tag);
    check_key(key, request.key, flags.contains(&&b"b"[..]));
}

fn check_key(sent: &[u8], key: Key<'_>, encoded: bool) {
    assert!((1..=250).contains(&sent.len()), "a key of {} bytes", sent.len());
    let same = match key.form {
        KeyForm::Raw if encoded => STANDARD.decode(sent).is_ok_and(|plain| plain == key.bytes),
        KeyForm::Raw | KeyForm::Plain => !encoded && sent == key.bytes,
        KeyForm::Base64 => encoded && sent == key.bytes,
    };
    assert!(same, "{key:?} is sent as {}", sent.escape_ascii());
}

fn check_flags(flags: &[&[u8]], tag: u64) {
    assert!(flags.len() <= FLAGS_MAX, "{} flags", flags.len());
    let mut seen = Vec::new();
    for flag in flags {
        let (letter, argument) = flag.split_first().expect("two spaces");
        assert!(letter.is_ascii_alphabetic() && !seen.contains(letter), "flag {}", flag.escape_ascii());
        seen.push(*letter);
        let argument = std::str::from_utf8(argument).expect("a flag in 8 bits");
        let fine = match letter {
            b'O' => argument == tag.to_string(),
            b'C' | b'D' | b'E' | b'J' => argument.parse::<u64>().is_ok(),
            b'F' => argument.parse::<u32>().is_ok(),
            b'N' | b'R' | b'T' => argument.parse::<i32>().is_ok(),
            b'M' => argument.len() == 1 && argument.is_ascii(),
            _ => argument.is_empty(),
        };
        assert!(fine, "flag {}", flag.escape_ascii());
    }
    assert!(seen.contains(&b'O'), "no tag");
}
