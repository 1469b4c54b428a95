//! Decodes memcached's replies strictly: anything unexpected closes the lane. Pure.

use memchr::{memchr, memchr2};

use crate::protocol::number;
use crate::protocol::request::{CommandKind, ItemMeta, Outcome, Reply, ValueHeader, ValueWanted, Verb};

/// The longest line of a reply in bytes: a status, flags and our tag.
const LINE_MAX: usize = 2048;
/// Ends a value.
pub(crate) const VALUE_END: &[u8] = b"\r\n";

/// The start of the input.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decoded<'a> {
    /// A complete reply.
    Complete(TaggedReply<'a>),
    /// The line of a value that is larger than `inline_max`. The value follows.
    LargeValue { header: ValueHeader<'a>, tag: Option<u64>, consumed: usize },
}

/// One complete reply and its tag.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TaggedReply<'a> {
    pub(crate) reply: Reply<'a>,
    pub(crate) tag: Option<u64>,
    pub(crate) consumed: usize,
}

/// The limits of a value, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ValueLimits {
    /// A larger value is a protocol error.
    pub(crate) max: usize,
    /// A larger value isn't buffered: see [`Decoded::LargeValue`].
    pub(crate) inline_max: usize,
}

/// A protocol violation by memcached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProtocolError {
    #[error("a line that is too long")]
    EndlessLine,
    #[error("an unknown status or malformed flags")]
    Status,
    #[error("a value that is too large or doesn't end in a line end")]
    Value,
    #[error("a reply without a request")]
    Unasked,
    #[error("a reply to another request or kind of request")]
    Mismatch,
}

/// Decodes the first reply of `input`; `None` if it is incomplete.
pub(crate) fn parse(input: &[u8], limits: ValueLimits) -> Result<Option<Decoded<'_>>, ProtocolError> {
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
    let complete = |outcome, flags: &Flags, tokens| {
        let reply = Reply { outcome, tokens };
        Ok(Some(Decoded::Complete(TaggedReply { reply, tag: flags.tag, consumed })))
    };
    let outcome = match status {
        b"VA" => return value(input, consumed, rest, limits),
        b"HD" => {
            let flags = Flags::read(rest)?;
            return complete(Outcome::Done(flags.item), &flags, rest);
        }
        b"EN" | b"NF" => Outcome::Miss,
        b"NS" => Outcome::NotStored,
        b"EX" => Outcome::Exists,
        b"VERSION" => {
            // It is forwarded within a line of the client's protocol.
            let printable = rest.iter().all(|byte| (b' '..=b'~').contains(byte));
            let version = Some(rest.trim_ascii()).filter(|_| printable).ok_or(ProtocolError::Status)?;
            return complete(Outcome::Version(version), &Flags::default(), b"");
        }
        _ => return complete(untagged(line).ok_or(ProtocolError::Status)?, &Flags::default(), b""),
    };
    complete(outcome, &Flags::read(rest)?, rest)
}

/// The replies that carry no tag: a closed list.
fn untagged(line: &[u8]) -> Option<Outcome<'static>> {
    match line {
        b"SERVER_ERROR object too large for cache" => Some(Outcome::TooLarge),
        b"SERVER_ERROR out of memory storing object"
        | b"SERVER_ERROR out of memory"
        | b"SERVER_ERROR Out of memory allocating new item" => Some(Outcome::OutOfMemory),
        b"SERVER_ERROR Out of memory during read" => Some(Outcome::OutOfMemoryDuringRead),
        b"CLIENT_ERROR cannot increment or decrement non-numeric value" => Some(Outcome::NonNumeric),
        _ => None,
    }
}

fn value<'a>(
    input: &'a [u8],
    line: usize,
    rest: &'a [u8],
    limits: ValueLimits,
) -> Result<Option<Decoded<'a>>, ProtocolError> {
    let rest = rest.strip_prefix(b" ").ok_or(ProtocolError::Status)?;
    let (len, tokens) = match memchr(b' ', rest) {
        Some(space) => rest.split_at_checked(space).ok_or(ProtocolError::Status)?,
        None => (rest, &b""[..]),
    };
    let len = number::length(len).filter(|len| *len <= limits.max).ok_or(ProtocolError::Value)?;
    let Flags { item, tag } = Flags::read(tokens)?;
    if len > limits.inline_max {
        return Ok(Some(Decoded::LargeValue {
            header: ValueHeader { item, len, tokens },
            tag,
            consumed: line,
        }));
    }
    let consumed = line + len + VALUE_END.len();
    let Some(block) = input.get(line..consumed) else { return Ok(None) };
    let data = block.strip_suffix(VALUE_END).ok_or(ProtocolError::Value)?;
    let reply = Reply { outcome: Outcome::Value(item, data), tokens };
    Ok(Some(Decoded::Complete(TaggedReply { reply, tag, consumed })))
}

#[derive(Default)]
struct Flags {
    item: ItemMeta,
    tag: Option<u64>,
}

