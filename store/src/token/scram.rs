//! A token's keys for SCRAM-SHA-256 (RFC 5802 section 3). The secret can't be derived from them.

use std::fmt;

use pbkdf2::pbkdf2_hmac;
use sha2::{Digest as _, Sha256};

use crate::TokenKey;
use crate::keys::unhex;

/// RFC 7677's minimum. More would not help, because the secrets are random: 160 bits and more.
const SCRAM_ITERATIONS: u32 = 4096;
const SALT_LEN: usize = 16;

/// The keys of a token, or decoys. `Debug` hides them: the server key lets its owner impersonate the server.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramKeys {
    /// Sent to every client that names the token.
    pub salt: [u8; SALT_LEN],
    /// Iterations of PBKDF2.
    pub iterations: u32,
    /// SHA-256 of the client key.
    pub stored_key: [u8; 32],
    /// The key that the server proves its identity with.
    pub server_key: [u8; 32],
}

impl ScramKeys {
    /// Parses a row's columns; `None` if they are invalid.
    pub(crate) fn read(salt: &str, iterations: i64, stored_key: &str, server_key: &str) -> Option<Self> {
        Some(Self {
            salt: unhex(salt.as_bytes())?,
            iterations: u32::try_from(iterations).ok()?,
            stored_key: unhex(stored_key.as_bytes())?,
            server_key: unhex(server_key.as_bytes())?,
        })
    }

    /// Decoy keys for an unknown name: they look like a token's and are the same each time, but no secret
    /// fits them.
    #[must_use]
    pub fn decoy(key: &TokenKey, name: &[u8]) -> Self {
        // Hexadecimal, because a name may contain any bytes and HMAC's parts are text.
        let name = crate::keys::hex(name);
        let digest = key.hash(&["scram of nobody", &name]);
        let mut salt = [0; SALT_LEN];
        for (byte, random) in salt.iter_mut().zip(digest) {
            *byte = random;
        }
        Self { salt, iterations: SCRAM_ITERATIONS, stored_key: [0; 32], server_key: [0; 32] }
    }

    /// The same salt, but no secret fits: for a token that exists and may not log in.
    #[must_use]
    pub fn disabled(&self) -> Self {
        Self { stored_key: [0; 32], server_key: [0; 32], ..self.clone() }
    }
}

impl fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScramKeys")
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

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    use hmac::{Hmac, KeyInit, Mac};
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}
