//! The two keys, which are never stored in the database: one hashes token secrets, one derives the lanes' passwords.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use crate::id;
use crate::lane_credential::LaneCredential;
use crate::private_file::{self, Access, FileError};

const KEY_LEN: usize = 32;
/// Bytes that are read of a key file, which is shorter.
const FILE_LEN_MAX: u64 = 100;

/// Why a key file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file is missing, unreadable or unwritable.
    #[error("can't use the key file {}: check that it and its folder exist and that this user may use them", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// Others could have written the file.
    #[error(transparent)]
    Untrusted(FileError),
    /// All users of the machine can read the file.
    #[error("the key file {} can be read by everybody: run `chmod o= {}`", .0.display(), .0.display())]
    WorldReadable(PathBuf),
    /// The file doesn't contain 64 hexadecimal digits.
    #[error("the key file {} doesn't contain 64 hexadecimal digits: restore it from a backup", .0.display())]
    Malformed(PathBuf),
}

impl From<FileError> for KeyError {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Io { path, source } => Self::File { path, source },
            FileError::WorldReadable(path) => Self::WorldReadable(path),
            error => Self::Untrusted(error),
        }
    }
}

/// Hashes token secrets. With the key and the database an attacker still can't log in, only check guesses.
#[derive(Clone)]
pub struct TokenKey([u8; KEY_LEN]);

/// Derives the password that a lane and its memcached share. Only the proxy and the provisioner read it.
#[derive(Clone)]
pub struct LaneKey([u8; KEY_LEN]);

/// Tells whether a key is the installation's, and nothing else about it: the HMAC of a constant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFingerprint(pub(crate) String);

impl KeyFingerprint {
    fn of(key: &[u8; KEY_LEN]) -> Self {
        Self(hex(&keyed(key, &["fingerprint"])))
    }
}

impl TokenKey {
    /// Parses 64 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        unhex(text.as_bytes()).map(Self)
    }

    /// The key in that form, for a file that is as secret as the key's own.
    #[must_use]
    pub fn reveal(&self) -> String {
        hex(&self.0)
    }

    /// The fingerprint that the store holds.
    #[must_use]
    pub fn fingerprint(&self) -> KeyFingerprint {
        KeyFingerprint::of(&self.0)
    }

    /// Reads the key, or creates it, readable by its owner only, if the file doesn't exist.
    ///
    /// # Errors
    /// [`KeyError`] if the file can't be used.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        load_or_create(path).map(Self)
    }

    /// Reads the key.
    ///
    /// # Errors
    /// [`KeyError`] if the file can't be used.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        load(path).map(Self)
    }

    /// What a browser session's id ends with: 128 bits, hexadecimal. An id that this installation didn't make is found
    /// out without a look-up.
    #[must_use]
    pub fn session_tag(&self, id: &str) -> String {
        let mut tag = hex(&self.hash(&["session", id]));
        tag.truncate(KEY_LEN);
        tag
    }

    /// What a browser's cookie ends with once it has signed in to an account: 128 bits, hexadecimal.
    #[must_use]
    pub fn browser_tag(&self, id: &str, account: &str) -> String {
        let mut tag = hex(&self.hash(&["browser", id, account]));
        tag.truncate(KEY_LEN);
        tag
    }

    /// What the id of a sign-in that waits for a code ends with: 128 bits, hexadecimal. A made-up one is found out without a
    /// look-up.
    #[must_use]
    pub fn sign_in_tag(&self, id: &str) -> String {
        let mut tag = hex(&self.hash(&["sign-in", id]));
        tag.truncate(KEY_LEN);
        tag
    }

    /// What the address of an account's link ends with: its id and 128 bits that are found nowhere in the store.
    #[must_use]
    pub fn link_code(&self, id: &str) -> String {
        let mut tag = hex(&self.hash(&["account link", id]));
        tag.truncate(KEY_LEN);
        format!("{id}{tag}")
    }

    /// The id of the link whose address ends with `code`; `None` if this installation didn't make it.
    #[must_use]
    pub fn link_id<'a>(&self, code: &'a str) -> Option<&'a str> {
        let (id, _) = code.split_at_checked(id::LEN)?;
        let matches: bool = self.link_code(id).as_bytes().ct_eq(code.as_bytes()).into();
        matches.then_some(id)
    }

    /// The secret of a user's second factor: 160 bits that are found nowhere in the store.
    #[must_use]
    pub fn second_factor_secret(&self, user_id: &str, seed: &str) -> [u8; 20] {
        let hash = self.hash(&["second factor", user_id, seed]);
        std::array::from_fn(|at| hash[at])
    }

    /// What the store keeps of a recovery code.
    #[must_use]
    pub fn recovery_code_hash(&self, user_id: &str, code: &str) -> String {
        hex(&self.hash(&["recovery code", user_id, code]))
    }

    /// The secret that signs what is sent to a webhook: 256 bits that are found nowhere in the store.
    #[must_use]
    pub fn webhook_secret(&self, webhook_id: &str, generation: i64) -> [u8; 32] {
        self.hash(&["webhook", webhook_id, &generation.to_string()])
    }

    /// HMAC-SHA256 of the parts, each followed by a zero byte so that different lists never hash the same bytes.
    pub(crate) fn hash(&self, parts: &[&str]) -> [u8; 32] {
        keyed(&self.0, parts)
    }
}

impl LaneKey {
    /// Parses 64 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        unhex(text.as_bytes()).map(Self)
    }

    /// The key in that form, for a file that is as secret as the key's own.
    #[must_use]
    pub fn reveal(&self) -> String {
        hex(&self.0)
    }

    /// The fingerprint that the store holds.
    #[must_use]
    pub fn fingerprint(&self) -> KeyFingerprint {
        KeyFingerprint::of(&self.0)
    }

    /// Reads the key, or creates it, readable by its owner only, if the file doesn't exist.
    ///
    /// # Errors
    /// [`KeyError`] if the file can't be used.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        load_or_create(path).map(Self)
    }

    /// Reads the key.
    ///
    /// # Errors
    /// [`KeyError`] if the file can't be used.
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
    match private_file::create(path, Access::PRIVATE, hex(&key).as_bytes()) {
        Ok(()) => Ok(key),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => load(path),
        Err(source) => Err(KeyError::File { path: path.into(), source }),
    }
}

fn load(path: &Path) -> Result<[u8; KEY_LEN], KeyError> {
    let bytes = private_file::read_secret(path, FILE_LEN_MAX)?;
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

/// A hexadecimal digit's value. The standard library's parser would accept a sign.
fn nibble(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}
