//! The format of tokens: `mg_<id>_<secret><check>`, a public id, at least 160 random bits, and a checksum that
//! detects a mistyped token without a look-up. Letters and digits only, so URLs and shells need no escaping.

use std::fmt;

use rand::distr::{Alphanumeric, SampleString as _};

const PREFIX: &str = "mg_";
/// Length of the public half in bytes, without the prefix.
pub(crate) const ID_LEN: usize = 12;
/// 62^27 > 2^160.
const SECRET_LEN: usize = 27;
/// 62^6 > 2^32.
const CHECK_LEN: usize = 6;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The public half: 12 letters and digits. Safe to log.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenId([u8; ID_LEN]);

/// The secret half, checksum included: what a client sends as its password. `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenSecret(String);

/// A whole token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    id: TokenId,
    secret: TokenSecret,
}

/// Why a text is not a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseTokenError {
    /// It doesn't look like a token.
    #[error("a token looks like mg_<12 characters>_<33 characters>")]
    Shape,
    /// It looks like a token, but the checksum is wrong.
    #[error("the token is mistyped: its checksum doesn't match")]
    Checksum,
}

impl TokenId {
    /// Length of a username in bytes.
    pub const USERNAME_LEN: usize = PREFIX.len() + ID_LEN;

    /// Parses the 12 characters, with or without `mg_` before them.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let id = text.strip_prefix(PREFIX).unwrap_or(text).as_bytes();
        let id: [u8; ID_LEN] = id.try_into().ok()?;
        id.iter().all(u8::is_ascii_alphanumeric).then_some(Self(id))
    }

    /// The 12 characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// `mg_` and the id: what a client sends as its username.
    #[must_use]
    pub fn username(&self) -> String {
        format!("{PREFIX}{}", self.as_str())
    }

    /// Parses a username: exactly `mg_` and the id.
    #[must_use]
    pub fn parse_username(username: &[u8]) -> Option<Self> {
        let username = std::str::from_utf8(username).ok()?;
        username.starts_with(PREFIX).then(|| Self::parse(username)).flatten()
    }
}

impl TokenSecret {
    /// Length of a secret in bytes.
    pub const LEN: usize = SECRET_LEN + CHECK_LEN;

    /// Parses the secret half of the token `id`.
    ///
    /// # Errors
    /// [`ParseTokenError`] if the shape or the checksum is wrong.
    pub fn parse(id: &TokenId, secret: &str) -> Result<Self, ParseTokenError> {
        check_secret(PREFIX, &id.0, secret)?;
        Ok(Self(secret.to_owned()))
    }

    /// The secret in clear text, to show it once or to verify it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl Token {
    /// Length of a whole token in bytes.
    pub const LEN: usize = TokenId::USERNAME_LEN + 1 + TokenSecret::LEN;

    /// Generates a random token.
    #[must_use]
    pub fn generate() -> Self {
        let (id, secret) = random_halves(PREFIX);
        Self { id: TokenId(id), secret: TokenSecret(secret) }
    }

    /// Parses a whole token.
    ///
    /// # Errors
    /// [`ParseTokenError`] if the shape or the checksum is wrong.
    pub fn parse(text: &str) -> Result<Self, ParseTokenError> {
        let rest = text.strip_prefix(PREFIX).ok_or(ParseTokenError::Shape)?;
        let (id, secret) = rest.split_once('_').ok_or(ParseTokenError::Shape)?;
        let id = TokenId::parse(id).ok_or(ParseTokenError::Shape)?;
        let secret = TokenSecret::parse(&id, secret)?;
        Ok(Self { id, secret })
    }

    /// The public half.
    #[must_use]
    pub fn id(&self) -> TokenId {
        self.id
    }

    /// The secret half.
    #[must_use]
    pub fn secret(&self) -> &TokenSecret {
        &self.secret
    }

    /// The whole token in clear text, to show it once.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}_{}", self.id.as_str(), self.secret.reveal())
    }
}

/// A random public half, and the secret half with its checksum.
pub(crate) fn random_halves(prefix: &str) -> ([u8; ID_LEN], String) {
    let mut rng = rand::rng();
    let mut id = [0; ID_LEN];
    id.copy_from_slice(Alphanumeric.sample_string(&mut rng, ID_LEN).as_bytes());
    let mut secret = Alphanumeric.sample_string(&mut rng, SECRET_LEN);
    secret.extend(checksum(prefix, &id, &secret).map(char::from));
    (id, secret)
}

/// Checks the shape and the checksum of a secret half.
pub(crate) fn check_secret(prefix: &str, id: &[u8; ID_LEN], secret: &str) -> Result<(), ParseTokenError> {
    if secret.len() != TokenSecret::LEN || !secret.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err(ParseTokenError::Shape);
    }
    let (random, check) = secret.split_at(SECRET_LEN);
    if checksum(prefix, id, random) != check.as_bytes() {
        return Err(ParseTokenError::Checksum);
    }
    Ok(())
}

/// CRC-32 of `<prefix><id>_<secret>` in six base-62 digits.
fn checksum(prefix: &str, id: &[u8; ID_LEN], secret: &str) -> [u8; CHECK_LEN] {
    let mut crc = crc32fast::Hasher::new();
    crc.update(prefix.as_bytes());
    crc.update(id);
    crc.update(b"_");
    crc.update(secret.as_bytes());
    let mut rest = crc.finalize();
    let mut digits = [0; CHECK_LEN];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[rest as usize % BASE62.len()];
        rest /= 62;
    }
    digits
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSecret")
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_token_is_parsed() {
        let token = Token::generate();
        let text = token.reveal();
        assert_eq!((text.len(), Token::LEN), (49, 49));
        assert_eq!(Token::parse(&text), Ok(token.clone()));
        assert_eq!(TokenId::parse_username(token.id().username().as_bytes()), Some(token.id()));
        assert!(!format!("{token:?}").contains(token.secret().reveal()));
    }

    #[test]
    fn checksum_detects_every_mistyped_character() {
        let text = Token::generate().reveal();
        for at in 0..text.len() {
            let mut typo = text.clone().into_bytes();
            typo[at] = if typo[at] == b'x' { b'y' } else { b'x' };
            assert!(Token::parse(std::str::from_utf8(&typo).unwrap()).is_err(), "at {at}");
        }
    }

    #[test]
    fn other_shapes_are_rejected() {
        for text in
            ["", "mg_", "mg_abc_def", "mg_abcdefghijkl", "mg_abcdefghijkl_", "xx_abcdefghijkl_s", "mg_ä"]
        {
            assert_eq!(Token::parse(text), Err(ParseTokenError::Shape), "{text}");
        }
        assert_eq!(TokenId::parse_username(b"abcdefghijkl"), None);
    }
}
