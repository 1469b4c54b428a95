//! The meta protocol's requests (memcached's protocol.txt), read as strictly as the others: flags are
//! checked here, in memcached 1.6.45's order and with its words, whatever version runs behind.

pub(crate) mod reply;

use std::borrow::Cow;

use super::text::line::{BAD_CHUNK, BAD_FORMAT, Line, split_token, tokens, trim_start};
use super::{Frame, KEY_MAX, Parsed, Then, number};
use crate::protocol::request::{
    Answer, Ask, Command, FlagSet, Key, KeyForm, Meta, MetaAnswer, Request, SHARED_VALUE_MAX, TextAnswer,
    UntaggedCommand, Verb,
};

/// More words in a line are refused.
const WORDS_MAX: usize = 20;
/// Words behind these aren't looked at.
const WORDS_READ: usize = 23;
/// The longest opaque, its `O` included.
const OPAQUE_MAX: usize = 32;

/// The longest numbers that memcached reads.
const NUMBER_DIGITS: usize = 22;
const CLIENT_FLAGS_DIGITS: usize = 11;

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
/// All that `ma` says of any of them.
const BAD_ARITHMETIC: &[u8] = b"CLIENT_ERROR invalid or duplicate flag\r\n";

/// The verbs of this protocol, and what each is read by.
pub(super) fn read<'a>(line: &Line<'a>, verb: &[u8], rest: &'a [u8]) -> Option<Option<Frame<'a>>> {
    Some(match verb {
        b"mg" => Some(keyed(line, Verb::Get, rest)),
        b"md" => Some(keyed(line, Verb::Delete, rest)),
        b"ma" => Some(keyed(line, Verb::Arithmetic, rest)),
        b"ms" => store(line, rest),
        b"mn" => Some(line.answer(b"MN\r\n", false)),
        b"me" => Some(inspect(line, rest)),
        _ => return None,
    })
}

/// `mg`, `md`, `ma`: a key and flags.
fn keyed<'a>(line: &Line<'a>, verb: Verb, rest: &'a [u8]) -> Frame<'a> {
    let Some((key, flags)) = split_token(rest).filter(|(_, flags)| are_flags(flags, 2)) else {
        return line.answer(BAD_FORMAT, false);
    };
    let flags = trim_start(flags);
    match ValidatedFlags::read(verb, key, flags, line.limits.flags) {
        Ok(checked) => {
            let command = Command::Meta(Meta { verb, flags, value: b"" });
            line.frame(Parsed::Request(checked.request(verb, command, key)))
        }
        Err(FlagError::Unknown) => line.version_first(),
        Err(FlagError::Words(words)) => line.answer(words, false),
    }
}

/// `ms <key> <length> <flags>*` and its data block.
fn store<'a>(line: &Line<'a>, rest: &'a [u8]) -> Option<Frame<'a>> {
    const VERB: Verb = Verb::Set;
    let Some((key, behind)) = split_token(rest) else { return Some(line.close(BAD_FORMAT)) };
    let (len, flags) = split_token(trim_start(behind)).unwrap_or_default();
    let Some(len) = number::length(len).filter(|_| are_flags(flags, 3)) else {
        return Some(line.close(BAD_FORMAT));
    };
    let flags = trim_start(flags);
    let checked = match ValidatedFlags::read(VERB, key, flags, line.limits.flags) {
        Ok(checked) => checked,
        Err(FlagError::Unknown) => return Some(line.version_first()),
        Err(FlagError::Words(words)) => {
            return Some(line.swallow_block(len, Then::Answer(Cow::Borrowed(words))));
        }
    };
    let command = |value| Command::Meta(Meta { verb: VERB, flags, value });
    if !line.limits.fits(checked.key_len, len, checked.client_flags) {
        let then = Then::Request(checked.request(VERB, Command::Invalidate, key));
        return Some(line.swallow_block(len, then));
    }
    if len > SHARED_VALUE_MAX {
        let request = checked.request(VERB, command(b""), key);
        return Some(line.frame(Parsed::Stream { request, len, complaint: Some(BAD_CHUNK) }));
    }
    let Some(value) = line.block(len)? else { return Some(line.close(BAD_CHUNK)) };
    Some(line.frame_with_block(len, Parsed::Request(checked.request(VERB, command(value), key))))
}

/// `me`: memcached reads the `b` behind the key only if another word follows.
fn inspect<'a>(line: &Line<'a>, rest: &'a [u8]) -> Frame<'a> {
    let Some((key, flags)) = split_token(rest).filter(|(_, flags)| are_flags(flags, 2)) else {
        return line.answer(BAD_FORMAT, false);
    };
    let mut words = tokens(flags);
    let base64 = words.next() == Some(b"b") && words.next().is_some();
    if key.len() > KEY_MAX || (base64 && decoded_len(key).is_none()) {
        return line.answer(BAD_FORMAT, false);
    }
    let answer = Answer::Text(TextAnswer::Line { noreply: false });
    line.frame(Parsed::UntaggedCommand(UntaggedCommand { ask: Ask::Inspect { key, base64 }, answer }))
}

/// Whether all words begin as flags may; `preceding` words stand before them.
fn are_flags(flags: &[u8], preceding: usize) -> bool {
    tokens(flags)
        .take(WORDS_READ - preceding)
        .all(|flag| flag.first().is_some_and(|first| matches!(first, b'A'..=b'z' | b'0'..=b'9')))
}

