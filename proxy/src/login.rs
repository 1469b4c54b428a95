//! Login as a pure step over bytes: no I/O, no clock. A wrong password is a value, not an error.
//!
//! [`Handshake::step`] parses what a client sends before login and returns what to do next. `grants` decides whether a
//! [`Credential`] is valid, `auth` when to reply.

pub(crate) mod outcome;
mod plain;
mod sasl;
mod scram;
mod text;

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use memchr::memmem;
use store::{ScramKeys, Token, TokenId, TokenSecret};

use crate::protocol::Protocol;
pub(crate) use text::{FAILURE, UNAVAILABLE};

/// Length of the server's half of SCRAM's nonce, in bytes.
pub(crate) const NONCE_LEN: usize = 18;

/// The reply to SASL LIST: names separated by a space.
pub(crate) fn mechanisms(scram: bool) -> &'static [u8] {
    if scram { b"SCRAM-SHA-256 PLAIN" } else { b"PLAIN" }
}

/// A well-formed credential, not yet checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Credential {
    pub(crate) id: TokenId,
    pub(crate) proof: Proof,
}

/// The proof that a client offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proof {
    Secret(TokenSecret),
    /// The client has proved to SCRAM that it knows the secret of these keys; valid if they are the token's.
    Scram(ScramKeys),
    /// The client's SCRAM proof was wrong.
    Failed,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Read more bytes.
    More,
    /// Reply; the connection stays unauthenticated.
    Reply { consumed: usize, reply: Cow<'static, [u8]> },
    /// Reply (perhaps with nothing), then close.
    Close { reply: Cow<'static, [u8]> },
    /// SCRAM's first message names a user: call [`Handshake::provide_keys`] with that name's keys, then step again over
    /// the same bytes. `unavailable` is the reply if the keys can't be looked up.
    LookUp { name: String, unavailable: Cow<'static, [u8]> },
    /// Check a credential; `None` if the attempt can't be valid.
    Attempt { consumed: usize, credential: Option<Credential>, replies: Replies },
}

/// The replies to an attempt, in its protocol.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Replies {
    pub(crate) success: Cow<'static, [u8]>,
    pub(crate) denied: Cow<'static, [u8]>,
    /// The store is unavailable.
    pub(crate) unavailable: Cow<'static, [u8]>,
    /// The plan's connection limit is reached.
    pub(crate) connection_limit: Cow<'static, [u8]>,
}

/// How the client logged in.
pub(crate) struct Login {
    pub(crate) protocol: Protocol,
    /// Bytes received after the login.
    pub(crate) rest: Vec<u8>,
    /// The reply is sent when the session opens (`success`) or can't (`connection_limit`).
    pub(crate) replies: Replies,
}

/// The login dialogue of one connection.
#[derive(Debug)]
pub(crate) enum Handshake {
    Text(text::Reader),
    Binary(sasl::Reader),
}

impl Handshake {
    /// `scram`: whether SCRAM-SHA-256 is offered.
    pub(crate) fn new(protocol: Protocol, scram: bool) -> Self {
        match protocol {
            Protocol::Text => Self::Text(text::Reader),
            Protocol::Binary => Self::Binary(sasl::Reader::new(scram)),
        }
    }

    /// Answers [`Step::LookUp`] with the name's keys and random bytes.
    pub(crate) fn provide_keys(&mut self, keys: ScramKeys, nonce: [u8; NONCE_LEN]) {
        if let Self::Binary(reader) = self {
            reader.provide_keys(keys, STANDARD.encode(nonce));
        }
    }

    /// Parses the next message in `input`.
    pub(crate) fn step(&mut self, input: &[u8]) -> Step {
        match self {
            Self::Text(reader) => reader.step(input),
            Self::Binary(reader) => reader.step(input),
        }
    }

    /// The most bytes that one step needs.
    pub(crate) const BUFFER_MAX: usize = text::LINE_MAX + text::PAYLOAD_MAX + 64;
}

/// The credential in a `set` on an authenticated connection, if its value is a well-formed one with a valid checksum: a
/// login that the client sends again, or another one's (D-11, D-14).
pub(crate) fn parse_relogin(key: &[u8], value: &[u8]) -> Option<Credential> {
    // A secret alone, with the username as key; a whole token, or a pair, which is as long; a pair with the whole token as
    // password. Nearly every other value ends here.
    const LONG_PAIR_LEN: usize = TokenId::USERNAME_LEN + 1 + Token::LEN;
    if !matches!(value.len(), TokenSecret::LEN | Token::LEN | LONG_PAIR_LEN) {
        return None;
    }
    match text::read_payload(key, value) {
        text::Payload::Credential(credential) => credential,
        text::Payload::Malformed => None,
    }
}

/// Searches a malformed login for a username, so that the token's owner can be told. Returns the first one.
pub(crate) fn find_username(input: &[u8]) -> Option<TokenId> {
    const CANDIDATES_MAX: usize = 4;
    let names = memmem::find_iter(input, b"mg_").take(CANDIDATES_MAX);
    names
        .filter_map(|at| input.get(at..at.saturating_add(TokenId::USERNAME_LEN)))
        .find_map(TokenId::parse_username)
}

impl Credential {
    /// From a username and a password. The whole token is accepted as the password too if it carries the same id. An
    /// empty username is never valid.
    pub(crate) fn from_pair(username: &[u8], password: &[u8]) -> Option<Self> {
        let id = TokenId::parse_username(username)?;
        let password = std::str::from_utf8(password).ok()?;
        if let Ok(token) = Token::parse(password) {
            return (token.id() == id).then(|| Self::secret(id, token.secret().clone()));
        }
        let secret = TokenSecret::parse(&id, password).ok()?;
        Some(Self::secret(id, secret))
    }

    /// From a whole token.
    pub(crate) fn from_token(token: &[u8]) -> Option<Self> {
        let token = Token::parse(std::str::from_utf8(token).ok()?).ok()?;
        Some(Self::secret(token.id(), token.secret().clone()))
    }

    fn secret(id: TokenId, secret: TokenSecret) -> Self {
        Self { id, proof: Proof::Secret(secret) }
    }
}
