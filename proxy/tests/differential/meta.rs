//! Generates meta requests, most of them valid, and some text requests between them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::stream::{Generator, Protocol, a_key, a_value, cas_of, number, pick, rarely};
use super::text::{self, line};

/// None of these expires while the test runs.
const EXPTIMES: [&str; 12] =
    ["0", "0", "-1", "100", "1000", "2592000", "2592001", "2000000000", "2147483648", "x", "1x", ""];
/// Items live for 1000 seconds or for ever: none is close to its recache time.
const RECACHE: [&str; 5] = ["0", "30", "2000", "x", ""];
const NUMBERS: [&str; 10] =
    ["0", "1", "5", "99", "007", "x", "-1", "", "18446744073709551615", "9223372036854775808"];
/// The last ones of `NUMBERS`, from 2^63 on.
const NUMBERS_HIGH: usize = 2;
const FLAGS: [&str; 7] = ["0", "1", "65535", "4294967295", "4294967296", "x", "-1"];
const MODES: [&str; 14] = ["S", "E", "A", "P", "R", "I", "D", "+", "-", "set", "append", "Z", "", "s"];
/// Far beyond any that is assigned.
const CAS: [&str; 4] = ["5000000000001", "5000000000002", "x", "0"];
const OPAQUES: [&str; 4] = ["1", "opaque", "", "0123456789012345678901234567890"];
const LENGTHS: [&str; 7] = ["-1", "abc", "", "2147483646", "4294967296", "00000000001", "S5"];
const OTHERS: [&str; 12] = ["mn", "mn", "mn", "mn q", "mg", "ms", "ms a", "md", "ma", "me", "mg  ", "mx a"];

pub(crate) fn request(rng: &mut Generator) -> Vec<u8> {
    match rng.below(100) {
        0..33 => keyed("mg", "bkOqvfstchlu NRTkvft", rng),
        33..63 => store(rng),
        63..77 => keyed("ma", "bkOqvtc NJDTMC MDJN", rng),
        77..87 => keyed("md", "bkOq CIT", rng),
        87..90 => keyed("me", "", rng),
        90..95 => line(vec![pick(rng, &OTHERS).to_string().into()], rng),
        _ => text::request(rng),
    }
}

/// The key as sent, the key, and the flag for base64 if it is encoded.
fn key(rng: &mut Generator) -> (Vec<u8>, Vec<u8>, Vec<Vec<u8>>) {
    let key = match rng.below(100) {
        0 => vec![b'K'; 251 + rng.below(9)],
        _ => a_key(Protocol::Meta, rng),
    };
    let must = key.iter().any(|byte| *byte <= b' ');
    if key.len() < 187 && (must || rarely(rng, 50)) {
        return (STANDARD.encode(&key).into_bytes(), key, vec![b"b".to_vec()]);
    }
    (key.clone(), key, Vec::new())
}

fn keyed(verb: &str, letters: &str, rng: &mut Generator) -> Vec<u8> {
    let (name, key, base64) = key(rng);
    let mut words = vec![verb.into(), name];
    words.extend(base64);
    words.extend(flags(letters, &key, rng));
    line(words, rng)
}

fn store(rng: &mut Generator) -> Vec<u8> {
    let (name, key, base64) = key(rng);
    let value = a_value(key.len(), rng);
    let length = match rng.below(100) {
        0 => pick(rng, &LENGTHS).to_string().into(),
        1 => (value.len() + rng.below(3)).to_string().into(),
        _ => value.len().to_string().into(),
    };
    let mut words = vec![b"ms".to_vec(), name, length];
    words.extend(base64);
    words.extend(flags("bkOqc FTFTMMMC IN", &key, rng));
    let mut request = line(words, rng);
    request.extend(value);
    request.extend_from_slice(if rarely(rng, 5) { b"\n" } else { b"\r\n" });
    request
}

/// Returns a few of `letters` with suitable arguments, and rarely a flag that doesn't belong there.
fn flags(letters: &str, key: &[u8], rng: &mut Generator) -> Vec<Vec<u8>> {
    const ANY: &str = "bkOqvfstchluNRTCEFIJDMSxPLWZ!?0";
    let mut flags: Vec<Vec<u8>> = Vec::new();
    for _ in 0..rng.below(5) {
        let all = if rarely(rng, 20) { ANY } else { letters };
        let Some(letter) = all.as_bytes().get(rng.below(all.len().max(1))) else { continue };
        let is_there = flags.iter().any(|flag| flag.first() == Some(letter));
        if *letter == b' ' || (is_there && !rarely(rng, 20)) || (*letter == b'b' && !rarely(rng, 30)) {
            continue;
        }
        flags.push([&[*letter], &argument(*letter, key, rng)[..]].concat());
    }
    if rarely(rng, 5) {
        flags.extend(vec![b"P".to_vec(); rng.below(30)]);
    }
    flags
}

fn argument(letter: u8, key: &[u8], rng: &mut Generator) -> Vec<u8> {
    // Most arguments are valid.
    let words: &[&str] = match letter {
        b'T' | b'N' => &EXPTIMES,
        b'R' => &RECACHE,
        b'D' | b'J' => return number(&NUMBERS, NUMBERS_HIGH, rng).to_string().into(),
        b'F' | b'S' => &FLAGS,
        b'M' => &MODES,
        b'O' => &OPAQUES,
        b'E' => &CAS,
        b'C' => {
            return match rng.below(8) {
                0 => pick(rng, &CAS).to_string().into(),
                1 => cas_of(Protocol::Meta, b"a").to_string().into(),
                _ => cas_of(Protocol::Meta, key).to_string().into(),
            };
        }
        _ => &[""],
    };
    let few = if rarely(rng, 800) { words.len().div_ceil(2) } else { words.len() };
    words[rng.below(few)].into()
}
