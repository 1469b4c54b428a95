//! What memcached says on a lane, read strictly: anything unexpected ends the lane.

use memchr::memchr;

use crate::dialect::number;
use crate::request::{Kind, Outcome};

/// The longest line memcached sends here: a status, flags and our tag.
const LINE_MAX: usize = 2048;

/// One whole reply.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply<'a> {
    pub(super) outcome: Outcome<'a>,
    pub(super) tag: Option<u64>,
    pub(super) consumed: usize,
}

/// Bytes that no memcached sends here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Garbage {
    #[error("a line without an end")]
    EndlessLine,
    #[error("a status that isn't on the list")]
    Status,
    #[error("a value longer than the instance allows, or without its end")]
    Value,
    #[error("a reply that nobody waits for")]
    Unasked,
    #[error("a reply with another request's tag, or to another kind of request")]
    Mismatch,
}

/// Reads the first reply of `input`; `None` means "more bytes, please".
pub(super) fn parse(input: &[u8], value_max: usize) -> Result<Option<Reply<'_>>, Garbage> {
    let window = input.get(..LINE_MAX).unwrap_or(input);
    let Some(end) = memchr(b'\n', window) else {
        return if window.len() < LINE_MAX { Ok(None) } else { Err(Garbage::EndlessLine) };
    };
    let (line, _) = input.split_at_checked(end).ok_or(Garbage::EndlessLine)?;
    let line = line.strip_suffix(b"\r").ok_or(Garbage::Status)?;
    let consumed = end + 1;
    let (status, rest) = match memchr(b' ', line) {
        Some(space) => line.split_at_checked(space).ok_or(Garbage::Status)?,
        None => (line, &b""[..]),
    };
    let outcome = match status {
        b"VA" => return value(input, consumed, rest, value_max),
        b"HD" => {
            let flags = Flags::read(rest)?;
            let outcome = Outcome::Done { flags: flags.flags, cas: flags.cas };
            return Ok(Some(Reply { outcome, tag: flags.tag, consumed }));
        }
        b"EN" | b"NF" => Outcome::Miss,
        b"NS" => Outcome::NotStored,
        b"EX" => Outcome::Exists,
        b"VERSION" => {
            let version = rest.trim_ascii_start();
            return Ok(Some(Reply { outcome: Outcome::Version(version), tag: None, consumed }));
        }
        _ => {
            let outcome = untagged(line).ok_or(Garbage::Status)?;
            return Ok(Some(Reply { outcome, tag: None, consumed }));
        }
    };
    Ok(Some(Reply { outcome, tag: Flags::read(rest)?.tag, consumed }))
}

/// The closed list of lines that carry no tag.
fn untagged(line: &[u8]) -> Option<Outcome<'static>> {
    match line {
        b"SERVER_ERROR object too large for cache" => Some(Outcome::TooLarge),
        b"SERVER_ERROR out of memory storing object" => Some(Outcome::OutOfMemory),
        b"CLIENT_ERROR cannot increment or decrement non-numeric value" => Some(Outcome::NonNumeric),
        _ => None,
    }
}

fn value<'a>(input: &'a [u8], head: usize, rest: &[u8], max: usize) -> Result<Option<Reply<'a>>, Garbage> {
    let rest = rest.strip_prefix(b" ").ok_or(Garbage::Status)?;
    let (len, flags) = match memchr(b' ', rest) {
        Some(space) => rest.split_at_checked(space).ok_or(Garbage::Status)?,
        None => (rest, &b""[..]),
    };
    let len = number::length(len).filter(|len| *len <= max).ok_or(Garbage::Value)?;
    let flags = Flags::read(flags)?;
    let Some(block) = input.get(head..head + len + 2) else { return Ok(None) };
    let data = block.strip_suffix(b"\r\n").ok_or(Garbage::Value)?;
    let outcome = Outcome::Value { flags: flags.flags, cas: flags.cas, data };
    Ok(Some(Reply { outcome, tag: flags.tag, consumed: head + len + 2 }))
}

#[derive(Default)]
struct Flags {
    flags: u32,
    cas: u64,
    tag: Option<u64>,
}

