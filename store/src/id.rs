//! Ids of rows.

use rand::RngExt as _;

const CHARACTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
/// 36^24 > 2^124.
pub(crate) const LEN: usize = 24;

/// Returns 24 random lower-case letters and digits, which may be part of a container's name.
pub(crate) fn random() -> String {
    let mut rng = rand::rng();
    (0..LEN).map(|_| char::from(CHARACTERS[rng.random_range(0..CHARACTERS.len())])).collect()
}

/// Whether memgate may have made an id. Of a table that others may write, only such an id becomes part of a container's name.
pub(crate) fn is_valid(id: &str) -> bool {
    id.len() == LEN && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}