impl Flags {
    /// Parses the flags of a reply: the tag, which may be anywhere but only once, `f` and `c`.
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
                // It is forwarded to meta clients unchanged.
                name if name.is_ascii_alphabetic() && memchr2(0, b'\r', value).is_none() => {}
                _ => return Err(ProtocolError::Status),
            }
        }
        Ok(flags)
    }
}

impl TaggedReply<'_> {
    /// Whether this is a valid reply to a request of `kind` with `tag`.
    pub(crate) fn answers(&self, kind: CommandKind, tag: u64) -> bool {
        let tagged = self.tag == Some(tag);
        match self.reply.outcome {
            Outcome::Value(_, data) => {
                tagged && may_have_value(kind) && (!is_arithmetic(kind) || is_number(data))
            }
            Outcome::Done(_) => tagged && may_lack_value(kind),
            Outcome::Miss => tagged && kind != CommandKind::Version,
            Outcome::NotStored => tagged && (stores(kind) || is_arithmetic(kind) || deletes(kind)),
            Outcome::Exists => tagged && (stores(kind) || is_arithmetic(kind) || deletes(kind)),
            Outcome::TooLarge | Outcome::OutOfMemoryDuringRead => stores(kind),
            Outcome::OutOfMemory => stores(kind) || is_arithmetic(kind) || deletes(kind),
            Outcome::NonNumeric => is_arithmetic(kind),
            Outcome::Version(_) => kind == CommandKind::Version,
            Outcome::Failed(_) => false,
        }
    }
}

/// Whether a successful reply to this kind may be a value.
fn may_have_value(kind: CommandKind) -> bool {
    match kind {
        CommandKind::Get | CommandKind::Arithmetic => true,
        CommandKind::Meta { value, .. } => value != ValueWanted::No,
        _ => false,
    }
}

/// Whether a successful reply to this kind may have no value.
fn may_lack_value(kind: CommandKind) -> bool {
    match kind {
        CommandKind::Get | CommandKind::Arithmetic | CommandKind::Version => false,
        CommandKind::Meta { value, .. } => value != ValueWanted::Yes,
        _ => true,
    }
}

/// Whether the value of this kind may be large.
pub(crate) fn may_be_large(kind: CommandKind) -> bool {
    may_have_value(kind) && !is_arithmetic(kind)
}

/// Whether the value of an arithmetic reply is a number, which text clients receive as a line. memcached pads a
/// number that has become shorter with spaces.
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

    const LIMITS: ValueLimits = ValueLimits { max: 100, inline_max: 50 };

    fn complete(input: &[u8]) -> TaggedReply<'_> {
        match parse(input, LIMITS) {
            Ok(Some(Decoded::Complete(decoded))) => decoded,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn incomplete_reply_is_not_decoded() {
        let input = b"VA 3 f5 c9 W O17\r\nabc\r\nEN O18\r\n";
        for cut in 0..23 {
            assert_eq!(parse(&input[..cut], LIMITS), Ok(None), "{cut}");
        }
        let first = complete(input);
        assert_eq!(first.reply.outcome, Outcome::Value(ItemMeta { flags: 5, cas: 9 }, b"abc"));
        assert_eq!((first.tag, first.consumed), (Some(17), 23));
        let second = complete(&input[23..]);
        assert_eq!((second.reply.outcome, second.tag), (Outcome::Miss, Some(18)));
    }

    #[test]
    fn large_value_is_decoded_from_its_line() {
        let header = ValueHeader { item: ItemMeta { flags: 1, cas: 0 }, len: 51, tokens: b" f1 O2" };
        let decoded = Decoded::LargeValue { header, tag: Some(2), consumed: 13 };
        assert_eq!(parse(b"VA 51 f1 O2\r\nx", LIMITS), Ok(Some(decoded)));
    }

    #[test]
    fn protocol_violations_are_errors() {
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
            assert_eq!(parse(input, LIMITS), Err(expected), "{:?}", String::from_utf8_lossy(input));
        }
    }

    // L-2, R-11.
    #[test]
    fn reply_answers_only_its_own_kind_and_tag() {
        let reply = |input| complete(input);
        assert!(reply(b"HD O7\r\n").answers(CommandKind::Store(Mode::Set), 7));
        assert!(!reply(b"HD O8\r\n").answers(CommandKind::Store(Mode::Set), 7));
        assert!(!reply(b"HD\r\n").answers(CommandKind::Store(Mode::Set), 7));
        assert!(!reply(b"HD O7\r\n").answers(CommandKind::Get, 7));
        assert!(
            reply(b"SERVER_ERROR object too large for cache\r\n").answers(CommandKind::Store(Mode::Add), 7)
        );
        assert!(!reply(b"SERVER_ERROR object too large for cache\r\n").answers(CommandKind::Get, 7));
        // V-10.
        let during_read = b"SERVER_ERROR Out of memory during read\r\n";
        assert!(reply(during_read).answers(CommandKind::Store(Mode::Set), 7));
        assert!(!reply(during_read).answers(CommandKind::Arithmetic, 7));
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
