//! Requests in the backend's dialect: memcached's meta commands, each with our tag as its opaque.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::dialect::binary::travels_encoded;
use crate::dialect::number;
use crate::request::{Answer, Command, Create, Mode, Request, Store, TextAnswer};

/// Appends `request` as memcached shall read it.
pub(super) fn request(request: &Request<'_>, tag: u64, out: &mut Vec<u8>) {
    let binary = matches!(request.answer, Answer::Binary(_));
    match &request.command {
        Command::Version => return out.extend_from_slice(b"version\r\n"),
        Command::Get { exptime } => {
            verb(b"mg ", request, out);
            out.extend_from_slice(b" v f");
            if wants_cas(request.answer) {
                out.extend_from_slice(b" c");
            }
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
        Command::Forget => verb(b"md ", request, out),
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
        Command::Store(store) => return encode_store(request, store, tag, out),
    }
    unsigned(b" O", Some(tag), out);
    out.extend_from_slice(b"\r\n");
}

fn encode_store(request: &Request<'_>, store: &Store<'_>, tag: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"ms ");
    let encoded = key(request, out);
    out.push(b' ');
    number::write_len(store.value.len(), out);
    if encoded {
        out.extend_from_slice(b" b");
    }
    unsigned(b" C", store.cas, out);
    unsigned(b" F", Some(u64::from(store.flags)), out);
    signed(b" T", Some(store.exptime), out);
    out.extend_from_slice(match store.mode {
        Mode::Set => b"",
        Mode::Add => b" ME",
        Mode::Replace => b" MR",
        Mode::Append => b" MA",
        Mode::Prepend => b" MP",
    });
    if matches!(request.answer, Answer::Binary(_)) {
        out.extend_from_slice(b" c");
    }
    unsigned(b" O", Some(tag), out);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(store.value);
    out.extend_from_slice(b"\r\n");
}

fn verb(name: &[u8], request: &Request<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    if key(request, out) {
        out.extend_from_slice(b" b");
    }
}

/// Appends the key; `true` when it went base64-encoded. Only binary keys may hold what a line can't.
fn key(request: &Request<'_>, out: &mut Vec<u8>) -> bool {
    let encoded = matches!(request.answer, Answer::Binary(_)) && travels_encoded(request.key);
    if encoded {
        out.extend_from_slice(STANDARD.encode(request.key).as_bytes());
    } else {
        out.extend_from_slice(request.key);
    }
    encoded
}

fn wants_cas(answer: Answer) -> bool {
    match answer {
        Answer::Binary(_) => true,
        Answer::Text(TextAnswer::Value { with_cas, .. }) => with_cas,
        Answer::Text(TextAnswer::Line { .. }) => false,
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
    use crate::request::BinaryAnswer;

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
            (Command::Forget, b"a", TEXT, "md a O9\r\n"),
            (Command::Version, b"", TEXT, "version\r\n"),
            (store(Mode::Set, None), b"a", TEXT, "ms a 3 F5 T-1 O9\r\nxyz\r\n"),
            (store(Mode::Set, Some(0)), b"a", TEXT, "ms a 3 C0 F5 T-1 O9\r\nxyz\r\n"),
            (store(Mode::Prepend, None), b"\0", BINARY, "ms AA== 3 b F5 T-1 MP c O9\r\nxyz\r\n"),
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
            request(&Request { command, key, answer }, 9, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), expected);
        }
    }
}
