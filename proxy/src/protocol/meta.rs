//! The meta protocol's requests (memcached's protocol.txt). Flags are validated in the order and with the
//! errors of memcached 1.6.45, whatever version runs in the instance (B-3).

pub(crate) mod flags;
pub(crate) mod reply;

use std::borrow::Cow;

use super::line::{BAD_CHUNK, BAD_FORMAT, Line, split_token, tokens, trim_start};
use super::{KEY_MAX, Parsed, ParsedFrame, Then, number};
use crate::protocol::request::{
    Command, FlagSet, Key, KeyForm, Meta, MetaFormat, OLDEST_VERSION, ReplyFormat, Request, TextFormat,
    UntaggedCommand, UntaggedKind, Verb,
};
use flags::{Argument, Flag};

/// The most words of a line.
const WORDS_MAX: usize = 20;
/// The words of a line that memcached looks at.
const WORDS_READ_MAX: usize = 23;
/// The longest opaque in bytes, its `O` included.
const OPAQUE_MAX: usize = 32;
/// The longest number that memcached reads, in bytes.
const NUMBER_MAX: usize = 22;
const CLIENT_FLAGS_MAX: usize = 11;

const TOO_MANY: &[u8] = b"CLIENT_ERROR options flags are too long\r\n";
const DUPLICATE: &[u8] = b"CLIENT_ERROR duplicate flag\r\n";
const INVALID: &[u8] = b"CLIENT_ERROR invalid flag\r\n";
const BAD_TOKEN: &[u8] = b"CLIENT_ERROR bad token in command line format\r\n";
const BAD_INITIAL: &[u8] = b"CLIENT_ERROR invalid numeric initial value\r\n";
const BAD_DELTA: &[u8] = b"CLIENT_ERROR invalid numeric delta value\r\n";
const BAD_KEY: &[u8] = b"CLIENT_ERROR error decoding key\r\n";
const LONG_OPAQUE: &[u8] = b"CLIENT_ERROR opaque token too long\r\n";
const BAD_STORE_MODE: &[u8] = b"CLIENT_ERROR invalid mode for ms M token\r\n";
const BAD_MODE: &[u8] = b"CLIENT_ERROR invalid mode for ma M token\r\n";
/// `ma` reports this for every invalid flag, and 1.6.18's `md` for one that it doesn't know.
const INVALID_OR_DUPLICATE: &[u8] = b"CLIENT_ERROR invalid or duplicate flag\r\n";

/// Parses a meta command: `None` if `verb` is not one, `Some(None)` while its data block is incomplete.
pub(super) fn parse<'a>(line: &Line<'a>, verb: &[u8], rest: &'a [u8]) -> Option<Option<ParsedFrame<'a>>> {
    Some(match verb {
        b"mg" => Some(keyed(line, Verb::Get, rest)),
        b"md" => Some(keyed(line, Verb::Delete, rest)),
        b"ma" => Some(keyed(line, Verb::Arithmetic, rest)),
        b"ms" => store(line, rest),
        b"mn" => Some(line.reply(b"MN\r\n", false)),
        b"me" => Some(inspect(line, rest)),
        _ => return None,
    })
}

/// `mg`, `md`, `ma`: a key and flags.
fn keyed<'a>(line: &Line<'a>, verb: Verb, rest: &'a [u8]) -> ParsedFrame<'a> {
    let Some((key, flags)) = split_token(rest).filter(|(_, flags)| are_flags(flags, 2)) else {
        return line.reply(BAD_FORMAT, false);
    };
    let flags = trim_start(flags);
    match ValidatedFlags::parse(verb, key, flags, line.limits.flags) {
        Ok(validated) => {
            let command = Command::Meta(Meta { verb, flags, value: b"" });
            line.frame(Parsed::Request(validated.request(verb, command, key)))
        }
        Err(FlagError::NeedsVersion) => line.needs_version(),
        Err(FlagError::Invalid(text)) => line.reply(text, false),
    }
}

