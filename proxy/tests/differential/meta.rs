//! Meta requests, most of them good, and a few of the text protocol between them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::stream::{Maker, Protocol, a_key, a_value, cas_of, number, pick, rarely};
use super::text::{self, line};

/// None that ends while we look.
const EXPTIMES: [&str; 12] =
    ["0", "0", "-1", "100", "1000", "2592000", "2592001", "2000000000", "2147483648", "x", "1x", ""];
/// Items live for 1000 seconds, or for ever: nowhere near.
const RECACHE: [&str; 5] = ["0", "30", "2000", "x", ""];
const NUMBERS: [&str; 10] =
    ["0", "1", "5", "99", "007", "x", "-1", "", "18446744073709551615", "9223372036854775808"];
/// Of those, at the end.
const NUMBERS_HIGH: usize = 2;
const FLAGS: [&str; 7] = ["0", "1", "65535", "4294967295", "4294967296", "x", "-1"];
const MODES: [&str; 14] = ["S", "E", "A", "P", "R", "I", "D", "+", "-", "set", "append", "Z", "", "s"];
/// Far from any that is counted out.
const CAS: [&str; 4] = ["5000000000001", "5000000000002", "x", "0"];
const OPAQUES: [&str; 4] = ["1", "opaque", "", "0123456789012345678901234567890"];
const LENGTHS: [&str; 7] = ["-1", "abc", "", "2147483646", "4294967296", "00000000001", "S5"];
const OTHERS: [&str; 12] = ["mn", "mn", "mn", "mn q", "mg", "ms", "ms a", "md", "ma", "me", "mg  ", "mx a"];

pub(crate) fn request(dice: &mut Maker) -> Vec<u8> {
    match dice.below(100) {
        0..33 => keyed("mg", "bkOqvfstchlu NRTkvft", dice),
        33..63 => store(dice),
        63..77 => keyed("ma", "bkOqvtc NJDTMC MDJN", dice),
        77..87 => keyed("md", "bkOq CIT", dice),
        87..90 => keyed("me", "", dice),
        90..95 => line(vec![pick(dice, &OTHERS).to_string().into()], dice),
        _ => text::request(dice),
    }
}

/// The name of a key, and the flag that says that it's in base64.
fn key(dice: &mut Maker) -> (Vec<u8>, Vec<u8>, Vec<Vec<u8>>) {
    let key = match dice.below(100) {
        0 => vec![b'K'; 251 + dice.below(9)],
        _ => a_key(Protocol::Meta, dice),
    };
    let must = key.iter().any(|byte| *byte <= b' ');
    if key.len() < 187 && (must || rarely(dice, 50)) {
        return (STANDARD.encode(&key).into_bytes(), key, vec![b"b".to_vec()]);
    }
    (key.clone(), key, Vec::new())
}

fn keyed(verb: &str, letters: &str, dice: &mut Maker) -> Vec<u8> {
    let (name, key, base64) = key(dice);
    let mut words = vec![verb.into(), name];
    words.extend(base64);
    words.extend(flags(letters, &key, dice));
    line(words, dice)
}

fn store(dice: &mut Maker) -> Vec<u8> {
    let (name, key, base64) = key(dice);
    let value = a_value(key.len(), dice);
    let length = match dice.below(100) {
        0 => pick(dice, &LENGTHS).to_string().into(),
        1 => (value.len() + dice.below(3)).to_string().into(),
        _ => value.len().to_string().into(),
    };
    let mut words = vec![b"ms".to_vec(), name, length];
    words.extend(base64);
    words.extend(flags("bkOqc FTFTMMMC IN", &key, dice));
    let mut request = line(words, dice);
    request.extend(value);
    request.extend_from_slice(if rarely(dice, 5) { b"\n" } else { b"\r\n" });
    request
}

/// A few of `letters`, with what belongs behind each; now and then one that doesn't.
fn flags(letters: &str, key: &[u8], dice: &mut Maker) -> Vec<Vec<u8>> {
    const ANY: &str = "bkOqvfstchluNRTCEFIJDMSxPLWZ!?0";
    let mut flags: Vec<Vec<u8>> = Vec::new();
    for _ in 0..dice.below(5) {
        let all = if rarely(dice, 20) { ANY } else { letters };
        let Some(letter) = all.as_bytes().get(dice.below(all.len().max(1))) else { continue };
        let is_there = flags.iter().any(|flag| flag.first() == Some(letter));
        if *letter == b' ' || (is_there && !rarely(dice, 20)) || (*letter == b'b' && !rarely(dice, 30)) {
            continue;
        }
        flags.push([&[*letter], &argument(*letter, key, dice)[..]].concat());
    }
    if rarely(dice, 5) {
        flags.extend(vec![b"P".to_vec(); dice.below(30)]);
    }
    flags
}

fn argument(letter: u8, key: &[u8], dice: &mut Maker) -> Vec<u8> {
    // Most numbers are numbers.
    let words: &[&str] = match letter {
        b'T' | b'N' => &EXPTIMES,
        b'R' => &RECACHE,
        b'D' | b'J' => return number(&NUMBERS, NUMBERS_HIGH, dice).to_string().into(),
        b'F' | b'S' => &FLAGS,
        b'M' => &MODES,
        b'O' => &OPAQUES,
        b'E' => &CAS,
        b'C' => {
            return match dice.below(8) {
                0 => pick(dice, &CAS).to_string().into(),
                1 => cas_of(Protocol::Meta, b"a").to_string().into(),
                _ => cas_of(Protocol::Meta, key).to_string().into(),
            };
        }
        _ => &[""],
    };
    let few = if rarely(dice, 800) { words.len().div_ceil(2) } else { words.len() };
    words[dice.below(few)].into()
}
