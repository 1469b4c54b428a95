//! The meta protocol's replies: memcached's own, with the client's opaque in place of our tag (T-8).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::flags::{self, Flag, OnRefetch, letter};
use crate::protocol::line::tokens;
use crate::protocol::request::{
    Command, CommandKind, Fault, Key, KeyForm, Meta, MetaFormat, Outcome, Reply, ValueHeader, Verb,
    needs_base64,
};
use crate::protocol::{fault_line, number};

/// Appends what [`encode`] and a repeated `mg` need: key and flags of `mg`, the opaque of the others.
pub(in crate::protocol) fn context<'a, E: Extend<&'a u8>>(key: &'a [u8], meta: &Meta<'a>, out: &mut E) {
    if meta.verb == Verb::Get {
        out.extend(key);
        out.extend(b" ");
        out.extend(meta.flags);
    } else {
        out.extend(opaque(meta.flags).unwrap_or_default());
    }
}

/// Splits the [`context`] of an `mg` into its key and its flags.
fn split_context(context: &[u8]) -> (&[u8], &[u8]) {
    let at = context.iter().position(|byte| *byte == b' ').unwrap_or(context.len());
    let (key, flags) = context.split_at_checked(at).unwrap_or((context, b""));
    (key, flags.get(1..).unwrap_or_default())
}

/// The `mg` of this [`context`].
pub(in crate::protocol) fn get_again(context: &[u8]) -> (Key<'_>, Command<'_>) {
    let (bytes, flags) = split_context(context);
    let base64 = flags::contains(flags, letter::BASE64);
    let form = if base64 { KeyForm::Base64 } else { KeyForm::Plain };
    (Key { bytes, form }, Command::Meta(Meta { verb: Verb::Get, flags, value: b"" }))
}

/// Whether the `mg` of this [`context`] changes the item.
pub(in crate::protocol) fn mutates(context: &[u8]) -> bool {
    Meta { verb: Verb::Get, flags: split_context(context).1, value: b"" }.mutates()
}

/// The first of `flags` that is an opaque.
fn opaque(flags: &[u8]) -> Option<&[u8]> {
    tokens(flags).find(|flag| flag.first() == Some(&letter::OPAQUE))
}

fn opaque_in_context(format: MetaFormat, context: &[u8]) -> Option<&[u8]> {
    opaque(if format.verb == Verb::Get { split_context(context).1 } else { context })
}

/// Appends `reply` as memcached would send it to the client.
pub(in crate::protocol) fn encode(
    format: MetaFormat,
    kind: CommandKind,
    context: &[u8],
    reply: &Reply<'_>,
    out: &mut Vec<u8>,
) {
    let suppressed = format.quiet
        && match reply.outcome {
            Outcome::Miss => format.verb == Verb::Get,
            Outcome::Value(..) | Outcome::Done(_) => format.verb != Verb::Get,
            _ => false,
        };
    let status: &[u8] = match reply.outcome {
        _ if kind == CommandKind::Invalidate => {
            return out.extend_from_slice(invalidate_line(&reply.outcome));
        }
        _ if suppressed => return,
        Outcome::Value(item, data) => {
            encode_value_header(
                format,
                context,
                &ValueHeader { item, len: data.len(), tokens: reply.tokens },
                out,
            );
            out.extend_from_slice(data);
            return out.extend_from_slice(b"\r\n");
        }
        Outcome::Done(_) => b"HD",
        Outcome::Miss if format.verb == Verb::Get => b"EN",
        Outcome::Miss => b"NF",
        Outcome::NotStored => b"NS",
        Outcome::Exists => b"EX",
        other => return out.extend_from_slice(error_line(format, &other)),
    };
    out.extend_from_slice(status);
    encode_flags(format, context, reply.tokens, out);
}

/// Appends the `VA` line.
pub(in crate::protocol) fn encode_value_header(
    format: MetaFormat,
    context: &[u8],
    header: &ValueHeader<'_>,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"VA ");
    number::write_len(header.len, out);
    encode_flags(format, context, header.tokens, out);
}

