//! Encodes requests for memcached: meta commands that carry our tag as their opaque.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::protocol::line::tokens;
use crate::protocol::meta::{
    self,
    flags::{self, Argument, Flag, letter},
};
use crate::protocol::number::{self, LONE_MINUS};
use crate::protocol::request::{
    Command, Create, Key, KeyForm, Meta, Mode, ReplyFormat, Request, TextFormat, UntaggedCommand,
    UntaggedKind, Verb, needs_base64,
};

/// Appends `request` with its value.
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

/// Appends the line of `request`; a store's value of `len` bytes must follow.
pub(crate) fn line(request: &Request<'_>, len: usize, tag: u64, out: &mut Vec<u8>) {
    let binary = matches!(request.format, ReplyFormat::Binary(_));
    match &request.command {
        Command::Version => return out.extend_from_slice(b"version\r\n"),
        Command::Get { exptime } => {
            verb(b"mg ", request, out);
            out.extend_from_slice(if wants_cas(request.format) { b" v f c" } else { b" v f" });
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

/// Whether a store keeps the client flags of the stored item, so that its own must not be sent: memcached
/// would read a chunked item whose flags make it that long as if it weren't chunked, and append the bytes
/// behind it to the value.
fn keeps_flags(meta: &Meta<'_>) -> bool {
    let extends = tokens(meta.flags).any(|flag| flag.starts_with(b"MA") || flag.starts_with(b"MP"));
    meta.verb == Verb::Set && extends && !flags::contains(meta.flags, letter::VIVIFY)
}

/// Appends a client's own meta command: the valid flags that its verb takes, with our tag in place of the
/// opaque. Flags that only newer versions of memcached know have been refused before.
fn meta_line(key: Key<'_>, meta: &Meta<'_>, len: usize, tag: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(match meta.verb {
        Verb::Get => b"mg ",
        Verb::Set => b"ms ",
        Verb::Delete => b"md ",
        Verb::Arithmetic => b"ma ",
    });
    out.extend_from_slice(key.bytes);
    if meta.verb == Verb::Set {
        out.push(b' ');
        number::write_len(len, out);
    }
    let mut tagged = false;
    for word in tokens(meta.flags) {
        let (Some(flag), Some((_, argument))) = (Flag::of(word), word.split_first()) else { continue };
        if !flag.verbs.contains(&meta.verb) || is_withheld(flag.letter, key, meta) {
            continue;
        }
        out.extend_from_slice(&[b' ', flag.letter]);
        match flag.argument {
            Argument::Opaque => {
                tagged = true;
                number::write(tag, out);
            }
            Argument::Exptime if argument == LONE_MINUS => out.push(b'0'),
            Argument::Exptime
            | Argument::Cas
            | Argument::Initial
            | Argument::Delta
            | Argument::ClientFlags => out.extend_from_slice(argument),
            Argument::Mode => out.extend_from_slice(argument.get(..1).unwrap_or_default()),
            Argument::None | Argument::Base64Key | Argument::Quiet | Argument::ReplyOnly => {}
        }
    }
    if !tagged {
        unsigned(b" O", Some(tag), out);
    }
    out.extend_from_slice(b"\r\n");
}

/// Whether a flag is not sent although its verb takes it.
fn is_withheld(letter: u8, key: Key<'_>, meta: &Meta<'_>) -> bool {
    match letter {
        letter::CLIENT_FLAGS => keeps_flags(meta),
        letter::KEY => {
            let encoded = meta.verb == Verb::Get && key.form == KeyForm::Base64;
            encoded && meta::reply::needs_key_echo(key.bytes)
        }
        _ => false,
    }
}

/// Appends a command that carries no tag (L-3).
pub(crate) fn untagged(command: &UntaggedCommand<'_>, out: &mut Vec<u8>) {
    match command.kind {
        UntaggedKind::Stats { group } => {
            out.extend_from_slice(b"stats");
            if !group.is_empty() {
                out.push(b' ');
                out.extend_from_slice(group);
            }
        }
        UntaggedKind::FlushAll { delay } => {
            out.extend_from_slice(b"flush_all");
            signed(b" ", delay, out);
        }
        UntaggedKind::Inspect { key, base64 } => {
            out.extend_from_slice(b"me ");
            out.extend_from_slice(key);
            // Newer versions of memcached read the flag only if another word follows.
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

/// Appends the key; returns whether it is base64-encoded.
fn key(key: Key<'_>, out: &mut Vec<u8>) -> bool {
    if key.form == KeyForm::Raw && needs_base64(key.bytes) {
        out.extend_from_slice(STANDARD.encode(key.bytes).as_bytes());
        return true;
    }
    out.extend_from_slice(key.bytes);
    key.form == KeyForm::Base64
}

fn wants_cas(format: ReplyFormat) -> bool {
    match format {
        ReplyFormat::Binary(_) => true,
        ReplyFormat::Text(TextFormat::Value { with_cas, .. }) => with_cas,
        ReplyFormat::Text(TextFormat::Line { .. }) | ReplyFormat::Meta(_) => false,
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
    use crate::protocol::request::{BinaryFormat, MetaFormat, Store};

    const TEXT: ReplyFormat = ReplyFormat::Text(TextFormat::Line { noreply: true });
    const GETS: ReplyFormat = ReplyFormat::Text(TextFormat::Value { with_cas: true, last: true });
    const GET: ReplyFormat = ReplyFormat::Text(TextFormat::Value { with_cas: false, last: true });
    const BINARY: ReplyFormat = ReplyFormat::Binary(BinaryFormat { opcode: 0, opaque: [0; 4] });

    // L-1, T-4, T-5.
    #[test]
    fn requests_become_tagged_meta_commands() {
        let store = |mode, cas| Command::Store(Store { mode, flags: 5, exptime: -1, cas, value: b"xyz" });
        let create = Some(Create { initial: 7, exptime: 60 });
        for (command, key, format, expected) in [
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
            let form = if format == BINARY { KeyForm::Raw } else { KeyForm::Plain };
            let key = Key { bytes: key, form };
            request(&Request { command, key, format }, 9, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), expected);
        }
    }

    // T-8.
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
            let format = ReplyFormat::Meta(MetaFormat { verb, quiet: false });
            let mut out = Vec::new();
            request(&Request { command, key: Key::plain(b"k"), format }, 9, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), expected);
        }
    }
}
