//! Properties that hold for any input. The fuzz targets (`tests/fuzz`) check them; so does a unit test, with the
//! targets' seeds and small mutations of them. Each function takes one input and panics if a property fails.

#![expect(clippy::expect_used, reason = "a panic is what a fuzzer looks for")]

mod command;
mod login;
mod replies;
mod requests;
#[cfg(test)]
mod tests;

pub use replies::check_replies;

use crate::protocol::Protocol;

/// Checks text requests, classic and meta, after login.
pub fn check_text(input: &[u8]) {
    requests::check(Protocol::Text, input);
}

/// Checks binary requests after login.
pub fn check_binary(input: &[u8]) {
    requests::check(Protocol::Binary, input);
}

/// Checks the input of an unauthenticated connection; its first byte decides the protocol.
pub fn check_login(input: &[u8]) {
    login::check(input);
}

pub(crate) use command::encoded;

/// A hash of `input` (FNV-1a).
pub(crate) fn hash(input: &[u8]) -> u64 {
    input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Splits `input` into chunks, always the same for the same input.
pub(crate) fn chunks(input: &[u8]) -> Vec<&[u8]> {
    let mut seed = hash(input);
    // Single bytes find the most faults, but take the longest.
    let max = if seed.is_multiple_of(8) { 1 } else { input.len() / 4 + 1 };
    let mut chunks = Vec::new();
    let mut rest = input;
    while !rest.is_empty() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let len = 1 + usize::try_from(seed >> 33).unwrap_or(0) % max;
        let (chunk, more) = rest.split_at_checked(len).unwrap_or((rest, b""));
        chunks.push(chunk);
        rest = more;
    }
    chunks
}

/// Whether `reply` is exactly one line, as every error must be (D-6).
pub(crate) fn is_one_line(reply: &[u8]) -> bool {
    reply.strip_suffix(b"\r\n").is_some_and(|line| !line.contains(&b'\n') && !line.contains(&b'\r'))
}

/// The length of the binary reply that `bytes` begin with, if it is complete and its lengths are consistent.
pub(crate) fn binary_reply(bytes: &[u8]) -> Option<usize> {
    let head: &[u8; 24] = bytes.first_chunk()?;
    let [magic, _, k1, k2, extras, kind, _, _, b1, b2, b3, b4, ..] = *head;
    let fields = usize::from(u16::from_be_bytes([k1, k2])) + usize::from(extras);
    let body = usize::try_from(u32::from_be_bytes([b1, b2, b3, b4])).ok()?;
    let len = head.len() + body;
    (magic == 0x81 && kind == 0 && fields <= body && len <= bytes.len()).then_some(len)
}
