//! Login as a pure step over bytes: no I/O, no clock. A wrong password is a value, not an error.
//!
//! [`Handshake::step`] reads what a client sends before it is known and says what to do; whether a
//! [`Credential`] is right is for `grants` to say, when to answer for `authenticator`.

pub(crate) mod outcome;
mod plain;
mod sasl;
mod scram;
mod text;

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use memchr::memmem;
use store::{ScramKeys, TokenId, TokenSecret};

use crate::protocol::Protocol;

/// Random bytes of our half of SCRAM's nonce.
pub(crate) const NONCE_LEN: usize = 18;

/// What SASL LIST answers: names separated by a space.
pub(crate) fn mechanisms(scram: bool) -> &'static [u8] {
    if scram { b"SCRAM-SHA-256 PLAIN" } else { b"PLAIN" }
}

/// What a client claims: well-formed, not yet checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Credential {
    pub(crate) id: TokenId,
    pub(crate) proof: Proof,
}

/// What it claims it with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proof {
    Secret(TokenSecret),
    /// It knows the secret that these keys were made from: the token's, if they are the token's.
    Scram(ScramKeys),
    /// SCRAM has shown that it doesn't know the secret.
    Failed,
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
    /// SCRAM's first message names somebody: [`Handshake::learn`] wants that name's keys, and then the same
    /// bytes mean more. `unavailable` is for when nobody can be looked up.
    LookUp { name: String, unavailable: Cow<'static, [u8]> },
    /// An attempt. `credential` is `None` where it can't be right.
    Attempt { consumed: usize, credential: Option<Credential>, replies: Replies },
}

/// How the outcome of an attempt is said in the protocol that it was made in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Replies {
    pub(crate) welcome: Cow<'static, [u8]>,
    pub(crate) refused: Cow<'static, [u8]>,
    /// The store is away and nobody can be checked.
    pub(crate) unavailable: Cow<'static, [u8]>,
    /// The user's plan has no connection left.
    pub(crate) full: Cow<'static, [u8]>,
}

/// How the client logged in.
pub(crate) struct Login {
    pub(crate) protocol: Protocol,
    /// Bytes received after the login.
    pub(crate) rest: Vec<u8>,
    /// The reply is sent when the session opens (`welcome`) or can't (`full`).
    pub(crate) replies: Replies,
}

/// A connection before login.
#[derive(Debug)]
pub(crate) enum Handshake {
    Text(text::Reader),
    Binary(sasl::Reader),
}

impl Handshake {
    /// `scram` says whether that is offered next to PLAIN.
    pub(crate) fn new(protocol: Protocol, scram: bool) -> Self {
        match protocol {
            Protocol::Text => Self::Text(text::Reader),
            Protocol::Binary => Self::Binary(sasl::Reader::new(scram)),
        }
    }

    /// The answer to [`Step::LookUp`], and bytes that nobody can foresee.
    pub(crate) fn learn(&mut self, keys: ScramKeys, nonce: [u8; NONCE_LEN]) {
        if let Self::Binary(reader) = self {
            reader.learn(keys, STANDARD.encode(nonce));
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

/// Who somebody says he is in words that are no credential, as far as that can be seen: the first username in them.
pub(crate) fn claimed(words: &[u8]) -> Option<TokenId> {
    /// A username, and what is behind it; how often one is looked for.
    const LEN: usize = 15;
    const TRIES: usize = 4;
    let names = memmem::find_iter(words, b"mg_").take(TRIES);
    names.filter_map(|at| words.get(at..at.saturating_add(LEN))).find_map(TokenId::parse_username)
}

impl Credential {
    /// From the two halves, as a username and a password; the whole token is a password too, if it
    /// carries the same id. An empty username is never right.
    pub(crate) fn from_pair(username: &[u8], password: &[u8]) -> Option<Self> {
        let id = TokenId::parse_username(username)?;
        let password = std::str::from_utf8(password).ok()?;
        if let Ok(token) = store::Token::parse(password) {
            return (token.id() == id).then(|| Self::secret(id, token.secret().clone()));
        }
        let secret = TokenSecret::parse(&id, password).ok()?;
        Some(Self::secret(id, secret))
    }

    /// From a whole token.
    pub(crate) fn from_token(token: &[u8]) -> Option<Self> {
        let token = store::Token::parse(std::str::from_utf8(token).ok()?).ok()?;
        Some(Self::secret(token.id(), token.secret().clone()))
    }

    fn secret(id: TokenId, secret: TokenSecret) -> Self {
        Self { id, proof: Proof::Secret(secret) }
    }
}
