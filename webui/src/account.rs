//! The rules for an account, for whoever makes one without the pages. The errors say what to change.

use argon2::{Argon2, PasswordHasher as _};
use rand::distr::{Alphanumeric, SampleString as _};

use crate::Error;
use crate::field::{Email, Password};

/// 62^20 > 2^119.
const MADE_LEN: usize = 20;

/// Reads an e-mail address; gives it in lower case.
pub fn parse_email(typed: &str) -> Result<String, &'static str> {
    Email::parse(typed).map(|email| email.as_str().to_owned())
}

/// Reads a new password: whether it is long enough.
pub fn check_password(typed: &str) -> Result<(), &'static str> {
    Password::parse(typed.to_owned()).map(drop)
}

/// The password's argon2id hash in PHC form, as sign-in verifies it. Takes a while: not for async threads.
pub fn hash_password(password: &str) -> Result<String, Error> {
    let hash = Argon2::default().hash_password(password.as_bytes());
    hash.map(|hash| hash.to_string()).map_err(|error| Error::Passwords(error.to_string()))
}

/// A password of letters and digits that nobody guesses.
#[must_use]
pub fn make_password() -> String {
    Alphanumeric.sample_string(&mut rand::rng(), MADE_LEN)
}
