//! SASL SCRAM-SHA-256 (RFC 5802, RFC 7677) over stored keys, without channel binding.
//!
//! The `sasl` crate's SCRAM rejects ordinary clients (gs2 flag `n`) and needs the salted password, which is equivalent to
//! the password.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sasl::common::Identity;
use sasl::server::{Mechanism, MechanismError, Response};
use sha2::{Digest as _, Sha256};
use store::ScramKeys;
use subtle::ConstantTimeEq as _;

/// The mechanism's name.
pub(super) const NAME: &str = "SCRAM-SHA-256";
/// RFC 5802 sets no limit; real messages are far shorter. The first message is kept until the exchange ends.
const MESSAGE_MAX: usize = 1024;

/// An exchange: its first message is well-formed, and the keys of its name are known.
#[derive(Debug)]
pub(super) struct Scram {
    name: String,
    keys: ScramKeys,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Expects the client's first message.
    First {
        nonce: String,
    },
    /// Expects the client's proof.
    Final {
        gs2_header: Vec<u8>,
        nonce: Vec<u8>,
        first_bare: Vec<u8>,
        server_first: Vec<u8>,
    },
    /// The proof was valid and the server's proof is sent. An empty message ends the exchange.
    Proven,
    Over,
}

/// The client's first message.
#[derive(Debug, PartialEq, Eq)]
struct First<'a> {
    /// Including its last comma.
    gs2_header: &'a [u8],
    /// The part after the header.
    bare: &'a [u8],
    name: String,
    nonce: &'a [u8],
}

/// The client's last message.
#[derive(Debug, PartialEq, Eq)]
struct Last<'a> {
    /// Everything before `,p=`.
    without_proof: &'a [u8],
    /// The first message's header, repeated and decoded.
    gs2_header: Vec<u8>,
    nonce: &'a [u8],
    proof: [u8; 32],
}

/// The name in a well-formed first message.
pub(super) fn name_of(message: &[u8]) -> Option<String> {
    First::read(message).map(|first| first.name)
}

impl Scram {
    /// Starts an exchange for `name` with that name's `keys`. `nonce` must be printable and never used before.
    pub(super) fn new(name: String, keys: ScramKeys, nonce: String) -> Self {
        Self { name, keys, state: State::First { nonce } }
    }

    /// The name that the client claims.
    pub(super) fn user(&self) -> &str {
        &self.name
    }

    /// The keys against which the proof was checked.
    pub(super) fn into_keys(self) -> ScramKeys {
        self.keys
    }

    fn challenge(&mut self, nonce: &str, message: &[u8]) -> Option<Vec<u8>> {
        let first = First::read(message).filter(|first| first.name == self.name)?;
        let nonce = [first.nonce, nonce.as_bytes()].concat();
        let (salt, count) = (STANDARD.encode(self.keys.salt), self.keys.iterations);
        let server_first = [b"r=", &nonce[..], format!(",s={salt},i={count}").as_bytes()].concat();
        self.state = State::Final {
            gs2_header: first.gs2_header.to_vec(),
            nonce,
            first_bare: first.bare.to_vec(),
            server_first: server_first.clone(),
        };
        Some(server_first)
    }

    /// The server's proof, if the client's is valid. Takes constant time.
    fn check(&self, last: &Last<'_>, first_bare: &[u8], server_first: &[u8]) -> Option<Vec<u8>> {
        let parts = [first_bare, b",", server_first, b",", last.without_proof];
        let signature = hmac(&self.keys.stored_key, &parts);
        let mut client_key = last.proof;
        client_key.iter_mut().zip(signature).for_each(|(byte, mask)| *byte ^= mask);
        let is_valid: bool = Sha256::digest(client_key).ct_eq(&self.keys.stored_key).into();
        let proof = STANDARD.encode(hmac(&self.keys.server_key, &parts));
        is_valid.then(|| [b"v=", proof.as_bytes()].concat())
    }
}

impl Mechanism for Scram {
    fn name(&self) -> &str {
        NAME
    }

