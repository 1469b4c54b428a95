//! The meta protocol's replies: memcached's own, with the caller's opaque where ours was.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::protocol::request::{Fault, Head, Kind, Meta, MetaAnswer, Outcome, Reply, Verb, travels_encoded};
use crate::protocol::text::line::tokens;
use crate::protocol::{fault_line, number};

/// Keeps what [`encode`] and a second asking need: of `mg` the key and the flags, else the opaque.
pub(in crate::protocol) fn note<'a, E: Extend<&'a u8>>(key: &'a [u8], meta: &Meta<'a>, out: &mut E) {
    if meta.verb == Verb::Get {
        out.extend(key);
        out.extend(b" ");
        out.extend(meta.flags);
    } else {
        out.extend(opaque(meta.flags).unwrap_or_default());
    }
}

/// The key and the flags of an `mg`'s [`note`].
pub(crate) fn noted_get(note: &[u8]) -> (&[u8], &[u8]) {
    let at = note.iter().position(|byte| *byte == b' ').unwrap_or(note.len());
    let (key, flags) = note.split_at_checked(at).unwrap_or((note, b""));
    (key, flags.get(1..).unwrap_or_default())
}

/// The first word of `flags` that is an opaque.
fn opaque(flags: &[u8]) -> Option<&[u8]> {
    tokens(flags).find(|flag| flag.starts_with(b"O"))
}

fn noted_opaque(answer: MetaAnswer, note: &[u8]) -> Option<&[u8]> {
    opaque(if answer.verb == Verb::Get { noted_get(note).1 } else { note })
}

pub(in crate::protocol) fn encode(
    answer: MetaAnswer,
    kind: Kind,
    note: &[u8],
    reply: &Reply<'_>,
    out: &mut Vec<u8>,
) {
    let hidden = answer.quiet
        && match reply.outcome {
            Outcome::Miss => answer.verb == Verb::Get,
            Outcome::Value(..) | Outcome::Done(_) => answer.verb != Verb::Get,
            _ => false,
        };
    let status: &[u8] = match reply.outcome {
        _ if kind == Kind::Invalidate => return out.extend_from_slice(forgotten(&reply.outcome)),
        _ if hidden => return,
        Outcome::Value(stamp, data) => {
            value_head(answer, note, &Head { stamp, len: data.len(), tokens: reply.tokens }, out);
            out.extend_from_slice(data);
            return out.extend_from_slice(b"\r\n");
        }
        Outcome::Done(_) => b"HD",
        Outcome::Miss if answer.verb == Verb::Get => b"EN",
        Outcome::Miss => b"NF",
        Outcome::NotStored => b"NS",
        Outcome::Exists => b"EX",
        other => return out.extend_from_slice(complaint(answer, &other)),
    };
    out.extend_from_slice(status);
    say_tokens(answer, note, reply.tokens, out);
}

pub(in crate::protocol) fn value_head(answer: MetaAnswer, note: &[u8], head: &Head<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"VA ");
    number::write_len(head.len, out);
    say_tokens(answer, note, head.tokens, out);
}

/// memcached's flags, and the line's end. Ours is the only opaque among them. A key that
/// memcached isn't asked for is put where the caller of `mg` wants it.
fn say_tokens(answer: MetaAnswer, note: &[u8], words: &[u8], out: &mut Vec<u8>) {
    let mut key = KeyEcho::noted(answer, note);
    for word in tokens(words) {
        key = key.and_then(|key| key.say_before(word, out));
        let word = match word.first() {
            Some(b'O') => noted_opaque(answer, note).unwrap_or_default(),
            _ => word,
        };
        if !word.is_empty() {
            out.push(b' ');
            out.extend_from_slice(word);
        }
    }
    if let Some(key) = key {
        key.say(out);
    }
    out.extend_from_slice(b"\r\n");
}

/// Whether memcached must not be asked for this key, which stands in base64: that of an item that `mg` has
/// made itself it gives as it is stored, line ends and all.
pub(crate) fn needs_key_echo(key: &[u8]) -> bool {
    STANDARD.decode(key).map_or(true, |stored| travels_encoded(&stored))
}

/// A key that memcached isn't asked for, of an `mg` that wants to be told.
struct KeyEcho<'a> {
    key: &'a [u8],
    flags: &'a [u8],
    /// Where the caller has put it among its flags.
    place: usize,
}

impl<'a> KeyEcho<'a> {
    fn noted(answer: MetaAnswer, note: &'a [u8]) -> Option<Self> {
        if answer.verb != Verb::Get {
            return None;
        }
        let (key, flags) = noted_get(note);
        let place = tokens(flags).position(|flag| flag.starts_with(b"k"))?;
        let base64 = tokens(flags).any(|flag| flag.starts_with(b"b"));
        (base64 && needs_key_echo(key)).then_some(Self { key, flags, place })
    }

    /// Says it if it stands before `word`; itself, if it doesn't.
    fn say_before(self, word: &[u8], out: &mut Vec<u8>) -> Option<Self> {
        let letter = word.first();
        let is_last = matches!(letter, Some(b'W' | b'X' | b'Z'));
        if !is_last && !tokens(self.flags).skip(self.place).any(|flag| flag.first() == letter) {
            return Some(self);
        }
        self.say(out);
        None
    }

    fn say(self, out: &mut Vec<u8>) {
        out.extend_from_slice(b" k");
        out.extend_from_slice(self.key);
        out.extend_from_slice(b" b");
    }
}

/// The second answer to a `mg` with what only the first could know: whether the item had been fetched
/// before, when, how long it has to live, and who has won the right to make it anew.
pub(crate) fn merge(first: &[u8], second: &[u8]) -> Vec<u8> {
    let mut merged = Vec::with_capacity(second.len());
    let mut push = |word: &[u8]| {
        merged.extend_from_slice(b" ");
        merged.extend_from_slice(word);
    };
    for word in tokens(second) {
        match word.first() {
            Some(letter @ (b'h' | b'l' | b't')) => {
                push(tokens(first).find(|other| other.first() == Some(letter)).unwrap_or(word));
            }
            Some(b'W' | b'X' | b'Z') => {}
            _ => push(word),
        }
    }
    tokens(first).filter(|word| matches!(word, [b'W' | b'X' | b'Z'])).for_each(push);
    merged
}

fn forgotten(outcome: &Outcome<'_>) -> &'static [u8] {
    match outcome {
        Outcome::Failed(fault) => fault_line(*fault),
        _ => b"SERVER_ERROR object too large for cache\r\n",
    }
}

fn complaint(answer: MetaAnswer, outcome: &Outcome<'_>) -> &'static [u8] {
    match outcome {
        Outcome::TooLarge => b"SERVER_ERROR object too large for cache\r\n",
        Outcome::OutOfMemory if answer.verb == Verb::Set => b"SERVER_ERROR out of memory storing object\r\n",
        Outcome::OutOfMemory => b"SERVER_ERROR out of memory\r\n",
        Outcome::NonNumeric => b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n",
        Outcome::Failed(fault) => fault_line(*fault),
        _ => fault_line(Fault::Unavailable),
    }
}
