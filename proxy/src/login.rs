//! Login as a pure step over bytes: no I/O, no clock. A wrong password is a value, not an error.
//!
//! [`Stage::step`] reads what a client sends before it is known and says what to do; whether a
//! [`Credential`] is right is for `grants` to say, when to answer for `doorman`.

mod binary;
mod sasl;
mod text;

use std::borrow::Cow;

use store::{TokenId, TokenSecret};

use crate::dialect::Dialect;

/// What SASL LIST answers: names separated by a space.
pub(crate) const MECHANISMS: &[u8] = b"PLAIN";

/// What a client claims: well-formed, not yet checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Credential {
    pub(crate) id: TokenId,
    pub(crate) secret: TokenSecret,
}

/// What the bytes before login say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing yet: more bytes, please.
    More,
    /// An answer, and the connection stays unknown.
    Answer { consumed: usize, reply: Cow<'static, [u8]> },
    /// An answer (perhaps none), and the connection ends.
    Close { reply: Cow<'static, [u8]> },
    /// An attempt. `credential` is `None` where it can't be right.
    Attempt { consumed: usize, credential: Option<Credential>, replies: Replies },
}

/// How the outcome of an attempt is said in the dialect that it was made in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Replies {
    pub(crate) welcome: Cow<'static, [u8]>,
    pub(crate) refused: Cow<'static, [u8]>,
    /// The store is away and nobody can be checked.
    pub(crate) unavailable: Cow<'static, [u8]>,
    /// The user's plan has no connection left.
    pub(crate) full: Cow<'static, [u8]>,
}

/// A connection before login.
#[derive(Debug)]
pub(crate) enum Stage {
    Text(text::Reader),
    Binary(binary::Reader),
}

impl Stage {
    pub(crate) fn new(dialect: Dialect) -> Self {
        match dialect {
            Dialect::Text => Self::Text(text::Reader),
            Dialect::Binary => Self::Binary(binary::Reader::default()),
        }
    }

    /// Reads the next thing that `input` says.
    pub(crate) fn step(&mut self, input: &[u8]) -> Step {
        match self {
            Self::Text(reader) => reader.step(input),
            Self::Binary(reader) => reader.step(input),
        }
    }

    /// The most bytes that a step may need at once.
    pub(crate) const BUFFER_MAX: usize = text::LINE_MAX + text::PAYLOAD_MAX + 64;
}

/// The credential in a `set` that a client with a known login sends again, if it is one.
pub(crate) fn resent(key: &[u8], value: &[u8]) -> Option<Credential> {
    if value.len() > text::PAYLOAD_MAX {
        return None;
    }
    match text::read_payload(key, value) {
        text::Payload::Credential(credential) => credential,
        text::Payload::Malformed => None,
    }
}

impl Credential {
    /// From the two halves, as a username and a password; the whole token is a password too, if it
    /// carries the same id. An empty username is never right.
    pub(crate) fn from_pair(username: &[u8], password: &[u8]) -> Option<Self> {
        let id = TokenId::parse_username(username)?;
        let password = std::str::from_utf8(password).ok()?;
        if let Ok(token) = store::Token::parse(password) {
            return (token.id() == id).then(|| Self { id, secret: token.secret().clone() });
        }
        let secret = TokenSecret::parse(&id, password).ok()?;
        Some(Self { id, secret })
    }

    /// From a whole token.
    pub(crate) fn from_token(token: &[u8]) -> Option<Self> {
        let token = store::Token::parse(std::str::from_utf8(token).ok()?).ok()?;
        Some(Self { id: token.id(), secret: token.secret().clone() })
    }
}