impl Flags {
    /// We ask for `f`, `c` and `O`; W, X and Z come unasked.
    fn read(rest: &[u8]) -> Result<Self, Garbage> {
        let mut flags = Self::default();
        for word in rest.split(|byte| *byte == b' ').filter(|word| !word.is_empty()) {
            let (name, value) = word.split_first().ok_or(Garbage::Status)?;
            let number = || number::unsigned(value).ok_or(Garbage::Status);
            match name {
                b'f' => flags.flags = u32::try_from(number()?).map_err(|_| Garbage::Status)?,
                b'c' => flags.cas = number()?,
                b'O' => flags.tag = Some(number()?),
                b'W' | b'X' | b'Z' | b'b' => {}
                _ => return Err(Garbage::Status),
            }
        }
        Ok(flags)
    }
}

impl Reply<'_> {
    /// Whether this can be the answer to a request of `kind` with `tag`.
    pub(super) fn answers(&self, kind: Kind, tag: u64) -> bool {
        let tagged = self.tag == Some(tag);
        match self.outcome {
            Outcome::Value { .. } => tagged && matches!(kind, Kind::Get | Kind::Arithmetic),
            Outcome::Done { .. } => {
                tagged && matches!(kind, Kind::Store(_) | Kind::Delete | Kind::Touch | Kind::Forget)
            }
            Outcome::Miss => tagged && kind != Kind::Version,
            Outcome::NotStored => tagged && matches!(kind, Kind::Store(_) | Kind::Arithmetic),
            Outcome::Exists => tagged && matches!(kind, Kind::Store(_) | Kind::Delete | Kind::Arithmetic),
            Outcome::TooLarge | Outcome::OutOfMemory => matches!(kind, Kind::Store(_)),
            Outcome::NonNumeric => kind == Kind::Arithmetic,
            Outcome::Version(_) => kind == Kind::Version,
            Outcome::Failed(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Mode;

    #[test]
    fn replies_are_read_whole_or_not_at_all() {
        let input = b"VA 3 f5 c9 W O17\r\nabc\r\nEN O18\r\n";
        for cut in 0..23 {
            assert_eq!(parse(&input[..cut], 100), Ok(None), "{cut}");
        }
        let first = parse(input, 100).unwrap().unwrap();
        assert_eq!(first.outcome, Outcome::Value { flags: 5, cas: 9, data: b"abc" });
        assert_eq!((first.tag, first.consumed), (Some(17), 23));
        let second = parse(&input[23..], 100).unwrap().unwrap();
        assert_eq!((second.outcome, second.tag), (Outcome::Miss, Some(18)));
    }

    #[test]
    fn what_memcached_never_says_ends_the_lane() {
        for (input, expected) in [
            (&b"VA 101 O1\r\n"[..], Garbage::Value),
            (b"VA 3 O1\r\nabcde", Garbage::Value),
            (b"VA x O1\r\n", Garbage::Value),
            (b"VALUE a 0 1\r\n", Garbage::Status),
            (b"HD Ox\r\n", Garbage::Status),
            (b"HD\n", Garbage::Status),
            (b"ERROR\r\n", Garbage::Status),
            (&[b'x'; 2048], Garbage::EndlessLine),
        ] {
            assert_eq!(parse(input, 100), Err(expected), "{:?}", String::from_utf8_lossy(input));
        }
    }

    #[test]
    fn a_reply_answers_only_its_own_kind_and_tag() {
        let reply = |input| parse(input, 100).unwrap().unwrap();
        assert!(reply(b"HD O7\r\n").answers(Kind::Store(Mode::Set), 7));
        assert!(!reply(b"HD O8\r\n").answers(Kind::Store(Mode::Set), 7));
        assert!(!reply(b"HD\r\n").answers(Kind::Store(Mode::Set), 7));
        assert!(!reply(b"HD O7\r\n").answers(Kind::Get, 7));
        assert!(reply(b"SERVER_ERROR object too large for cache\r\n").answers(Kind::Store(Mode::Add), 7));
        assert!(!reply(b"SERVER_ERROR object too large for cache\r\n").answers(Kind::Get, 7));
        assert!(reply(b"VERSION 1.6.18\r\n").answers(Kind::Version, 7));
        assert!(!reply(b"VERSION 1.6.18\r\n").answers(Kind::Touch, 7));
    }
}
