//! Text login in the form of memcached's `-Y`, a `set` whose value is "username password", and in two further forms: the
//! whole token as value, and MemCachier's username as key and password as value.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

use super::{Credential, Replies, Step};
use crate::protocol::line::tokens;

/// Maximum length of a line before login.
pub(super) const LINE_MAX: usize = 2048;
/// Maximum length of a login's value.
pub(super) const PAYLOAD_MAX: usize = 16_384;
/// A shorter line closes the connection without a reply.
const LINE_MIN: usize = 6;

const UNAUTHENTICATED: &[u8] = b"CLIENT_ERROR unauthenticated\r\n";
const TOO_LONG: &[u8] = b"CLIENT_ERROR auth token too long\r\n";
const BAD_END: &[u8] = b"CLIENT_ERROR bad command line termination\r\n";
const BAD_FORMAT: &[u8] = b"CLIENT_ERROR bad authentication token format\r\n";
pub(crate) const FAILURE: &[u8] = b"CLIENT_ERROR authentication failure\r\n";
pub(crate) const UNAVAILABLE: &[u8] = b"SERVER_ERROR authentication unavailable\r\n";
const CONNECTION_LIMIT: &[u8] = b"SERVER_ERROR too many connections\r\n";

/// Stateless: a login is parsed once both its line and its payload have arrived.
#[derive(Debug, Default)]
pub(crate) struct Reader;

/// A parsed login value.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Payload {
    /// A known form; `None` if its credential can't be valid.
    Credential(Option<Credential>),
    /// No known form.
    Malformed,
}

impl Reader {
    #[expect(clippy::unused_self, reason = "the binary reader has state, and both have the same interface")]
    pub(super) fn step(&mut self, input: &[u8]) -> Step {
        let Some(end) = memchr(b'\n', input) else {
            return if input.len() > LINE_MAX { close(b"") } else { Step::More };
        };
        if !(LINE_MIN..=LINE_MAX).contains(&end) {
            return close(b"");
        }
        let (line, rest) = input.split_at_checked(end).unwrap_or((input, b""));
        let rest = rest.get(1..).unwrap_or_default();
        let head = end + 1;
        match read_line(line.strip_suffix(b"\r").unwrap_or(line)) {
            Line::Http => close(b""),
            Line::Other => Step::Reply { consumed: head, reply: Cow::Borrowed(UNAUTHENTICATED) },
            Line::Login { len, .. } if len > PAYLOAD_MAX => close(TOO_LONG),
            Line::Login { key, len } => {
                if let Some(payload) = rest.get(..=len).and_then(|block| block.strip_suffix(b"\n"))
                    && let payload @ Payload::Credential(Some(_)) = read_payload(key, payload)
                {
                    // Typed by hand: a client that ends its lines with LF alone.
                    return attempt(head + len + 1, payload);
                }
                let Some(block) = rest.get(..len + 2) else { return Step::More };
                let consumed = head + len + 2;
                match block.strip_suffix(b"\r\n") {
                    Some(payload) => attempt(consumed, read_payload(key, payload)),
                    None => Step::Reply { consumed, reply: Cow::Borrowed(BAD_END) },
                }
            }
        }
    }
}

enum Line<'a> {
    Login { key: &'a [u8], len: usize },
    Http,
    Other,
}

/// Accepts exactly `set <any> <any> <any> <length> [noreply]`.
fn read_line(line: &[u8]) -> Line<'_> {
    if tokens(line).last().is_some_and(|word| word.starts_with(b"HTTP/")) {
        return Line::Http;
    }
    let mut words = tokens(line).filter(|_| line.starts_with(b"set "));
    let (Some(b"set"), Some(key), Some(_), Some(_), Some(len)) =
        (words.next(), words.next(), words.next(), words.next(), words.next())
    else {
        return Line::Other;
    };
    let noreply = words.next();
    let is_complete = noreply.is_none_or(|word| word == b"noreply") && words.next().is_none();
    match crate::protocol::length(len) {
        Some(len) if is_complete && memchr2(0, b'\r', line).is_none() => Line::Login { key, len },
        _ => Line::Other,
    }
}

/// Tries the forms in the order that docs/protocol.md fixes: pair, MemCachier's form, whole token.
pub(super) fn read_payload(key: &[u8], payload: &[u8]) -> Payload {
    if let Some(space) = memchr(b' ', payload) {
        let (username, password) = payload.split_at_checked(space).unwrap_or((payload, b""));
        return Payload::Credential(Credential::from_pair(username, password.get(1..).unwrap_or_default()));
    }
    if store::TokenId::parse_username(key).is_some() {
        return Payload::Credential(Credential::from_pair(key, payload));
    }
    if payload.starts_with(b"mg_") {
        return Payload::Credential(Credential::from_token(payload));
    }
    Payload::Malformed
}

