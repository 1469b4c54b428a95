//! What the store keeps of a secret: enough to verify it, not enough to log in.

use std::fmt;

use pbkdf2::pbkdf2_hmac;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{ScramKeys, Token, TokenId};
use crate::TokenKey;
use crate::keys::{hex, unhex};

/// RFC 7677's minimum. More would not help, because the secret has 160 random bits.
pub(super) const SCRAM_ITERATIONS: u32 = 4096;
pub(super) const SALT_LEN: usize = 16;

/// A token's keyed hash, and SCRAM-SHA-256's stored keys (RFC 5802 section 3). All hexadecimal.
#[derive(Clone)]
pub struct Verifier {
    pub(crate) secret_hash: String,
    pub(crate) scram_salt: String,
    pub(crate) scram_iterations: i64,
    pub(crate) scram_stored_key: String,
    pub(crate) scram_server_key: String,
}

impl fmt::Debug for Verifier {
    /// Without the hash and the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier")
    }
}

impl Verifier {
    pub(crate) fn of(key: &TokenKey, token: &Token) -> Self {
        let password = token.secret().reveal();
        let keys = scram_keys(password);
        Self {
            secret_hash: hex(&secret_hash(key, &token.id(), password)),
            scram_salt: hex(&keys.salt),
            scram_iterations: i64::from(keys.iterations),
            scram_stored_key: hex(&keys.stored_key),
            scram_server_key: hex(&keys.server_key),
        }
    }
}

/// SCRAM-SHA-256's keys of a password in ASCII, with a random salt.
pub(crate) fn scram_keys(password: &str) -> ScramKeys {
    let salt: [u8; SALT_LEN] = rand::random();
    let mut salted = [0; 32];
    pbkdf2_hmac::<Sha256>(password.as_bytes(), &salt, SCRAM_ITERATIONS, &mut salted);
    ScramKeys {
        salt,
        iterations: SCRAM_ITERATIONS,
        stored_key: Sha256::digest(hmac(&salted, b"Client Key")).into(),
        server_key: hmac(&salted, b"Server Key"),
    }
}

/// Whether `stored` (64 hexadecimal digits) is the hash of `secret`, in constant time.
pub(crate) fn matches(key: &TokenKey, id: &TokenId, secret: &str, stored: &str) -> bool {
    let Some(stored) = unhex::<32>(stored.as_bytes()) else { return false };
    secret_hash(key, id, secret).ct_eq(&stored).into()
}

fn secret_hash(key: &TokenKey, id: &TokenId, secret: &str) -> [u8; 32] {
    key.hash(&["token", id.as_str(), secret])
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    use hmac::{Hmac, KeyInit, Mac};
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}
