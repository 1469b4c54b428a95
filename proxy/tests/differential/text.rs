//! Generates text requests, most of them valid.

use super::stream::{Generator, Protocol, a_key, a_value, cas_of, number, pick, rarely};

const DELTAS: [&str; 14] = [
    "0",
    "1",
    "5",
    "10",
    "99",
    "4294967295",
    "-1",
    "x",
    "007",
    "1a",
    "+1",
    "18446744073709551616",
    "18446744073709551615",
    "9223372036854775808",
];
/// The last ones of `DELTAS`, from 2^63 on.
const DELTAS_HIGH: usize = 2;
/// None of these expires while the test runs.
const EXPTIMES: [&str; 18] = [
    "0",
    "0",
    "0",
    "-1",
    "100",
    "2592000",
    "2592001",
    "2000000000",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "-2147483648",
    "-2147483649",
    "99999999999999999999",
    "x",
    "1000.5",
    "-",
];
const FLAGS: [&str; 12] = [
    "0",
    "0",
    "0",
    "1",
    "65535",
    "4294967295",
    "4294967296",
    "18446744073709551615",
    "18446744073709551616",
    "-1",
    "+1",
    "x",
];
const LENGTHS: [&str; 9] =
    ["-1", "abc", "2147483645", "2147483646", "4294967296", "+1", "1a", "00000000001", "0"];
const OTHERS: [&str; 27] = [
    "flush_all",
    "flush_all 0",
    "flush_all noreply",
    "flush_all -1 noreply",
    "flush_all x",
    "version",
    "version noreply",
    "verbosity 0",
    "verbosity 0 noreply",
    "verbosity",
    "verbosity x",
    "bogus",
    "bogus noreply",
    "GET a",
    " get a",
    "",
    "a",
    "get",
    "get ",
    "gets",
    "gat",
    "gat 0",
    "incr a",
    "delete",
    "touch a",
    "cas",
    "shutdown",
];

pub(crate) fn request(rng: &mut Generator) -> Vec<u8> {
    match rng.below(100) {
        0..25 => get(rng),
        25..32 => gat(rng),
        32..70 => store(rng),
        70..80 => {
            let verb = if rng.below(2) == 0 { "incr" } else { "decr" };
            let delta = *number(&DELTAS, DELTAS_HIGH, rng);
            keyed(verb, delta.into(), rng)
        }
        80..87 => {
            let exptime = word(&EXPTIMES, rng);
            keyed("touch", exptime, rng)
        }
        87..95 => delete(rng),
        95..99 => line(vec![pick(rng, &OTHERS).as_bytes().to_vec()], rng),
        _ => {
            let mut request = get(rng);
            request.splice(0..0, b"gets  ".repeat(rng.below(30)));
            request
        }
    }
}

fn key(rng: &mut Generator) -> Vec<u8> {
    if rarely(rng, 10) { vec![b'K'; 251 + rng.below(9)] } else { a_key(Protocol::Text, rng) }
}

fn word(words: &[&str], rng: &mut Generator) -> Vec<u8> {
    pick(rng, words).as_bytes().to_vec()
}

fn get(rng: &mut Generator) -> Vec<u8> {
    let mut words = vec![word(&["get", "gets"], rng)];
    for _ in 0..1 + rng.below(4) {
        words.push(key(rng));
    }
    line(words, rng)
}

fn gat(rng: &mut Generator) -> Vec<u8> {
    let mut words = vec![word(&["gat", "gats"], rng), word(&EXPTIMES, rng)];
    for _ in 0..1 + rng.below(3) {
        words.push(key(rng));
    }
    line(words, rng)
}

fn keyed(verb: &str, argument: Vec<u8>, rng: &mut Generator) -> Vec<u8> {
    let words = vec![verb.into(), key(rng), argument];
    line(maybe_quiet(words, rng), rng)
}

fn delete(rng: &mut Generator) -> Vec<u8> {
    let mut words = vec![b"delete".to_vec(), key(rng)];
    if rarely(rng, 50) {
        words.push(word(&["0", "5", "b"], rng));
    }
    line(maybe_quiet(words, rng), rng)
}

fn store(rng: &mut Generator) -> Vec<u8> {
    let verb = word(&["set", "set", "set", "add", "replace", "append", "prepend", "cas"], rng);
    let key = key(rng);
    let value = a_value(key.len(), rng);
    let length = match rng.below(100) {
        0 => word(&LENGTHS, rng),
        1 => (value.len() + rng.below(3)).to_string().into(),
        _ => value.len().to_string().into(),
    };
    let mut words = vec![verb.clone(), key.clone(), word(&FLAGS, rng), word(&EXPTIMES, rng), length];
    if verb == b"cas" {
        words.push(match rng.below(10) {
            0..6 => cas_of(Protocol::Text, &key).to_string().into(),
            6 => cas_of(Protocol::Text, b"a").to_string().into(),
            _ => word(&["0", "1", "99", "18446744073709551616", "x", "-1"], rng),
        });
    }
    let mut request = line(maybe_quiet(words, rng), rng);
    request.extend(value);
    request.extend_from_slice(if rarely(rng, 5) { b"\n" } else { b"\r\n" });
    request
}

fn maybe_quiet(mut words: Vec<Vec<u8>>, rng: &mut Generator) -> Vec<Vec<u8>> {
    if rarely(rng, 20) {
        words.extend(vec![b"more".to_vec(); 1 + rng.below(30)]);
    }
    if rarely(rng, 120) {
        words.push(b"noreply".into());
    }
    words
}

/// Joins words to a line as clients write it.
pub(crate) fn line(words: Vec<Vec<u8>>, rng: &mut Generator) -> Vec<u8> {
    let space: &[u8] = if rarely(rng, 30) { b"  " } else { b" " };
    let mut line = words.join(space);
    if rarely(rng, 20) {
        line.push(b' ');
    }
    line.extend_from_slice(if rarely(rng, 20) { b"\n" } else { b"\r\n" });
    line
}
