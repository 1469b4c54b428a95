//! Requests in the backend's protocol: memcached's meta commands, each with our tag as its opaque.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::protocol::meta;
use crate::protocol::number::{self, LONE_MINUS};
use crate::protocol::request::{
    Answer, Ask, Command, Create, Key, KeyForm, Meta, Mode, Request, TextAnswer, UntaggedCommand, Verb,
    travels_encoded,
};
use crate::protocol::text::line::tokens;

/// Appends `request` as memcached shall read it.
pub(crate) fn request(request: &Request<'_>, tag: u64, out: &mut Vec<u8>) {
    let value = match &request.command {
        Command::Store(store) => store.value,
        Command::Meta(Meta { verb: Verb::Set, value, .. }) => value,
        _ => return line(request, 0, tag, out),
    };
    line(request, value.len(), tag, out);
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends the line of `request`; of a store, whose value of `len` bytes is to follow, too.
pub(crate) fn line(request: &Request<'_>, len: usize, tag: u64, out: &mut Vec<u8>) {
    let binary = matches!(request.answer, Answer::Binary(_));
    match &request.command {
        Command::Version => return out.extend_from_slice(b"version\r\n"),
        Command::Get { exptime } => {
            verb(b"mg ", request, out);
            out.extend_from_slice(if wants_cas(request.answer) { b" v f c" } else { b" v f" });
            signed(b" T", *exptime, out);
        }
        Command::Touch { exptime } => {
            verb(b"mg ", request, out);
            if binary {
                out.extend_from_slice(b" f c");
            }
            signed(b" T", Some(*exptime), out);
        }
        Command::Delete { cas } => {
            verb(b"md ", request, out);
            unsigned(b" C", *cas, out);
        }
        Command::Invalidate => verb(b"md ", request, out),
        Command::Arithmetic { decrement, delta, create, cas } => {
            verb(b"ma ", request, out);
            unsigned(b" C", *cas, out);
            if let Some(Create { initial, exptime }) = create {
                signed(b" N", Some(*exptime), out);
                unsigned(b" J", Some(*initial), out);
            }
            unsigned(b" D", Some(*delta), out);
            out.extend_from_slice(if *decrement { b" MD v" } else { b" v" });
            if binary {
                out.extend_from_slice(b" c");
            }
        }
        Command::Store(store) => {
            out.extend_from_slice(b"ms ");
            let encoded = key(request.key, out);
            out.push(b' ');
            number::write_len(len, out);
            out.extend_from_slice(if encoded { b" b" } else { b"" });
            unsigned(b" C", store.cas, out);
            // For the same reason as in `keeps_flags`.
            if !matches!(store.mode, Mode::Append | Mode::Prepend) {
                unsigned(b" F", Some(u64::from(store.flags)), out);
                signed(b" T", Some(store.exptime), out);
            }
            out.extend_from_slice(match store.mode {
                Mode::Set => b"",
                Mode::Add => b" ME",
                Mode::Replace => b" MR",
                Mode::Append => b" MA",
                Mode::Prepend => b" MP",
            });
            out.extend_from_slice(if binary { b" c" } else { b"" });
        }
        Command::Meta(meta) => return meta_line(request.key, meta, len, tag, out),
    }
    unsigned(b" O", Some(tag), out);
    out.extend_from_slice(b"\r\n");
}

/// Whether a store keeps the flags of what is there: its own are for nothing then. And worse than that: an
/// item which only they make so long that it is kept in chunks is read by memcached as if it weren't, and
/// what it finds there, behind the item, becomes part of the value.
fn keeps_flags(meta: &Meta<'_>) -> bool {
    let extends = tokens(meta.flags).any(|flag| flag.starts_with(b"MA") || flag.starts_with(b"MP"));
    meta.verb == Verb::Set && extends && !tokens(meta.flags).any(|flag| flag.starts_with(b"N"))
}

/// The caller's own flags, checked before: those that mean something to the verb, ours instead of its
/// opaque, and nothing that only newer memcacheds read.
fn meta_line(name: Key<'_>, meta: &Meta<'_>, len: usize, tag: u64, out: &mut Vec<u8>) {
    let (verb, relevant): (&[u8], &[u8]) = match meta.verb {
        Verb::Get => (b"mg ", b"bCENRTOkstcfvhlu"),
        Verb::Set => (b"ms ", b"bCEFINTMOksc"),
        Verb::Delete => (b"md ", b"bCEFITOkx"),
        Verb::Arithmetic => (b"ma ", b"bCEDJMNTOktcv"),
    };
    out.extend_from_slice(verb);
    out.extend_from_slice(name.bytes);
    if meta.verb == Verb::Set {
        out.push(b' ');
        number::write_len(len, out);
    }
    let mut tagged = false;
    for flag in tokens(meta.flags) {
        let Some((letter, argument)) = flag.split_first().filter(|(letter, _)| relevant.contains(letter))
        else {
            continue;
        };
        if *letter == b'O' {
            tagged = true;
            unsigned(b" O", Some(tag), out);
            continue;
        }
        let untellable = || name.form == KeyForm::Base64 && meta::reply::needs_key_echo(name.bytes);
        if (*letter == b'F' && keeps_flags(meta))
            || (*letter == b'k' && meta.verb == Verb::Get && untellable())
        {
            continue;
        }
        out.extend_from_slice(&[b' ', *letter]);
        out.extend_from_slice(match letter {
            b'N' | b'R' | b'T' if argument == LONE_MINUS => b"0",
            b'C' | b'D' | b'E' | b'F' | b'J' | b'N' | b'R' | b'T' => argument,
            b'M' => argument.get(..1).unwrap_or_default(),
            _ => b"",
        });
    }
    if !tagged {
        unsigned(b" O", Some(tag), out);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends what goes alone on a lane: it takes no tag.
pub(crate) fn alone(alone: &UntaggedCommand<'_>, out: &mut Vec<u8>) {
    match alone.ask {
        Ask::Stats { group } => {
            out.extend_from_slice(b"stats");
            if !group.is_empty() {
                out.push(b' ');
                out.extend_from_slice(group);
            }
        }
        Ask::FlushAll { delay } => {
            out.extend_from_slice(b"flush_all");
            signed(b" ", delay, out);
        }
        Ask::Inspect { key, base64 } => {
            out.extend_from_slice(b"me ");
            out.extend_from_slice(key);
            // Newer memcacheds read the flag only if another word follows.
            out.extend_from_slice(if base64 { b" b b" } else { b"" });
        }
    }
    out.extend_from_slice(b"\r\n");
}

fn verb(name: &[u8], request: &Request<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    if key(request.key, out) {
        out.extend_from_slice(b" b");
    }
}

/// Appends the key; `true` when it went base64-encoded.
fn key(key: Key<'_>, out: &mut Vec<u8>) -> bool {
    if key.form == KeyForm::Raw && travels_encoded(key.bytes) {
        out.extend_from_slice(STANDARD.encode(key.bytes).as_bytes());
        return true;
    }
    out.extend_from_slice(key.bytes);
    key.form == KeyForm::Base64
}

fn wants_cas(answer: Answer) -> bool {
    match answer {
        Answer::Binary(_) => true,
        Answer::Text(TextAnswer::Value { with_cas, .. }) => with_cas,
        Answer::Text(TextAnswer::Line { .. }) | Answer::Meta(_) => false,
    }
}

fn unsigned(flag: &[u8], value: Option<u64>, out: &mut Vec<u8>) {
    if let Some(value) = value {
        out.extend_from_slice(flag);
        number::write(value, out);
    }
}

fn signed(flag: &[u8], value: Option<i32>, out: &mut Vec<u8>) {
    if let Some(value) = value {
        out.extend_from_slice(flag);
        number::write_signed(i64::from(value), out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::request::{BinaryAnswer, MetaAnswer, Store};

    const TEXT: Answer = Answer::Text(TextAnswer::Line { noreply: true });
    const GETS: Answer = Answer::Text(TextAnswer::Value { with_cas: true, last: true });
    const GET: Answer = Answer::Text(TextAnswer::Value { with_cas: false, last: true });
    const BINARY: Answer = Answer::Binary(BinaryAnswer { opcode: 0, opaque: [0; 4] });

    #[test]
    fn requests_become_tagged_meta_commands() {
        let store = |mode, cas| Command::Store(Store { mode, flags: 5, exptime: -1, cas, value: b"xyz" });
        let create = Some(Create { initial: 7, exptime: 60 });
        for (command, key, answer, expected) in [
            (Command::Get { exptime: None }, &b"a"[..], GET, "mg a v f O9\r\n"),
            (Command::Get { exptime: None }, b"a", GETS, "mg a v f c O9\r\n"),
            (Command::Get { exptime: Some(30) }, b"a", BINARY, "mg a v f c T30 O9\r\n"),
            (Command::Get { exptime: None }, b"a b", BINARY, "mg YSBi b v f c O9\r\n"),
            (Command::Get { exptime: None }, b"a\tb", GET, "mg a\tb v f O9\r\n"),
            (Command::Touch { exptime: 3 }, b"a", TEXT, "mg a T3 O9\r\n"),
            (Command::Touch { exptime: 3 }, b"a", BINARY, "mg a f c T3 O9\r\n"),
            (Command::Delete { cas: None }, b"a", TEXT, "md a O9\r\n"),
            (Command::Delete { cas: Some(4) }, b"a", BINARY, "md a C4 O9\r\n"),
            (Command::Invalidate, b"a", TEXT, "md a O9\r\n"),
            (Command::Version, b"", TEXT, "version\r\n"),
            (store(Mode::Set, None), b"a", TEXT, "ms a 3 F5 T-1 O9\r\nxyz\r\n"),
            (store(Mode::Set, Some(0)), b"a", TEXT, "ms a 3 C0 F5 T-1 O9\r\nxyz\r\n"),
            (store(Mode::Prepend, None), b"\0", BINARY, "ms AA== 3 b MP c O9\r\nxyz\r\n"),
            (
                Command::Arithmetic { decrement: true, delta: 2, create: None, cas: None },
                b"a",
                TEXT,
                "ma a D2 MD v O9\r\n",
            ),
            (
                Command::Arithmetic { decrement: false, delta: 2, create, cas: None },
                b"a",
                BINARY,
                "ma a N60 J7 D2 v c O9\r\n",
            ),
        ] {
            let mut out = Vec::new();
            let form = if answer == BINARY { KeyForm::Raw } else { KeyForm::Plain };
            let key = Key { bytes: key, form };
            request(&Request { command, key, answer }, 9, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), expected);
        }
    }

    #[test]
    fn a_callers_own_flags_pass_but_its_opaque() {
        for (verb, flags, expected) in [
            (Verb::Get, "", "mg k O9\r\n"),
            (Verb::Get, "v q k t0 O123 s", "mg k v k t O9 s\r\n"),
            (Verb::Get, "T- N-1 R30 P1 Lx F5 E7", "mg k T0 N-1 R30 E7 O9\r\n"),
            (Verb::Set, "F7 MAppend I v c", "ms k 2 MA I c O9\r\nxy\r\n"),
            (Verb::Set, "F7 MP N0", "ms k 2 F7 MP N0 O9\r\nxy\r\n"),
            (Verb::Delete, "q C5 x", "md k C5 x O9\r\n"),
            (Verb::Arithmetic, "M- D5 v", "ma k M- D5 v O9\r\n"),
        ] {
            let value = if verb == Verb::Set { &b"xy"[..] } else { b"" };
            let command = Command::Meta(Meta { verb, flags: flags.as_bytes(), value });
            let answer = Answer::Meta(MetaAnswer { verb, quiet: false });
            let mut out = Vec::new();
            request(&Request { command, key: Key::plain(b"k"), answer }, 9, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), expected);
        }
    }
}
