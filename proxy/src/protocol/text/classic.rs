//! The classic commands of the text protocol: all but the meta commands.

use std::borrow::Cow;

use memchr::{memchr2, memmem};

use crate::protocol::line::{
    BAD_CHUNK, BAD_FORMAT, ERROR, Line, ends_in_noreply, split_token, tokens, trim_start, unless_noreply,
};
use crate::protocol::request::{
    Command, Key, Mode, ReplyFormat, Request, STAT_GROUPS, Store, TextFormat, UntaggedCommand, UntaggedKind,
};
use crate::protocol::{KEY_MAX, Parsed, ParsedFrame, Then, meta, number};

const BAD_DELTA: &[u8] = b"CLIENT_ERROR invalid numeric delta argument\r\n";
const BAD_EXPTIME: &[u8] = b"CLIENT_ERROR invalid exptime argument\r\n";
const TOO_LARGE: &[u8] = b"SERVER_ERROR object too large for cache\r\n";

/// The valid keys of one `get` line, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Keys<'a> {
    /// The keys, separated by spaces.
    pub(crate) line: &'a [u8],
    pub(crate) with_cas: bool,
    pub(crate) exptime: Option<i32>,
}

impl<'a> Keys<'a> {
    /// The first key as a request, and the rest of the line (empty after the last key).
    pub(crate) fn next(&self) -> Option<(Request<'a>, &'a [u8])> {
        let (key, rest) = split_token(self.line)?;
        let rest = trim_start(rest);
        let format = TextFormat::Value { with_cas: self.with_cas, last: rest.is_empty() };
        let command = Command::Get { exptime: self.exptime };
        Some((Request { command, key: Key::plain(key), format: ReplyFormat::Text(format) }, rest))
    }
}