/// `ms <key> <length> <flags>*` and its data block.
fn store<'a>(line: &Line<'a>, rest: &'a [u8]) -> Option<ParsedFrame<'a>> {
    const VERB: Verb = Verb::Set;
    let Some((key, behind)) = split_token(rest) else { return Some(line.close(BAD_FORMAT)) };
    let (len, flags) = split_token(trim_start(behind)).unwrap_or_default();
    let Some(len) = number::length(len).filter(|_| are_flags(flags, 3)) else {
        return Some(line.close(BAD_FORMAT));
    };
    let flags = trim_start(flags);
    let validated = match ValidatedFlags::parse(VERB, key, flags, line.limits.flags) {
        Ok(validated) => validated,
        Err(FlagError::NeedsVersion) => return Some(line.needs_version()),
        Err(FlagError::Invalid(text)) => {
            return Some(line.swallow_block(len, Then::LocalReply(Cow::Borrowed(text))));
        }
    };
    let command = |value| Command::Meta(Meta { verb: VERB, flags, value });
    if !line.limits.fits(validated.key_len, len, validated.client_flags) {
        let then = Then::Request(validated.request(VERB, Command::Invalidate, key));
        return Some(line.swallow_block(len, then));
    }
    if len > line.limits.gathered_max {
        let request = validated.request(VERB, command(b""), key);
        return Some(line.frame(Parsed::Stream { request, len, framing_error: Some(BAD_CHUNK) }));
    }
    let Some(value) = line.block(len)? else { return Some(line.close(BAD_CHUNK)) };
    Some(line.frame_with_block(len, Parsed::Request(validated.request(VERB, command(value), key))))
}

/// `me`: memcached reads the `b` behind the key only if another word follows it.
fn inspect<'a>(line: &Line<'a>, rest: &'a [u8]) -> ParsedFrame<'a> {
    let Some((key, flags)) = split_token(rest).filter(|(_, flags)| are_flags(flags, 2)) else {
        return line.reply(BAD_FORMAT, false);
    };
    let mut words = tokens(flags);
    let base64 = words.next() == Some(b"b") && words.next().is_some();
    if key.len() > KEY_MAX || (base64 && decoded_len(key).is_none()) {
        return line.reply(BAD_FORMAT, false);
    }
    let format = ReplyFormat::Text(TextFormat::Line { noreply: false });
    let kind = UntaggedKind::Inspect { key, base64 };
    line.frame(Parsed::UntaggedCommand(UntaggedCommand { kind, format }))
}

/// Whether all words begin as flags may; `preceding` words of the line stand before them.
fn are_flags(flags: &[u8], preceding: usize) -> bool {
    tokens(flags)
        .take(WORDS_READ_MAX - preceding)
        .all(|flag| flag.first().is_some_and(|first| matches!(first, b'A'..=b'z' | b'0'..=b'9')))
}

/// Why a line is not forwarded.
enum FlagError {
    /// The reply to it.
    Invalid(&'static [u8]),
    /// Its validity depends on memcached's version, which isn't known yet (D-9).
    NeedsVersion,
}

/// An invalid argument of a flag, and how its error ranks among those of the same line.
enum ErrorPrecedence {
    /// Reported unless a later flag has an error with a text of its own.
    Deferred(&'static [u8]),
    /// Has no text of its own: any other error is reported instead.
    Generic,
}

/// What the proxy needs of valid flags.
struct ValidatedFlags {
    quiet: bool,
    base64: bool,
    /// The length of the key as memcached stores it.
    key_len: usize,
    client_flags: u32,
    mode: Option<u8>,
    long_opaque: bool,
}

impl ValidatedFlags {
    fn parse(verb: Verb, key: &[u8], flags: &[u8], known: FlagSet) -> Result<Self, FlagError> {
        let mut validated = Self {
            quiet: false,
            base64: false,
            key_len: key.len(),
            client_flags: 0,
            mode: None,
            long_opaque: false,
        };
        validated.read_all(verb, key, flags, known).map_err(|error| match (verb, error) {
            (Verb::Arithmetic, FlagError::Invalid(_)) => FlagError::Invalid(INVALID_OR_DUPLICATE),
            (_, error) => error,
        })?;
        let (modes, text): (&[u8], _) = match verb {
            Verb::Set => (b"EAPRS", BAD_STORE_MODE),
            Verb::Arithmetic => (b"I+D-", BAD_MODE),
            Verb::Get | Verb::Delete => (b"", b""),
        };
        if !modes.is_empty() && validated.mode.is_some_and(|mode| !modes.contains(&mode)) {
            return Err(FlagError::Invalid(text));
        }
        if validated.long_opaque {
            return Err(FlagError::Invalid(LONG_OPAQUE));
        }
        Ok(validated)
    }

