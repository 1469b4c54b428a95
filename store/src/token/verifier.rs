//! What the store keeps of a secret: enough to verify it, not enough to log in.

use std::fmt;

use subtle::ConstantTimeEq as _;

use super::scram::scram_keys;
use super::{Token, TokenId};
use crate::TokenKey;
use crate::keys::{hex, unhex};

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

/// Whether `stored` (64 hexadecimal digits) is the hash of `secret`, in constant time.
pub(crate) fn matches(key: &TokenKey, id: &TokenId, secret: &str, stored: &str) -> bool {
    let Some(stored) = unhex::<32>(stored.as_bytes()) else { return false };
    secret_hash(key, id, secret).ct_eq(&stored).into()
}

fn secret_hash(key: &TokenKey, id: &TokenId, secret: &str) -> [u8; 32] {
    key.hash(&["token", id.as_str(), secret])
}
