//! Names of tokens, API keys and certificates: labels in lists.

use crate::InputError;

/// Characters.
const LEN_MAX: usize = 60;

/// What helps if a token or an API key has no name.
const NAME_FIX: &str = "Name it after the application that will use it";

/// The name of the token that sign-up creates.
pub const FIRST_TOKEN_NAME: &str = "First token";

/// A token's name: 1 to 60 characters, at least one of them visible, no control characters.
///
/// ```
/// assert_eq!(identity::TokenName::parse(" web shop ").unwrap().as_str(), "web shop");
/// assert!(identity::TokenName::parse("a\nb").is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenName(String);

impl TokenName {
    /// Parses a name; white space around it is dropped.
    ///
    /// # Errors
    ///
    /// [`InputError`] if the name is invisible, too long or contains a control character.
    pub fn parse(text: &str) -> Result<Self, InputError> {
        parse(text, "The token has no name", NAME_FIX).map(Self)
    }

    /// That of the token that a new cache gets.
    #[must_use]
    pub fn first() -> Self {
        Self(FIRST_TOKEN_NAME.to_owned())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Parses the name of an API key, by the rules of [`TokenName`].
///
/// # Errors
///
/// [`InputError`] if the name is invisible, too long or contains a control character.
pub fn api_key_name(text: &str) -> Result<String, InputError> {
    parse(text, "The API key has no name", NAME_FIX)
}

/// What a user calls a client certificate: empty, or as a token's name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateName(String);

impl CertificateName {
    /// Parses a name; white space around it is dropped.
    ///
    /// # Errors
    ///
    /// [`InputError`] if the name is too long, contains a control character, or is not empty but invisible.
    pub fn parse(text: &str) -> Result<Self, InputError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        parse(text, "This name is invisible", "Use letters, digits and punctuation").map(Self)
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `missing` and `fix` are what to say of an invisible name.
fn parse(text: &str, missing: &str, fix: &str) -> Result<String, InputError> {
    let text = text.trim();
    if !text.chars().any(is_visible) {
        return Err(InputError::new(missing, fix));
    }
    if text.chars().count() > LEN_MAX {
        return Err(InputError::new("This name is too long", "Use at most 60 characters"));
    }
    if text.chars().any(char::is_control) {
        return Err(InputError::new(
            "This name contains a control character",
            "Use letters, digits and punctuation",
        ));
    }
    Ok(text.to_owned())
}

/// Whether a character shows: no white space, no control or format character (bidi marks, joiners, ...).
fn is_visible(c: char) -> bool {
    let is_format = matches!(c, '\u{00ad}' | '\u{061c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}');
    !c.is_whitespace() && !c.is_control() && !is_format
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_need_no_name() {
        assert_eq!(CertificateName::parse(" \t").unwrap(), CertificateName::default());
        assert_eq!(CertificateName::parse(" web-1 ").unwrap().as_str(), "web-1");
        for bad in ["\u{200b}", "a\nb", &"x".repeat(61)] {
            assert!(CertificateName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_are_visible_and_short() {
        for good in ["web", " web ", "\"><script>alert(1)</script>", "שלום", "🦀", "a\u{202e}b"] {
            assert!(TokenName::parse(good).is_ok(), "{good}");
        }
        let (longest, too_long) = ("é".repeat(60), "é".repeat(61));
        assert!(TokenName::parse(&longest).is_ok());
        for bad in ["", "   ", "\u{200b}\u{202e}", "a\nb", "a\0b", &too_long] {
            assert!(TokenName::parse(bad).is_err(), "{bad:?}");
        }
    }
}
