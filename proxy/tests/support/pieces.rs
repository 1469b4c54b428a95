//! Bytes as a network may bring them.

use super::dice::Dice;

/// Cuts `bytes` into random pieces of up to `longest`.
pub(crate) fn pieces<'a>(mut bytes: &'a [u8], longest: usize, dice: &mut Dice) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        let (piece, rest) = bytes.split_at((1 + dice.below(longest)).min(bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}