    /// Reads one flag after the other, as memcached does: an unknown or repeated flag ends it; of the deferred
    /// errors the last is reported.
    fn read_all(&mut self, verb: Verb, key: &[u8], flags: &[u8], known: FlagSet) -> Result<(), FlagError> {
        let preceding = if verb == Verb::Set { 3 } else { 2 };
        if key.len() > KEY_MAX {
            return Err(FlagError::Invalid(BAD_FORMAT));
        }
        if preceding + tokens(flags).count() > WORDS_MAX {
            return Err(FlagError::Invalid(TOO_MANY));
        }
        let mut seen = 0_u128;
        let mut error = None;
        for word in tokens(flags) {
            let Some((letter, argument)) = word.split_first() else { continue };
            let bit = 1_u128.checked_shl(u32::from(*letter)).unwrap_or(0);
            if seen & bit != 0 {
                return Err(FlagError::Invalid(DUPLICATE));
            }
            seen |= bit;
            let Some(flag) = Flag::find(*letter).filter(|flag| !flag.is_reply_only()) else {
                return Err(FlagError::Invalid(INVALID));
            };
            check_version(verb, flag, known)?;
            match self.read(flag, argument, key) {
                Ok(()) => {}
                Err(ErrorPrecedence::Deferred(text)) => error = Some(text),
                Err(ErrorPrecedence::Generic) => error = error.or(Some(BAD_FORMAT)),
            }
        }
        error.map_or(Ok(()), |text| Err(FlagError::Invalid(text)))
    }

    /// Reads one flag.
    fn read(&mut self, flag: &Flag, argument: &[u8], key: &[u8]) -> Result<(), ErrorPrecedence> {
        let check = |valid: bool, text| if valid { Ok(()) } else { Err(ErrorPrecedence::Deferred(text)) };
        match flag.argument {
            Argument::None | Argument::ReplyOnly => {}
            Argument::Quiet => self.quiet = true,
            Argument::Base64Key => {
                self.base64 = true;
                self.key_len = decoded_len(key).ok_or(ErrorPrecedence::Deferred(BAD_KEY))?;
            }
            Argument::Exptime => check(number::exact(argument).is_some(), BAD_TOKEN)?,
            Argument::Cas => check(number(argument).is_some(), BAD_TOKEN)?,
            Argument::Initial => check(number(argument).is_some(), BAD_INITIAL)?,
            Argument::Delta => check(number(argument).is_some(), BAD_DELTA)?,
            Argument::ClientFlags => {
                let flags = number(argument).filter(|_| argument.len() <= CLIENT_FLAGS_MAX);
                self.client_flags =
                    flags.and_then(|flags| u32::try_from(flags).ok()).ok_or(ErrorPrecedence::Generic)?;
            }
            Argument::Mode => self.mode = Some(argument.first().copied().unwrap_or(b' ')),
            Argument::Opaque => self.long_opaque = argument.len() >= OPAQUE_MAX,
        }
        Ok(())
    }

    fn request<'a>(&self, verb: Verb, command: Command<'a>, key: &'a [u8]) -> Request<'a> {
        let form = if self.base64 { KeyForm::Base64 } else { KeyForm::Plain };
        let format = ReplyFormat::Meta(MetaFormat { verb, quiet: self.quiet });
        Request { command, key: Key { bytes: key, form }, format }
    }
}

/// Refuses a flag that is newer than the instance's memcached (D-9).
fn check_version(verb: Verb, flag: &Flag, known: FlagSet) -> Result<(), FlagError> {
    let too_new = if verb == Verb::Delete { INVALID_OR_DUPLICATE } else { INVALID };
    match known {
        _ if flag.since <= OLDEST_VERSION => Ok(()),
        FlagSet::Unknown => Err(FlagError::NeedsVersion),
        FlagSet::Version(version) if version < flag.since => Err(FlagError::Invalid(too_new)),
        FlagSet::Version(_) => Ok(()),
    }
}

/// A flag's number, if memcached reads one that long.
fn number(argument: &[u8]) -> Option<u64> {
    number::unsigned(argument).filter(|_| argument.len() <= NUMBER_MAX)
}

/// The decoded length of a base64-encoded key, in bytes; `None` if memcached can't decode it. memcached skips
/// bytes outside the alphabet and stops behind the first group with padding.
fn decoded_len(key: &[u8]) -> Option<usize> {
    let alphabet = || key.iter().filter(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(byte));
    let count = alphabet().count();
    if count == 0 || count % 4 != 0 {
        return None;
    }
    let before_padding = alphabet().position(|byte| *byte == b'=').unwrap_or(count);
    let padded_group = alphabet().skip(before_padding / 4 * 4).take(4);
    let padding = padded_group.filter(|byte| **byte == b'=').count();
    let groups = before_padding / 4 + usize::from(padding > 0);
    (padding <= 2).then(|| groups * 3 - padding).filter(|len| *len > 0)
}

#[cfg(test)]
mod tests;
