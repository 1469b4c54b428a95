//! What memcached says on a lane, read strictly: anything unexpected ends the lane. Pure.

use memchr::{memchr, memchr2};

use crate::protocol::number;
use crate::protocol::request::{CommandKind, ItemMeta, Outcome, Reply, ValueHeader, ValueWanted, Verb};

/// The longest line memcached sends here: a status, flags and our tag.
const LINE_MAX: usize = 2048;
/// What stands behind a value.
pub(crate) const VALUE_END: &[u8] = b"\r\n";

/// What the front of the input is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decoded<'a> {
    Whole(Answered<'a>),
    /// The line of a value that is too long for a lane that others use; the value follows.
    Long {
        head: ValueHeader<'a>,
        tag: Option<u64>,
        consumed: usize,
    },
}

/// One whole reply.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answered<'a> {
    pub(crate) reply: Reply<'a>,
    pub(crate) tag: Option<u64>,
    pub(crate) consumed: usize,
}

/// How long values may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ValueLimits {
    /// Longer ones aren't memcached's.
    pub(crate) most: usize,
    /// Longer ones are [`Decoded::Long`].
    pub(crate) whole: usize,
}

/// Bytes that no memcached sends here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProtocolError {
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
pub(crate) fn parse(input: &[u8], sizes: ValueLimits) -> Result<Option<Decoded<'_>>, ProtocolError> {
    let window = input.get(..LINE_MAX).unwrap_or(input);
    let Some(end) = memchr(b'\n', window) else {
        return if window.len() < LINE_MAX { Ok(None) } else { Err(ProtocolError::EndlessLine) };
    };
    let (line, _) = input.split_at_checked(end).ok_or(ProtocolError::EndlessLine)?;
    let line = line.strip_suffix(b"\r").ok_or(ProtocolError::Status)?;
    let consumed = end + 1;
    let (status, rest) = match memchr(b' ', line) {
        Some(space) => line.split_at_checked(space).ok_or(ProtocolError::Status)?,
        None => (line, &b""[..]),
    };
    let whole = |outcome, flags: &Flags, tokens| {
        let reply = Reply { outcome, tokens };
        Ok(Some(Decoded::Whole(Answered { reply, tag: flags.tag, consumed })))
    };
    let outcome = match status {
        b"VA" => return value(input, consumed, rest, sizes),
        b"HD" => {
            let flags = Flags::read(rest)?;
            return whole(Outcome::Done(flags.item), &flags, rest);
        }
        b"EN" | b"NF" => Outcome::Miss,
        b"NS" => Outcome::NotStored,
        b"EX" => Outcome::Exists,
        b"VERSION" => {
            // It goes on to clients as it is, in a line of theirs.
            let printable = rest.iter().all(|byte| (b' '..=b'~').contains(byte));
            let version = Some(rest.trim_ascii()).filter(|_| printable).ok_or(ProtocolError::Status)?;
            return whole(Outcome::Version(version), &Flags::default(), b"");
        }
        _ => return whole(untagged(line).ok_or(ProtocolError::Status)?, &Flags::default(), b""),
    };
    whole(outcome, &Flags::read(rest)?, rest)
}

/// The closed list of lines that carry no tag.
fn untagged(line: &[u8]) -> Option<Outcome<'static>> {
    match line {
        b"SERVER_ERROR object too large for cache" => Some(Outcome::TooLarge),
        b"SERVER_ERROR out of memory storing object"
        | b"SERVER_ERROR out of memory"
        | b"SERVER_ERROR Out of memory allocating new item" => Some(Outcome::OutOfMemory),
        b"CLIENT_ERROR cannot increment or decrement non-numeric value" => Some(Outcome::NonNumeric),
        _ => None,
    }
}

fn value<'a>(
    input: &'a [u8],
    line: usize,
    rest: &'a [u8],
    sizes: ValueLimits,
) -> Result<Option<Decoded<'a>>, ProtocolError> {
    let rest = rest.strip_prefix(b" ").ok_or(ProtocolError::Status)?;
    let (len, tokens) = match memchr(b' ', rest) {
        Some(space) => rest.split_at_checked(space).ok_or(ProtocolError::Status)?,
        None => (rest, &b""[..]),
    };
    let len = number::length(len).filter(|len| *len <= sizes.most).ok_or(ProtocolError::Value)?;
    let Flags { item, tag } = Flags::read(tokens)?;
    if len > sizes.whole {
        return Ok(Some(Decoded::Long { head: ValueHeader { item, len, tokens }, tag, consumed: line }));
    }
    let consumed = line + len + VALUE_END.len();
    let Some(block) = input.get(line..consumed) else { return Ok(None) };
    let data = block.strip_suffix(VALUE_END).ok_or(ProtocolError::Value)?;
    let reply = Reply { outcome: Outcome::Value(item, data), tokens };
    Ok(Some(Decoded::Whole(Answered { reply, tag, consumed })))
}

