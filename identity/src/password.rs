//! Account passwords: their rule, their argon2id hash, and generated ones.

use std::fmt;

use argon2::password_hash::Error as HashError;
use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher as _, PasswordVerifier as _};
use rand::distr::{Alphanumeric, SampleString as _};

use crate::InputError;

/// Characters.
const LEN_MIN: usize = 10;
/// Characters.
const LEN_MAX: usize = 256;
/// Characters of a generated password: 62^20 > 2^119.
const GENERATED_LEN: usize = 20;

/// A password of 10 to 256 characters of any kind. Its `Debug` form hides it.
///
/// ```
/// use identity::password::{self, Password};
///
/// let password = Password::parse("correct horse battery".to_owned()).unwrap();
/// let hash = password::hash(&password).unwrap();
/// assert!(password::verify("correct horse battery", &hash).unwrap());
/// assert!(!password::verify("correct horse", &hash).unwrap());
/// ```
pub struct Password(String);

impl Password {
    /// Checks the length.
    ///
    /// # Errors
    ///
    /// [`InputError`] if the password is empty, too short or too long.
    pub fn parse(text: String) -> Result<Self, InputError> {
        match text.chars().count() {
            0 => Err(InputError::new("The password is missing", "Choose one of at least 10 characters")),
            n if n < LEN_MIN => {
                Err(InputError::new("This password is too short", "Use at least 10 characters"))
            }
            n if n > LEN_MAX => {
                Err(InputError::new("This password is too long", "Use at most 256 characters"))
            }
            _ => Ok(Self(text)),
        }
    }

    /// The password itself, for showing a generated one to its user.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

/// A random password of 20 letters and digits.
#[must_use]
pub fn generate() -> Password {
    Password(Alphanumeric.sample_string(&mut rand::rng(), GENERATED_LEN))
}

/// Hashes with argon2id (19 MiB, t=2, p=1), in PHC form. Takes tens of milliseconds: never call it on an
/// async thread.
///
/// # Errors
///
/// If the system has no random numbers for the salt.
pub fn hash(password: &Password) -> Result<String, HashError> {
    Argon2::default().hash_password(password.0.as_bytes()).map(|hash| hash.to_string())
}

/// Whether `password` matches a hash in PHC form. Takes as long as [`hash`].
///
/// # Errors
///
/// If the hash can't be parsed.
pub fn verify(password: &str, hash: &str) -> Result<bool, argon2::password_hash::phc::Error> {
    let hash = PasswordHash::new(hash)?;
    Ok(Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_is_counted_in_characters() {
        for (length, good) in [(0, false), (9, false), (10, true), (256, true), (257, false)] {
            assert_eq!(Password::parse("x".repeat(length)).is_ok(), good, "{length}");
            assert_eq!(Password::parse("🦀".repeat(length)).is_ok(), good, "{length} crabs");
        }
        assert!(Password::parse("          ".into()).is_ok(), "a space is a character");
    }

    #[test]
    fn debug_hides_the_password() {
        assert_eq!(format!("{:?}", Password::parse("correct horse".into()).unwrap()), "Password");
    }

    #[test]
    fn hash_has_the_documented_parameters() {
        let hash = hash(&generate()).unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
    }

    #[test]
    fn generated_passwords_are_valid_and_differ() {
        let (one, other) = (generate(), generate());
        assert!(Password::parse(one.reveal().to_owned()).is_ok());
        assert_ne!(one.reveal(), other.reveal());
    }

    #[test]
    fn corrupt_hash_is_an_error() {
        assert!(verify("correct horse", "garbage").is_err());
    }
}
