//! The two keys that never enter the database: one hashes tokens, one makes the secrets of lanes.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::files;
use crate::lane_credential::LaneCredential;

const KEY_LEN: usize = 32;
/// No key file is longer, a line's end included: what is, isn't read on.
const MAX_FILE_LEN: u64 = 100;

/// Why a key file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file is missing, unreadable or unwritable.
    #[error("can't use the key file {}: check that it and its folder exist and that this user may use them", .path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Anybody on this machine could read it.
    #[error("the key file {} can be read by everybody: run `chmod o= {}`", .0.display(), .0.display())]
    WorldReadable(PathBuf),
    /// Not 64 hexadecimal digits.
    #[error("the key file {} doesn't hold 64 hexadecimal digits: restore it from a backup", .0.display())]
    Malformed(PathBuf),
}

/// Hashes token secrets. With the key and the database an attacker still can't log in, only check guesses.
#[derive(Clone)]
pub struct TokenKey([u8; KEY_LEN]);

/// Makes the secret that a lane and its memcached share. Read by the proxy and the provisioner only.
#[derive(Clone)]
pub struct LaneKey([u8; KEY_LEN]);

impl TokenKey {
    /// Reads the key; makes one, readable by its owner only, if there is no file yet.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        load_or_create(path).map(Self)
    }

    /// Reads the key.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        load(path).map(Self)
    }

    /// HMAC-SHA256 over the parts, with a zero byte after each so that no two lists of parts look alike.
    pub(crate) fn hash(&self, parts: &[&str]) -> [u8; 32] {
        keyed(&self.0, parts)
    }
}

impl LaneKey {
    /// Reads the key; makes one, readable by its owner only, if there is no file yet.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        load_or_create(path).map(Self)
    }

    /// Reads the key.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        load(path).map(Self)
    }

    /// The credential of lanes to one generation of an instance. Its secret has 64 hexadecimal digits.
    #[must_use]
    pub fn credential(&self, instance_id: &str, generation: i64) -> LaneCredential {
        LaneCredential::new(hex(&keyed(&self.0, &["lane", instance_id, &generation.to_string()])))
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey")
    }
}

impl fmt::Debug for LaneKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LaneKey")
    }
}

fn keyed(key: &[u8; KEY_LEN], parts: &[&str]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part.as_bytes());
        mac.update(&[0]);
    }
    mac.finalize().into_bytes().into()
}

fn load_or_create(path: &Path) -> Result<[u8; KEY_LEN], KeyError> {
    match load(path) {
        Err(KeyError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        loaded => return loaded,
    }
    let key: [u8; KEY_LEN] = rand::random();
    match files::create(path, 0o600, hex(&key).as_bytes()) {
        Ok(()) => Ok(key),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => load(path),
        Err(source) => Err(KeyError::File { path: path.into(), source }),
    }
}

fn load(path: &Path) -> Result<[u8; KEY_LEN], KeyError> {
    let failed = |source| KeyError::File { path: path.into(), source };
    let file = File::open(path).map_err(failed)?;
    if files::is_public(&file.metadata().map_err(failed)?) {
        return Err(KeyError::WorldReadable(path.into()));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_LEN).read_to_end(&mut bytes).map_err(failed)?;
    unhex(bytes.trim_ascii()).ok_or_else(|| KeyError::Malformed(path.into()))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

pub(crate) fn unhex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = pair.iter().try_fold(0, |byte, digit| Some(byte << 4 | nibble(*digit)?))?;
    }
    Some(bytes)
}

/// A hexadecimal digit's value. The standard library's parser would take a sign, too.
fn nibble(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}
