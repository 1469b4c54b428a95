//! Checks what is sent to memcached: exactly one valid command, and no bytes that could be read as another.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use memchr::memchr;

use crate::lane::encode;
use crate::protocol::meta::flags::{Argument, Flag, letter};
use crate::protocol::request::{Command, Key, KeyForm, Meta, Request, UntaggedCommand, UntaggedKind};

/// The longest line that memcached reads, in bytes.
const LINE_MAX: usize = 2048;
/// Every statistics command that clients may use.
const STATS: [&[u8]; 5] = [b"stats", b"stats items", b"stats slabs", b"stats sizes", b"stats settings"];
/// The most flags of a command, our tag included.
const FLAGS_MAX: usize = 17;

/// Encodes `request` for a lane. Panics unless the result is one valid command.
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

/// Encodes the line of a store whose value follows.
pub(crate) fn encoded_line(request: &Request<'_>, len: usize, tag: u64) -> Vec<u8> {
    let mut line = Vec::new();
    encode::line(request, len, tag, &mut line);
    check_line(&line, request, tag, Some(len));
    line
}

/// Encodes a command without a tag. Panics unless clients may use it.
pub(crate) fn encoded_untagged(command: &UntaggedCommand<'_>) -> Vec<u8> {
    let mut line = Vec::new();
    encode::untagged(command, &mut line);
    let valid = match (command.kind, words(&line).as_slice()) {
        (UntaggedKind::Stats { .. }, _) => {
            STATS.iter().any(|stats| line.strip_suffix(b"\r\n") == Some(stats))
        }
        (UntaggedKind::FlushAll { delay: None }, words) => words == [b"flush_all"],
        (UntaggedKind::FlushAll { delay: Some(delay) }, words) => {
            words == [b"flush_all", delay.to_string().as_bytes()]
        }
        (UntaggedKind::Inspect { base64: false, .. }, [b"me", key]) => (1..=250).contains(&key.len()),
        (UntaggedKind::Inspect { base64: true, .. }, [b"me", key, b"b", b"b"]) => {
            (1..=250).contains(&key.len())
        }
        _ => false,
    };
    assert!(valid, "{command:?} is sent as {}", line.escape_ascii());
    line
}

/// The words of a line. Panics unless `line` is exactly one line.
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

/// Panics unless every flag is in the table of meta flags, once, and has the argument of its row.
fn check_flags(flags: &[&[u8]], tag: u64) {
    assert!(flags.len() <= FLAGS_MAX, "{} flags", flags.len());
    let mut seen = Vec::new();
    for word in flags {
        let (letter, argument) = word.split_first().expect("two spaces");
        let flag = Flag::find(*letter).expect("an unknown flag");
        assert!(!flag.verbs.is_empty() && !seen.contains(letter), "flag {}", word.escape_ascii());
        seen.push(*letter);
        let argument = std::str::from_utf8(argument).expect("an argument in ASCII");
        let valid = match flag.argument {
            Argument::Opaque => argument == tag.to_string(),
            Argument::Cas | Argument::Initial | Argument::Delta => argument.parse::<u64>().is_ok(),
            Argument::ClientFlags => argument.parse::<u32>().is_ok(),
            Argument::Exptime => argument.parse::<i32>().is_ok(),
            Argument::Mode => argument.len() == 1 && argument.is_ascii(),
            Argument::None | Argument::Base64Key => argument.is_empty(),
            Argument::Quiet | Argument::ReplyOnly => false,
        };
        assert!(valid, "flag {}", word.escape_ascii());
    }
    assert!(seen.contains(&letter::OPAQUE), "no tag");
}