fn attempt(consumed: usize, payload: Payload) -> Step {
    let (credential, denied) = match payload {
        Payload::Credential(credential) => (credential, FAILURE),
        Payload::Malformed => (None, BAD_FORMAT),
    };
    let replies = Replies {
        success: Cow::Borrowed(b"STORED\r\n"),
        denied: Cow::Borrowed(denied),
        unavailable: Cow::Borrowed(UNAVAILABLE),
        connection_limit: Cow::Borrowed(CONNECTION_LIMIT),
    };
    Step::Attempt { consumed, credential, replies }
}

fn close(reply: &'static [u8]) -> Step {
    Step::Close { reply: Cow::Borrowed(reply) }
}

#[cfg(test)]
mod tests {
    use store::Token;

    use super::*;

    fn describe(input: &[u8]) -> String {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        match Reader.step(input) {
            Step::More => "more".into(),
            Step::Reply { consumed, reply } => format!("reply {} [{consumed}]", text(&reply)),
            Step::Close { reply } => format!("close {}", text(&reply)),
            Step::LookUp { .. } => "look up".into(),
            Step::Attempt { credential: Some(_), .. } => "attempt".into(),
            Step::Attempt { credential: None, replies, .. } => format!("deny {}", text(&replies.denied)),
        }
    }

    // B-1, S-13.
    #[test]
    fn lines_before_login() {
        let unauthenticated = "reply CLIENT_ERROR unauthenticated";
        for (input, expected) in [
            ("get a\r\n", format!("{unauthenticated} [7]")),
            ("version\r\n", format!("{unauthenticated} [9]")),
            ("add x 0 0 9\r\n", format!("{unauthenticated} [13]")),
            ("quit\r\n", "close ".into()),
            ("mn\r\n", "close ".into()),
            ("\r\n", "close ".into()),
            ("GET / HTTP/1.1\r\n", "close ".into()),
            ("set x 0 0 -1\r\n", format!("{unauthenticated} [14]")),
            ("set x 0 9\r\n", format!("{unauthenticated} [11]")),
            ("set x 0 0 4294967305\r\n", format!("{unauthenticated} [22]")),
            ("set x 0 0 9 noreplx\r\n", format!("{unauthenticated} [21]")),
            ("setfoo x 0 0 9\r\n", format!("{unauthenticated} [16]")),
            (" set x 0 0 9\r\n", format!("{unauthenticated} [14]")),
            ("set x 0 0 16385\r\n", "close CLIENT_ERROR auth token too long".into()),
            ("set x 0 0 9\r\nuser pas", "more".into()),
            ("set x 0 0 9\r\nuser passXX", "reply CLIENT_ERROR bad command line termination [24]".into()),
            // A bare LF is no end, except behind a token.
            ("set x 0 0 9\nuser pass\n", "more".into()),
            ("set x 0 0 9\nuser pass\nX", "reply CLIENT_ERROR bad command line termination [23]".into()),
            ("set x 0 0 9\r\nuser pass\r\n", "deny CLIENT_ERROR authentication failure".into()),
            ("set x y z 9 noreply\nuser pass\r\n", "deny CLIENT_ERROR authentication failure".into()),
            ("set x 0 0 8\r\nuserpass\r\n", "deny CLIENT_ERROR bad authentication token format".into()),
            ("set x 0 0 5\r\n pass\r\n", "deny CLIENT_ERROR authentication failure".into()),
            ("set x 0 0 6\r\nmg_abc\r\n", "deny CLIENT_ERROR authentication failure".into()),
        ] {
            assert_eq!(describe(input.as_bytes()), expected, "{input:?}");
        }
        assert_eq!(describe(&[b'x'; 2049]), "close ");
    }

    #[test]
    fn a_token_logs_in_by_every_form() {
        let token = Token::generate();
        let (user, password, whole) =
            (token.id().username(), token.secret().reveal().to_owned(), token.reveal());
        for (key, payload) in [
            ("x", format!("{user} {password}")),
            ("x", format!("{user} {whole}")),
            ("x", whole.clone()),
            (&user, password.clone()),
            (&user, whole.clone()),
        ] {
            for (line_end, end) in [("\r\n", "\r\n"), ("\n", "\n"), ("\r\n", "\nget a\n")] {
                let login = format!("set {key} 0 0 {}{line_end}{payload}{end}", payload.len());
                assert_eq!(describe(login.as_bytes()), "attempt", "{key}");
            }
        }
        let other = Token::generate().reveal();
        for payload in [format!("{user} {other}"), format!("{password} {user}"), format!(" {whole}")] {
            let login = format!("set x 0 0 {}\r\n{payload}\r\n", payload.len());
            assert_eq!(describe(login.as_bytes()), "deny CLIENT_ERROR authentication failure");
        }
    }
}