impl<'a> Line<'a> {
    /// Parses the command; `whole` is the line with its end. `None` while its data block is incomplete.
    pub(super) fn parse(&self, whole: &'a [u8]) -> Option<ParsedFrame<'a>> {
        let line = whole.strip_suffix(b"\n").unwrap_or(whole);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.starts_with(b" ") || memchr2(0, b'\r', line).is_some() {
            return Some(self.reject_unreadable(line));
        }
        // memcached: "min command length is 2, plus the \r\n".
        if whole.len() < 4 {
            return Some(self.reply(BAD_FORMAT, false));
        }
        let (verb, rest) = split_token(line)?;
        let rest = trim_start(rest);
        match verb {
            b"get" => Some(self.keys(rest, false, None)),
            b"gets" => Some(self.keys(rest, true, None)),
            b"gat" => Some(self.touched_keys(rest, false)),
            b"gats" => Some(self.touched_keys(rest, true)),
            _ => meta::parse(self, verb, rest).unwrap_or_else(|| self.parse_other(verb, rest)),
        }
    }

    /// Parses a command that isn't a get.
    fn parse_other(&self, verb: &[u8], rest: &'a [u8]) -> Option<ParsedFrame<'a>> {
        let noreply = ends_in_noreply(rest);
        match verb {
            b"set" => self.store(rest, Mode::Set, false),
            b"add" => self.store(rest, Mode::Add, false),
            b"replace" => self.store(rest, Mode::Replace, false),
            b"append" => self.store(rest, Mode::Append, false),
            b"prepend" => self.store(rest, Mode::Prepend, false),
            b"cas" => self.store(rest, Mode::Set, true),
            b"delete" => Some(self.keyed(rest, 1, noreply, |_| Ok(Command::Delete { cas: None }))),
            b"incr" => Some(self.arithmetic(rest, noreply, false)),
            b"decr" => Some(self.arithmetic(rest, noreply, true)),
            b"touch" => Some(self.keyed(rest, 2, noreply, |exptime| {
                let exptime = number::exact(exptime).ok_or(BAD_EXPTIME)?;
                Ok(Command::Touch { exptime })
            })),
            b"flush_all" => Some(self.flush_all(rest, noreply)),
            b"stats" => Some(self.stats(rest)),
            b"version" => Some(self.version()),
            b"verbosity" => {
                let level = tokens(rest).next().is_some_and(number::is_level);
                Some(self.reply(if level { b"OK\r\n" } else { BAD_FORMAT }, noreply))
            }
            b"quit" => Some(self.frame(Parsed::Close(Cow::Borrowed(b"")))),
            // memcached reads `noreply` as the option of an empty command.
            b"noreply" if rest.is_empty() => Some(self.reply(ERROR, true)),
            _ => Some(self.reject_unknown(rest, noreply)),
        }
    }

    /// `get`, `gets`: all keys are validated before the first is forwarded (D-6).
    fn keys(&self, line: &'a [u8], with_cas: bool, exptime: Option<i32>) -> ParsedFrame<'a> {
        if line.is_empty() || tokens(line).any(|key| key.len() > KEY_MAX) {
            return self.reply(BAD_FORMAT, false);
        }
        self.frame(Parsed::Keys(Keys { line, with_cas, exptime }))
    }

    /// `gat <exptime> <key>*`
    fn touched_keys(&self, line: &'a [u8], with_cas: bool) -> ParsedFrame<'a> {
        let Some((exptime, keys)) = split_token(line) else { return self.reply(BAD_FORMAT, false) };
        let keys = trim_start(keys);
        if keys.is_empty() {
            return self.reply(BAD_FORMAT, false);
        }
        match number::exact(exptime) {
            Some(exptime) => self.keys(keys, with_cas, Some(exptime)),
            None => self.reply(BAD_EXPTIME, false),
        }
    }

    /// `<verb> <key> <flags> <exptime> <bytes> [<cas>] [noreply]` and its data block.
    fn store(&self, line: &'a [u8], mode: Mode, with_cas: bool) -> Option<ParsedFrame<'a>> {
        let mut words = tokens(line);
        let (Some(key), Some(flags), Some(exptime), Some(bytes)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Some(self.close(BAD_FORMAT));
        };
        let cas = words.next();
        let Some(len) = number::length(bytes).filter(|_| !with_cas || cas.is_some()) else {
            return Some(self.close(BAD_FORMAT));
        };
        let noreply = ends_in_noreply(line);
        let cas = if with_cas { cas.and_then(number::unsigned).map(Some) } else { Some(None) };
        let (Some(flags), Some(exptime), Some(cas), true) =
            (number::flags(flags), number::truncated(exptime), cas, key.len() <= KEY_MAX)
        else {
            return Some(self.swallow_block(len, Then::LocalReply(unless_noreply(BAD_FORMAT, noreply))));
        };
        let format = ReplyFormat::Text(TextFormat::Line { noreply });
        let request = |command| Request { command, key: Key::plain(key), format };
        if !self.limits.fits(key.len(), len, flags) {
            let invalidates = mode == Mode::Set && !with_cas;
            let then = if invalidates {
                Then::Request(request(Command::Invalidate))
            } else {
                Then::LocalReply(unless_noreply(TOO_LARGE, noreply))
            };
            return Some(self.swallow_block(len, then));
        }
        let framing_error = if noreply { b"" } else { BAD_CHUNK };
        let command = |value| Command::Store(Store { mode, flags, exptime, cas, value });
        if len > self.limits.gathered_max {
            return Some(self.frame(Parsed::Stream {
                request: request(command(b"")),
                len,
                framing_error: Some(framing_error),
            }));
        }
        let Some(value) = self.block(len)? else { return Some(self.close(framing_error)) };
        Some(self.frame_with_block(len, Parsed::Request(request(command(value)))))
    }

    fn arithmetic(&self, line: &'a [u8], noreply: bool, decrement: bool) -> ParsedFrame<'a> {
        self.keyed(line, 2, noreply, |delta| {
            let delta = number::unsigned(delta).ok_or(BAD_DELTA)?;
            Ok(Command::Arithmetic { decrement, delta, create: None, cas: None })
        })
    }

    /// A command of one line: a key and, if `words` is 2, an argument. Fewer words are an error.
    fn keyed<F>(&self, line: &'a [u8], words: usize, noreply: bool, command: F) -> ParsedFrame<'a>
    where
        F: FnOnce(&'a [u8]) -> Result<Command<'a>, &'static [u8]>,
    {
        let mut all = tokens(line);
        let (key, argument) = (all.next(), all.next());
        let (Some(key), true) = (key, words < 2 || argument.is_some()) else {
            return self.reply(BAD_FORMAT, false);
        };
        if key.len() > KEY_MAX {
            return self.reply(BAD_FORMAT, noreply);
        }
        match command(argument.unwrap_or_default()) {
            Ok(command) => {
                let format = ReplyFormat::Text(TextFormat::Line { noreply });
                self.frame(Parsed::Request(Request { command, key: Key::plain(key), format }))
            }
            Err(text) => self.reply(text, noreply),
        }
    }

    /// `version`, which has no `noreply` form.
    fn version(&self) -> ParsedFrame<'a> {
        let format = ReplyFormat::Text(TextFormat::Line { noreply: false });
        self.frame(Parsed::Request(Request { command: Command::Version, key: Key::plain(b""), format }))
    }

    /// `flush_all [<delay>] [noreply]`
    fn flush_all(&self, line: &'a [u8], noreply: bool) -> ParsedFrame<'a> {
        let mut words = tokens(line);
        let delay = match (words.next(), words.next()) {
            (None, _) => None,
            (Some(_), None) if noreply => None,
            (Some(word), _) => match number::exact(word) {
                None => return self.reply(BAD_EXPTIME, noreply),
                delay => delay,
            },
        };
        let format = ReplyFormat::Text(TextFormat::Line { noreply });
        self.frame(Parsed::UntaggedCommand(UntaggedCommand {
            kind: UntaggedKind::FlushAll { delay },
            format,
        }))
    }

    /// `stats`, alone or with one of [`STAT_GROUPS`]. It has no `noreply` form: behind a group memcached ignores the word.
    fn stats(&self, line: &'a [u8]) -> ParsedFrame<'a> {
        let mut words = tokens(line);
        let group = words.next().unwrap_or_default();
        let is_alone = matches!((words.next(), words.next()), (None | Some(b"noreply"), None));
        if !is_alone || !STAT_GROUPS.contains(&group) {
            return self.reply(ERROR, false);
        }
        let format = ReplyFormat::Text(TextFormat::Line { noreply: false });
        self.frame(Parsed::UntaggedCommand(UntaggedCommand { kind: UntaggedKind::Stats { group }, format }))
    }

    /// A command that clients may not use (A-4). The connection of an HTTP client is closed at once.
    fn reject_unknown(&self, rest: &[u8], noreply: bool) -> ParsedFrame<'a> {
        let last = tokens(rest).last().unwrap_or_default();
        if last.starts_with(b"HTTP/") {
            return self.close(b"");
        }
        self.reply(ERROR, noreply)
    }

    /// A line with a leading space, a NUL or a bare CR (D-4).
    fn reject_unreadable(&self, line: &[u8]) -> ParsedFrame<'a> {
        const STORES: [&[u8]; 7] = [b"set", b"add", b"replace", b"append", b"prepend", b"cas", b"ms"];
        let may_store = STORES.iter().any(|verb| memmem::find(line, verb).is_some());
        if may_store { self.close(ERROR) } else { self.reply(ERROR, false) }
    }
}