#[derive(Default)]
struct Flags {
    item: ItemMeta,
    tag: Option<u64>,
}

impl Flags {
    /// The tag may stand anywhere, once; of the rest, `f` and `c` mean something to us.
    fn read(rest: &[u8]) -> Result<Self, ProtocolError> {
        let mut flags = Self::default();
        for word in rest.split(|byte| *byte == b' ').filter(|word| !word.is_empty()) {
            let (name, value) = word.split_first().ok_or(ProtocolError::Status)?;
            let number = || number::unsigned(value).ok_or(ProtocolError::Status);
            match name {
                b'f' => flags.item.flags = u32::try_from(number()?).map_err(|_| ProtocolError::Status)?,
                b'c' => flags.item.cas = number()?,
                b'O' if flags.tag.is_none() => flags.tag = Some(number()?),
                b'O' => return Err(ProtocolError::Status),
                // It goes on to meta clients as it is, in a line of theirs.
                name if name.is_ascii_alphabetic() && memchr2(0, b'\r', value).is_none() => {}
                _ => return Err(ProtocolError::Status),
            }
        }
        Ok(flags)
    }
}

impl Answered<'_> {
    /// Whether this can be the answer to a request of `kind` with `tag`.
    pub(crate) fn answers(&self, kind: CommandKind, tag: u64) -> bool {
        let tagged = self.tag == Some(tag);
        match self.reply.outcome {
            Outcome::Value(_, data) => {
                tagged && gives_value(kind) && (!is_arithmetic(kind) || is_number(data))
            }
            Outcome::Done(_) => tagged && gives_none(kind),
            Outcome::Miss => tagged && kind != CommandKind::Version,
            Outcome::NotStored => tagged && (stores(kind) || is_arithmetic(kind) || deletes(kind)),
            Outcome::Exists => tagged && (stores(kind) || is_arithmetic(kind) || deletes(kind)),
            Outcome::TooLarge => stores(kind),
            Outcome::OutOfMemory => stores(kind) || is_arithmetic(kind) || deletes(kind),
            Outcome::NonNumeric => is_arithmetic(kind),
            Outcome::Version(_) => kind == CommandKind::Version,
            Outcome::Failed(_) => false,
        }
    }
}

/// Whether the answer to this kind, where it isn't a denial, may be a value.
fn gives_value(kind: CommandKind) -> bool {
    match kind {
        CommandKind::Get | CommandKind::Arithmetic => true,
        CommandKind::Meta { value, .. } => value != ValueWanted::No,
        _ => false,
    }
}

/// Whether it may be none.
fn gives_none(kind: CommandKind) -> bool {
    match kind {
        CommandKind::Get | CommandKind::Arithmetic | CommandKind::Version => false,
        CommandKind::Meta { value, .. } => value != ValueWanted::Yes,
        _ => true,
    }
}

/// Whether that value may be long.
pub(crate) fn gives_long_value(kind: CommandKind) -> bool {
    gives_value(kind) && !is_arithmetic(kind)
}

/// What arithmetic answers goes on to text clients as a line. memcached may fill up a number that has
/// become shorter with spaces.
fn is_number(data: &[u8]) -> bool {
    let end = data.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
    data.get(..end).and_then(number::unsigned).is_some()
}

fn stores(kind: CommandKind) -> bool {
    matches!(kind, CommandKind::Store(_) | CommandKind::Meta { verb: Verb::Set, .. })
}

fn is_arithmetic(kind: CommandKind) -> bool {
    matches!(kind, CommandKind::Arithmetic | CommandKind::Meta { verb: Verb::Arithmetic, .. })
}