    /// An error ends the exchange.
    fn respond(&mut self, message: &[u8]) -> Result<Response, MechanismError> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::First { nonce } => {
                let challenge = self.challenge(&nonce, message);
                challenge.map(Response::Proceed).ok_or(MechanismError::CannotDecodeInitialMessage)
            }
            State::Final { gs2_header, nonce, first_bare, server_first } => {
                let last = Last::read(message).ok_or(MechanismError::CannotDecodeResponse)?;
                let proof = self.check(&last, &first_bare, &server_first);
                let proof = proof.filter(|_| last.gs2_header == gs2_header && last.nonce == nonce);
                let proof = proof.ok_or(MechanismError::AuthenticationFailed)?;
                self.state = State::Proven;
                Ok(Response::Proceed(proof))
            }
            State::Proven if message.is_empty() => {
                Ok(Response::Success(Identity::Username(self.name.clone()), Vec::new()))
            }
            State::Proven => Err(MechanismError::CannotDecodeResponse),
            State::Over => Err(MechanismError::SaslSessionAlreadyOver),
        }
    }
}

impl<'a> First<'a> {
    /// `n,a=name,n=name,r=nonce`, where `n` may be `y` and `a=name` may be missing.
    fn read(message: &'a [u8]) -> Option<Self> {
        if message.len() > MESSAGE_MAX {
            return None;
        }
        let mut fields = message.splitn(3, |byte| *byte == b',');
        let (flag, authzid, bare) = (fields.next()?, fields.next()?, fields.next()?);
        if !matches!(flag, b"n" | b"y") {
            return None;
        }
        let gs2_header = message.get(..message.len() - bare.len())?;
        let mut fields = bare.split(|byte| *byte == b',');
        let name = sasl_name(fields.next()?.strip_prefix(b"n=")?)?;
        let nonce = fields.next()?.strip_prefix(b"r=").filter(|nonce| is_nonce(nonce))?;
        let is_own_identity = match authzid.strip_prefix(b"a=") {
            Some(authzid) => sasl_name(authzid)? == name,
            None => authzid.is_empty(),
        };
        (is_own_identity && fields.all(is_extension)).then_some(Self { gs2_header, bare, name, nonce })
    }
}

impl<'a> Last<'a> {
    /// `c=gs2-header,r=nonce,p=proof`
    fn read(message: &'a [u8]) -> Option<Self> {
        if message.len() > MESSAGE_MAX {
            return None;
        }
        let comma = memchr::memrchr(b',', message)?;
        let (without_proof, proof) = message.split_at_checked(comma)?;
        let proof = STANDARD.decode(proof.strip_prefix(b",p=")?).ok()?.try_into().ok()?;
        let mut fields = without_proof.split(|byte| *byte == b',');
        let gs2_header = STANDARD.decode(fields.next()?.strip_prefix(b"c=")?).ok()?;
        let nonce = fields.next()?.strip_prefix(b"r=").filter(|nonce| is_nonce(nonce))?;
        fields.all(is_extension).then_some(Self { without_proof, gs2_header, nonce, proof })
    }
}

/// Unescapes a name: `=2C` is a comma, `=3D` an equals sign; other escapes are invalid.
fn sasl_name(escaped: &[u8]) -> Option<String> {
    let mut parts = std::str::from_utf8(escaped).ok()?.split('=');
    let mut name = parts.next()?.to_owned();
    for part in parts {
        let rest = if let Some(rest) = part.strip_prefix("2C") {
            name.push(',');
            rest
        } else {
            name.push('=');
            part.strip_prefix("3D")?
        };
        name.push_str(rest);
    }
    (!name.is_empty() && !name.contains('\0')).then_some(name)
}

/// Printable characters except the comma.
fn is_nonce(nonce: &[u8]) -> bool {
    !nonce.is_empty() && nonce.iter().all(|byte| byte.is_ascii_graphic() && *byte != b',')
}

/// An optional extension `x=value`: not `m`, which is mandatory, nor any other attribute of SCRAM.
fn is_extension(field: &[u8]) -> bool {
    let [name, b'=', value @ ..] = field else { return false };
    let free = name.is_ascii_alphabetic() && !b"anmrcsipve".contains(name);
    free && !value.is_empty() && !value.contains(&0) && std::str::from_utf8(value).is_ok()
}

fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    // A key shorter than a block is padded with zeros.
    let mut block = [0; 64];
    block.iter_mut().zip(key).for_each(|(byte, key)| *byte = *key);
    let mut mac = Hmac::<Sha256>::new(&block.into());
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests;
