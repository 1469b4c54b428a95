//! What must hold of any bytes whatever, for the fuzz targets (`tests/fuzz`) and for a test of each
//! commit, which runs them over the targets' seeds and many small changes of those. Each function takes
//! one input and panics if something doesn't hold.

#![expect(clippy::expect_used, reason = "a panic is what a fuzzer looks for")]

mod command;
mod login;
mod replies;
mod requests;
#[cfg(test)]
mod tests;

pub use replies::check_replies;

use crate::protocol::Protocol;

/// Text requests, classic and meta, after login.
pub fn check_text(input: &[u8]) {
    requests::check(Protocol::Text, input);
}

/// Binary requests after login.
pub fn check_binary(input: &[u8]) {
    requests::check(Protocol::Binary, input);
}

/// A stranger, who speaks what his first byte says.
pub fn check_login(input: &[u8]) {
    login::check(input);
}

pub(crate) use command::encoded;

/// A number that depends on all of `input`.
pub(crate) fn hash(input: &[u8]) -> u64 {
    // FNV-1a: any will do.
    input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Cuts `input` into pieces, always the same for the same input.
pub(crate) fn pieces(input: &[u8]) -> Vec<&[u8]> {
    let mut seed = hash(input);
    // Byte by byte finds most, and takes longest.
    let most = if seed.is_multiple_of(8) { 1 } else { input.len() / 4 + 1 };
    let mut pieces = Vec::new();
    let mut rest = input;
    while !rest.is_empty() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let len = 1 + usize::try_from(seed >> 33).unwrap_or(0) % most;
        let (piece, more) = rest.split_at_checked(len).unwrap_or((rest, b""));
        pieces.push(piece);
        rest = more;
    }
    pieces
}

/// Whether `words` are exactly one line, which is all that a client may be told by an error.
pub(crate) fn is_one_line(words: &[u8]) -> bool {
    words.strip_suffix(b"\r\n").is_some_and(|line| !line.contains(&b'\n') && !line.contains(&b'\r'))
}

/// The length of the binary reply at the front of `said`, if it is whole and its own lengths agree.
pub(crate) fn binary_reply(said: &[u8]) -> Option<usize> {
    let head: &[u8; 24] = said.first_chunk()?;
    let [magic, _, k1, k2, extras, kind, _, _, b1, b2, b3, b4, ..] = *head;
    let fields = usize::from(u16::from_be_bytes([k1, k2])) + usize::from(extras);
    let body = usize::try_from(u32::from_be_bytes([b1, b2, b3, b4])).ok()?;
    let len = head.len() + body;
    (magic == 0x81 && kind == 0 && fields <= body && len <= said.len()).then_some(len)
}