fn deletes(kind: CommandKind) -> bool {
    matches!(kind, CommandKind::Delete | CommandKind::Meta { verb: Verb::Delete, .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::request::Mode;

    const SIZES: ValueLimits = ValueLimits { most: 100, whole: 50 };

    fn whole(input: &[u8]) -> Answered<'_> {
        match parse(input, SIZES) {
            Ok(Some(Decoded::Whole(answered))) => answered,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn replies_are_read_whole_or_not_at_all() {
        let input = b"VA 3 f5 c9 W O17\r\nabc\r\nEN O18\r\n";
        for cut in 0..23 {
            assert_eq!(parse(&input[..cut], SIZES), Ok(None), "{cut}");
        }
        let first = whole(input);
        assert_eq!(first.reply.outcome, Outcome::Value(ItemMeta { flags: 5, cas: 9 }, b"abc"));
        assert_eq!((first.tag, first.consumed), (Some(17), 23));
        let second = whole(&input[23..]);
        assert_eq!((second.reply.outcome, second.tag), (Outcome::Miss, Some(18)));
    }

    #[test]
    fn a_long_value_is_known_by_its_line() {
        let head = ValueHeader { item: ItemMeta { flags: 1, cas: 0 }, len: 51, tokens: b" f1 O2" };
        let heard = Decoded::Long { head, tag: Some(2), consumed: 13 };
        assert_eq!(parse(b"VA 51 f1 O2\r\nx", SIZES), Ok(Some(heard)));
    }

    #[test]
    fn what_memcached_never_says_ends_the_lane() {
        for (input, expected) in [
            (&b"VA 101 O1\r\n"[..], ProtocolError::Value),
            (b"VA 3 O1\r\nabcde", ProtocolError::Value),
            (b"VA x O1\r\n", ProtocolError::Value),
            (b"VALUE a 0 1\r\n", ProtocolError::Status),
            (b"HD Ox\r\n", ProtocolError::Status),
            (b"HD O1 O2\r\n", ProtocolError::Status),
            (b"HD k\r O1\r\n", ProtocolError::Status),
            (b"VERSION 1\r2\r\n", ProtocolError::Status),
            (b"HD =\r\n", ProtocolError::Status),
            (b"HD\n", ProtocolError::Status),
            (b"ERROR\r\n", ProtocolError::Status),
            (&[b'x'; 2048], ProtocolError::EndlessLine),
        ] {
            assert_eq!(parse(input, SIZES), Err(expected), "{:?}", String::from_utf8_lossy(input));
        }
    }

    #[test]
    fn a_reply_answers_only_its_own_kind_and_tag() {
        let reply = |input| whole(input);
        assert!(reply(b"HD O7\r\n").answers(CommandKind::Store(Mode::Set), 7));
        assert!(!reply(b"HD O8\r\n").answers(CommandKind::Store(Mode::Set), 7));
        assert!(!reply(b"HD\r\n").answers(CommandKind::Store(Mode::Set), 7));
        assert!(!reply(b"HD O7\r\n").answers(CommandKind::Get, 7));
        assert!(
            reply(b"SERVER_ERROR object too large for cache\r\n").answers(CommandKind::Store(Mode::Add), 7)
        );
        assert!(!reply(b"SERVER_ERROR object too large for cache\r\n").answers(CommandKind::Get, 7));
        assert!(reply(b"VA 3 O7\r\n9  \r\n").answers(CommandKind::Arithmetic, 7));
        for lines in [&b"VA 4 O7\r\n1\r\n2\r\n"[..], b"VA 1 O7\r\nx\r\n", b"VA 0 O7\r\n\r\n"] {
            assert!(!reply(lines).answers(CommandKind::Arithmetic, 7));
        }
        for verb in [Verb::Get, Verb::Arithmetic] {
            for (value, with, without) in [
                (ValueWanted::No, false, true),
                (ValueWanted::Yes, true, false),
                (ValueWanted::UnlessSame, true, true),
            ] {
                assert_eq!(reply(b"VA 1 O7\r\n1\r\n").answers(CommandKind::Meta { verb, value }, 7), with);
                assert_eq!(reply(b"HD O7\r\n").answers(CommandKind::Meta { verb, value }, 7), without);
            }
        }
        assert!(reply(b"VERSION 1.6.18\r\n").answers(CommandKind::Version, 7));
        assert!(!reply(b"VERSION 1.6.18\r\n").answers(CommandKind::Touch, 7));
    }
}