/// Why a line isn't forwarded.
enum FlagError {
    Words(&'static [u8]),
    /// It depends on the version behind, which isn't known yet.
    Unknown,
}

/// What is wrong with a flag.
enum ErrorPrecedence {
    /// Said, whatever else is wrong.
    Immediate(&'static [u8]),
    /// Said unless something worse follows.
    Deferred(&'static [u8]),
    /// Has no words of its own.
    Generic,
}

/// What must be known of flags that are as they should be.
struct ValidatedFlags {
    quiet: bool,
    base64: bool,
    /// As memcached stores it.
    key_len: usize,
    client_flags: u32,
    mode: Option<u8>,
    long_opaque: bool,
}

impl ValidatedFlags {
    fn read(verb: Verb, key: &[u8], flags: &[u8], known: FlagSet) -> Result<Self, FlagError> {
        let mut checked = Self {
            quiet: false,
            base64: false,
            key_len: key.len(),
            client_flags: 0,
            mode: None,
            long_opaque: false,
        };
        let words_before = if verb == Verb::Set { 3 } else { 2 };
        checked.take_all(words_before, key, flags, known).map_err(|complaint| match (verb, complaint) {
            (Verb::Arithmetic, FlagError::Words(_)) => FlagError::Words(BAD_ARITHMETIC),
            (_, complaint) => complaint,
        })?;
        let (modes, words): (&[u8], _) = match verb {
            Verb::Set => (b"EAPRS", BAD_STORE_MODE),
            Verb::Arithmetic => (b"I+D-", BAD_MODE),
            Verb::Get | Verb::Delete => (b"", b""),
        };
        if !modes.is_empty() && checked.mode.is_some_and(|mode| !modes.contains(&mode)) {
            return Err(FlagError::Words(words));
        }
        if checked.long_opaque {
            return Err(FlagError::Words(LONG_OPAQUE));
        }
        Ok(checked)
    }

    /// Takes flag after flag as memcached does: some errors end it at once, of the others the last is said.
    fn take_all(
        &mut self,
        words_before: usize,
        key: &[u8],
        flags: &[u8],
        known: FlagSet,
    ) -> Result<(), FlagError> {
        if key.len() > KEY_MAX {
            return Err(FlagError::Words(BAD_FORMAT));
        }
        if words_before + tokens(flags).count() > WORDS_MAX {
            return Err(FlagError::Words(TOO_MANY));
        }
        let mut seen = 0_u128;
        let mut wrong = None;
        for flag in tokens(flags) {
            let Some((letter, argument)) = flag.split_first() else { continue };
            let bit = 1_u128.checked_shl(u32::from(*letter)).unwrap_or(0);
            if seen & bit != 0 {
                return Err(FlagError::Words(DUPLICATE));
            }
            seen |= bit;
            match (letter, known) {
                (b'E' | b'x', FlagSet::Unknown) => return Err(FlagError::Unknown),
                (b'E' | b'x', FlagSet::Old) => return Err(FlagError::Words(INVALID)),
                _ => {}
            }
            match self.take(*letter, argument, key) {
                Ok(()) => {}
                Err(ErrorPrecedence::Immediate(words)) => return Err(FlagError::Words(words)),
                Err(ErrorPrecedence::Deferred(words)) => wrong = Some(words),
                Err(ErrorPrecedence::Generic) => wrong = wrong.or(Some(BAD_FORMAT)),
            }
        }
        wrong.map_or(Ok(()), |words| Err(FlagError::Words(words)))
    }

    /// Notes one flag.
    fn take(&mut self, letter: u8, argument: &[u8], key: &[u8]) -> Result<(), ErrorPrecedence> {
        match letter {
            b'b' => {
                self.base64 = true;
                self.key_len = decoded_len(key).ok_or(ErrorPrecedence::Deferred(BAD_KEY))?;
            }
            b'N' | b'T' | b'R' => {
                number::exact(argument).map(drop).ok_or(ErrorPrecedence::Deferred(BAD_TOKEN))?
            }
            b'C' | b'E' => number(argument).map(drop).ok_or(ErrorPrecedence::Deferred(BAD_TOKEN))?,
            b'J' => number(argument).map(drop).ok_or(ErrorPrecedence::Deferred(BAD_INITIAL))?,
            b'D' => number(argument).map(drop).ok_or(ErrorPrecedence::Deferred(BAD_DELTA))?,
            b'F' => {
                let flags = number(argument).filter(|_| argument.len() <= CLIENT_FLAGS_DIGITS);
                self.client_flags =
                    flags.and_then(|flags| u32::try_from(flags).ok()).ok_or(ErrorPrecedence::Generic)?;
            }
            b'M' => self.mode = Some(argument.first().copied().unwrap_or(b' ')),
            b'O' => self.long_opaque = argument.len() >= OPAQUE_MAX,
            b'q' => self.quiet = true,
            b'P' | b'L' | b'k' | b's' | b't' | b'c' | b'f' | b'v' | b'h' | b'l' | b'u' | b'x' | b'I' => {}
            _ => return Err(ErrorPrecedence::Immediate(INVALID)),
        }
        Ok(())
    }

    fn request<'a>(&self, verb: Verb, command: Command<'a>, key: &'a [u8]) -> Request<'a> {
        let form = if self.base64 { KeyForm::Base64 } else { KeyForm::Plain };
        let answer = Answer::Meta(MetaAnswer { verb, quiet: self.quiet });
        Request { command, key: Key { bytes: key, form }, answer }
    }
}

/// A flag's number, as long as memcached reads them.
fn number(argument: &[u8]) -> Option<u64> {
    number::unsigned(argument).filter(|_| argument.len() <= NUMBER_DIGITS)
}

/// How long a base64-encoded key is when decoded, if memcached can: it passes over what isn't in the
/// alphabet, and stops behind the first group with padding.
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
