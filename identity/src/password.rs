//! Account passwords: their rule, their argon2id hash, and generated ones.

use std::fmt;

use argon2::password_hash::Error as HashError;
use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use rand::distr::{Alphanumeric, SampleString as _};

use crate::InputError;

/// Characters.
const LEN_MIN: usize = 10;
/// Characters.
const LEN_MAX: usize = 256;
/// KiB that verifying a hash may need: four times what [`hash`] does.
const MEMORY_MAX_KIB: u32 = 4 * Params::DEFAULT_M_COST;
/// KiB that it may fill in all passes together, which is its time: four times what [`hash`] does.
const WORK_MAX_KIB: u64 = 4 * Params::DEFAULT_M_COST as u64 * Params::DEFAULT_T_COST as u64;
/// Passes over the memory. Each costs something, however little memory there is.
const PASSES_MAX: u32 = 16;
/// Lanes of the memory.
const LANES_MAX: u32 = 4;
/// Characters of a generated password: 62^20 > 2^119.
const GENERATED_LEN: usize = 20;

/// A password of 10 to 256 characters of any kind. Its `Debug` form hides it.
///
/// ```
/// use identity::password::{self, Password};
///
/// let password = Password::parse("correct horse battery".to_owned()).unwrap();
/// let memory = &mut password::HashMemory::default();
/// let hash = password::hash(&password, memory).unwrap();
/// assert!(password::verify("correct horse battery", &hash, memory).unwrap());
/// assert!(!password::verify("correct horse", &hash, memory).unwrap());
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

/// The 19 MiB that a hash needs. A thread that hashes often keeps them: allocated each time, between smaller
/// things, they would leave holes.
#[derive(Debug, Default)]
pub struct HashMemory(Vec<Block>);

impl HashMemory {
    fn blocks(&mut self, params: &Params) -> &mut [Block] {
        let needed = params.block_count();
        if self.0.len() < needed {
            self.0.resize(needed, Block::new());
        }
        &mut self.0
    }
}

/// Hashes with argon2id (19 MiB, t=2, p=1), in PHC form. Takes tens of milliseconds: never call it on an
/// async thread.
///
/// # Errors
///
/// If the salt or the parameters can't be written, which doesn't happen.
pub fn hash(password: &Password, memory: &mut HashMemory) -> Result<String, HashError> {
    let params = Params::default();
    let salt = Salt::new(&rand::random::<[u8; Salt::RECOMMENDED_LENGTH]>())?;
    let mut output = [0; Params::DEFAULT_OUTPUT_LEN];
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
    let blocks = memory.blocks(&params);
    argon2.hash_password_into_with_memory(password.0.as_bytes(), &salt, &mut output, blocks)?;
    let hash = PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(&params)?,
        salt: Some(salt),
        hash: Some(Output::new(&output)?),
    };
    Ok(hash.to_string())
}

/// Whether `password` matches a hash in PHC form. Takes as long as [`hash`], and four times as long at most.
///
/// # Errors
///
/// If the hash can't be parsed, isn't of argon2, or needs too much memory or time.
pub fn verify(password: &str, hash: &str, memory: &mut HashMemory) -> Result<bool, HashError> {
    let hash = PasswordHash::new(hash)?;
    let (Some(salt), Some(expected)) = (&hash.salt, &hash.hash) else {
        return Err(HashError::EncodingInvalid);
    };
    let algorithm = Algorithm::try_from(hash.algorithm.as_str())?;
    let version = hash.version.map_or(Ok(Version::V0x13), Version::try_from)?;
    let params = Params::try_from(&hash)?;
    if !is_bounded(&params) {
        return Err(HashError::ParamsInvalid);
    }
    let blocks = memory.blocks(&params);
    let mut buffer = [0; Output::MAX_LENGTH];
    let output = buffer.get_mut(..expected.len()).ok_or(HashError::OutputSize)?;
    let argon2 = Argon2::new(algorithm, version, params);
    argon2.hash_password_into_with_memory(password.as_bytes(), salt, output, blocks)?;
    // Compares in constant time.
    Ok(Output::new(output)? == *expected)
}

/// Whether parameters that are read from the store cost little enough.
fn is_bounded(params: &Params) -> bool {
    let work = u64::from(params.m_cost()).saturating_mul(params.t_cost().into());
    params.m_cost() <= MEMORY_MAX_KIB
        && work <= WORK_MAX_KIB
        && params.t_cost() <= PASSES_MAX
        && params.p_cost() <= LANES_MAX
}

#[cfg(test)]
mod tests {
    use argon2::{PasswordHasher as _, PasswordVerifier as _};

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
        let hash = hash(&generate(), &mut HashMemory::default()).unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
    }

    #[test]
    fn generated_passwords_are_valid_and_differ() {
        let (one, other) = (generate(), generate());
        assert!(Password::parse(one.reveal().to_owned()).is_ok());
        assert_ne!(one.reveal(), other.reveal());
    }

    #[test]
    fn used_memory_leaves_no_trace() {
        let memory = &mut HashMemory::default();
        let (one, other) = (generate(), generate());
        let hashes = [hash(&one, memory).unwrap(), hash(&other, memory).unwrap()];
        assert!(verify(one.reveal(), &hashes[0], &mut HashMemory::default()).unwrap());
        assert!(verify(other.reveal(), &hashes[1], memory).unwrap());
        assert!(!verify(one.reveal(), &hashes[1], memory).unwrap());
    }

    #[test]
    fn hashes_are_those_of_the_library() {
        let (memory, password) = (&mut HashMemory::default(), generate());
        let ours = hash(&password, memory).unwrap();
        assert!(Argon2::default().verify_password(password.reveal().as_bytes(), ours.as_str()).is_ok());
        let theirs = Argon2::default().hash_password(password.reveal().as_bytes()).unwrap().to_string();
        assert!(verify(password.reveal(), &theirs, memory).unwrap());
    }

    // R-43, R-23: who writes the store's file holds up no thread for ever.
    #[test]
    fn hash_that_would_take_long_is_an_error() {
        let tail = "c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA";
        let verified = |params: &str| {
            verify("correct horse", &format!("$argon2id$v=19${params}${tail}"), &mut HashMemory::default())
        };
        for costly in [
            "m=19456,t=4294967295,p=1",
            "m=8,t=4294967295,p=1",
            "m=8,t=17,p=1",
            "m=19456,t=9,p=1",
            "m=77824,t=3,p=1",
            "m=77825,t=1,p=1",
            "m=4000,t=2,p=5",
            "m=19456,t=2,p=16777215",
        ] {
            assert!(verified(costly).is_err(), "{costly}");
        }
        for usual in ["m=19456,t=2,p=1", "m=47104,t=1,p=1", "m=7168,t=5,p=1", "m=8192,t=3,p=4"] {
            assert!(!verified(usual).unwrap(), "{usual}");
        }
    }

    #[test]
    fn corrupt_hash_is_an_error() {
        let huge = "$argon2id$v=19$m=4000000000,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA";
        for corrupt in ["garbage", "", "$argon2id$v=19$m=19456,t=2,p=1", huge] {
            assert!(verify("correct horse", corrupt, &mut HashMemory::default()).is_err(), "{corrupt}");
        }
    }
}
