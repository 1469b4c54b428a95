//! Bytes split as a network may deliver them.

use crate::Rng;

/// Splits `bytes` into random chunks of 1 to `len_max` bytes.
pub fn chunks<'a>(mut bytes: &'a [u8], len_max: usize, rng: &mut Rng) -> Vec<&'a [u8]> {
    let mut chunks = Vec::new();
    while !bytes.is_empty() {
        let (chunk, rest) = bytes.split_at((1 + rng.below(len_max)).min(bytes.len()));
        chunks.push(chunk);
        bytes = rest;
    }
    chunks
}
