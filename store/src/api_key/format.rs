//! The format of API keys, that of tokens with another prefix: `mgk_<id>_<secret><check>`.

use std::fmt;

use crate::ParseTokenError;
use crate::token::format::{ID_LEN, check_secret, random_halves};

const PREFIX: &str = "mgk_";

/// The public half of an API key: 12 letters and digits. Safe to log.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ApiKeyId([u8; ID_LEN]);

/// A whole API key. `Debug` hides the secret half.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    id: ApiKeyId,
    secret: String,
}

/// Why a text is not an API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseApiKeyError {
    /// It doesn't look like an API key.
    #[error("an API key looks like mgk_<12 characters>_<33 characters>")]
    Shape,
    /// It looks like an API key, but the checksum is wrong.
    #[error("the API key is mistyped: its checksum doesn't match")]
    Checksum,
}

impl From<ParseTokenError> for ParseApiKeyError {
    fn from(error: ParseTokenError) -> Self {
        match error {
            ParseTokenError::Shape => Self::Shape,
            ParseTokenError::Checksum => Self::Checksum,
        }
    }
}

impl ApiKeyId {
    /// Parses the 12 characters, with or without `mgk_` before them.
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
}

impl ApiKey {
    /// Generates a random key.
    #[must_use]
    pub fn generate() -> Self {
        let (id, secret) = random_halves(PREFIX);
        Self { id: ApiKeyId(id), secret }
    }

    /// Parses a whole key.
    ///
    /// # Errors
    /// [`ParseApiKeyError`] if the shape or the checksum is wrong.
    pub fn parse(text: &str) -> Result<Self, ParseApiKeyError> {
        let rest = text.strip_prefix(PREFIX).ok_or(ParseApiKeyError::Shape)?;
        let (id, secret) = rest.split_once('_').ok_or(ParseApiKeyError::Shape)?;
        let id = ApiKeyId::parse(id).ok_or(ParseApiKeyError::Shape)?;
        check_secret(PREFIX, &id.0, secret)?;
        Ok(Self { id, secret: secret.to_owned() })
    }

    /// The public half.
    #[must_use]
    pub fn id(&self) -> ApiKeyId {
        self.id
    }

    /// The secret half.
    pub(super) fn secret(&self) -> &str {
        &self.secret
    }

    /// The whole key in clear text, to show it once.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}_{}", self.id, self.secret)
    }
}

impl fmt::Display for ApiKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ApiKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Token;

    #[test]
    fn generated_key_is_parsed_and_printed_without_its_secret() {
        let key = ApiKey::generate();
        let text = key.reveal();
        assert_eq!(text.len(), 50);
        assert_eq!(ApiKey::parse(&text), Ok(key.clone()));
        assert_eq!(ApiKeyId::parse(&format!("mgk_{}", key.id())), Some(key.id()));
        assert!(!format!("{key:?}").contains(key.secret()));
    }

    #[test]
    fn mistyped_and_other_credentials_are_no_keys() {
        let text = ApiKey::generate().reveal();
        for at in 0..text.len() {
            let mut typo = text.clone().into_bytes();
            typo[at] = if typo[at] == b'x' { b'y' } else { b'x' };
            assert!(ApiKey::parse(std::str::from_utf8(&typo).unwrap()).is_err(), "at {at}");
        }
        let token = Token::generate().reveal();
        assert_eq!(ApiKey::parse(&token), Err(ParseApiKeyError::Shape));
        // A token's secret has another checksum, even behind the same id.
        assert_eq!(ApiKey::parse(&token.replacen("mg_", "mgk_", 1)), Err(ParseApiKeyError::Checksum));
        assert!(Token::parse(&text).is_err());
        for text in ["", "mgk_", "mgk_abc_def", "mgk_abcdefghijkl", "mgk_abcdefghijkl_", "mgk_ä"] {
            assert_eq!(ApiKey::parse(text), Err(ParseApiKeyError::Shape), "{text}");
        }
    }
}