/// Appends memcached's flags, with the client's opaque in place of our tag, and the line end. A key that
/// memcached was not asked for is inserted where the client of `mg` requested it.
fn encode_flags(format: MetaFormat, context: &[u8], flags: &[u8], out: &mut Vec<u8>) {
    let mut key = KeyEcho::requested(format, context);
    for word in tokens(flags) {
        key = key.and_then(|key| key.encode_before(word, out));
        let word = match word.first() {
            Some(&letter::OPAQUE) => opaque_in_context(format, context).unwrap_or_default(),
            _ => word,
        };
        if !word.is_empty() {
            out.push(b' ');
            out.extend_from_slice(word);
        }
    }
    if let Some(key) = key {
        key.encode(out);
    }
    out.extend_from_slice(b"\r\n");
}

/// Whether the proxy must add a base64-encoded key to the reply itself: if `mg` created the item, memcached
/// would send the key decoded, line ends included.
pub(crate) fn needs_key_echo(key: &[u8]) -> bool {
    STANDARD.decode(key).map_or(true, |stored| needs_base64(&stored))
}

/// A key that an `mg` requests and memcached is not asked for.
struct KeyEcho<'a> {
    key: &'a [u8],
    flags: &'a [u8],
    /// The position of `k` among the client's flags.
    place: usize,
}

impl<'a> KeyEcho<'a> {
    /// The key that the request of `context` wants from the proxy, if it does.
    fn requested(format: MetaFormat, context: &'a [u8]) -> Option<Self> {
        if format.verb != Verb::Get {
            return None;
        }
        let (key, flags) = split_context(context);
        let place = tokens(flags).position(|flag| flag.first() == Some(&letter::KEY))?;
        let echo = flags::contains(flags, letter::BASE64) && needs_key_echo(key);
        echo.then_some(Self { key, flags, place })
    }

    /// Appends the key if it belongs before `word` of the reply; else returns itself.
    fn encode_before(self, word: &[u8], out: &mut Vec<u8>) -> Option<Self> {
        let ends_reply = Flag::of(word).is_some_and(Flag::is_reply_only);
        if !ends_reply && !tokens(self.flags).skip(self.place).any(|flag| flag.first() == word.first()) {
            return Some(self);
        }
        self.encode(out);
        None
    }

    fn encode(self, out: &mut Vec<u8>) {
        out.extend_from_slice(b" k");
        out.extend_from_slice(self.key);
        out.extend_from_slice(b" b");
    }
}

/// Merges the flags of two replies to the same `mg`. The first `mg` changed what some flags tell (hit before,
/// last access, TTL, the right to recache), so these come from its reply: see [`OnRefetch`].
pub(crate) fn merge(first: &[u8], second: &[u8]) -> Vec<u8> {
    let mut merged = Vec::with_capacity(second.len());
    let mut push = |word: &[u8]| {
        merged.extend_from_slice(b" ");
        merged.extend_from_slice(word);
    };
    for word in tokens(second) {
        match Flag::of(word) {
            Some(flag) if flag.is_reply_only() => {}
            Some(Flag { letter, on_refetch: OnRefetch::First, .. }) => {
                push(tokens(first).find(|other| other.first() == Some(letter)).unwrap_or(word));
            }
            _ => push(word),
        }
    }
    let is_reply_only = |word: &&[u8]| word.len() == 1 && Flag::of(word).is_some_and(Flag::is_reply_only);
    tokens(first).filter(is_reply_only).for_each(push);
    merged
}

/// The reply to an `ms` whose value was too large (T-1).
fn invalidate_line(outcome: &Outcome<'_>) -> &'static [u8] {
    match outcome {
        Outcome::Failed(fault) => fault_line(*fault),
        _ => b"SERVER_ERROR object too large for cache\r\n",
    }
}

/// The line of any other outcome.
fn error_line(format: MetaFormat, outcome: &Outcome<'_>) -> &'static [u8] {
    match outcome {
        Outcome::TooLarge => b"SERVER_ERROR object too large for cache\r\n",
        Outcome::OutOfMemory if format.verb == Verb::Set => b"SERVER_ERROR out of memory storing object\r\n",
        Outcome::OutOfMemory => b"SERVER_ERROR out of memory\r\n",
        Outcome::OutOfMemoryDuringRead => b"SERVER_ERROR Out of memory during read\r\n",
        Outcome::NonNumeric => b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n",
        Outcome::Failed(fault) => fault_line(*fault),
        _ => fault_line(Fault::Unavailable),
    }
}
