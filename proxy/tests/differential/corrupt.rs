//! Corrupts requests: bytes changed, lost, repeated, cut off; words and requests in the wrong place.

use super::stream::{Protocol, pick};
use testkit::Rng;

const WORDS: [&[u8]; 38] = [
    b"get",
    b"gets",
    b"gat",
    b"set",
    b"add",
    b"cas",
    b"append",
    b"incr",
    b"touch",
    b"delete",
    b"noreply",
    b"quit",
    b"mg",
    b"ms",
    b"md",
    b"ma",
    b"me",
    b"b",
    b"q",
    b"v",
    b"N0",
    b"MA",
    b"I",
    b"O1",
    b"version",
    b"HTTP/1.1",
    b"lru",
    b"watch",
    b"0",
    b"-1",
    b"1",
    b"2147483647",
    b"4294967296",
    b"a",
    b"b",
    b"",
    b" ",
    b"\r\n",
];
const BYTES: [u8; 16] =
    [b' ', b'\r', b'\n', b'\t', 0, 0x80, 0xff, 0x7f, b'0', b'9', b'-', b'+', b'a', b'k', 1, 8];

/// Corrupts some of `requests`.
pub(crate) fn corrupt(protocol: Protocol, requests: &mut Vec<Vec<u8>>, rng: &mut Rng) {
    for _ in 0..1 + rng.below(3) {
        let at = rng.below(requests.len());
        match rng.below(12) {
            0 => {
                let other = requests[at].clone();
                requests.insert(rng.below(requests.len()), other);
            }
            1 => drop(requests.remove(at)),
            2..5 if protocol != Protocol::Binary => replace_word(&mut requests[at], rng),
            2..6 if protocol == Protocol::Binary => corrupt_header(&mut requests[at], rng),
            _ => corrupt_bytes(&mut requests[at], rng),
        }
        if requests.is_empty() {
            return;
        }
    }
}

fn replace_word(request: &mut Vec<u8>, rng: &mut Rng) {
    let mut words: Vec<Vec<u8>> = request.split(|byte| *byte == b' ').map(<[u8]>::to_vec).collect();
    let at = rng.below(words.len());
    let word = pick(rng, &WORDS).to_vec();
    match rng.below(3) {
        0 => words[at] = word,
        1 => words.insert(at, word),
        _ => drop(words.remove(at)),
    }
    *request = words.join(&b' ');
}

/// Changes opcode, lengths or other bytes of the header.
fn corrupt_header(request: &mut [u8], rng: &mut Rng) {
    const OFFSETS: [usize; 12] = [1, 1, 2, 3, 3, 4, 5, 7, 8, 10, 11, 11];
    let Some(byte) = request.get_mut(*pick(rng, &OFFSETS)) else { return };
    *byte = match rng.below(4) {
        0 => byte.wrapping_add(1),
        1 => byte.wrapping_sub(1),
        2 => u8::try_from(rng.below(40)).unwrap(),
        _ => u8::try_from(rng.below(256)).unwrap(),
    };
}

fn corrupt_bytes(request: &mut Vec<u8>, rng: &mut Rng) {
    if request.is_empty() {
        return;
    }
    // Most errors are in the beginning of a request.
    let window = if rng.below(4) == 0 { request.len() } else { request.len().min(60) };
    let at = rng.below(window);
    let end = (at + 1 + rng.below(8)).min(request.len());
    match rng.below(6) {
        0 => request[at] = *pick(rng, &BYTES),
        1 => request[at] ^= 1 << rng.below(8),
        2 => request.insert(at, *pick(rng, &BYTES)),
        3 => drop(request.drain(at..end)),
        4 => {
            let some = request[at..end].to_vec();
            request.splice(at..at, some);
        }
        _ => request.truncate(at),
    }
}
