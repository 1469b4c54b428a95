//! Requests in text, most of them good.

use super::stream::{Maker, Protocol, a_key, a_value, cas_of, number, pick, rarely};

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
/// Of those, at the end.
const DELTAS_HIGH: usize = 2;
/// None that ends while we look.
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
const OTHERS: [&str; 25] = [
    "flush_all",
    "flush_all 0",
    "flush_all noreply",
    "flush_all -1 noreply",
    "flush_all x",
    "version",
    "version noreply",
    "verbosity 0",
    "verbosity 0 noreply",
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

pub(crate) fn request(dice: &mut Maker) -> Vec<u8> {
    match dice.below(100) {
        0..25 => get(dice),
        25..32 => gat(dice),
        32..70 => store(dice),
        70..80 => {
            let verb = if dice.below(2) == 0 { "incr" } else { "decr" };
            let delta = *number(&DELTAS, DELTAS_HIGH, dice);
            keyed(verb, delta.into(), dice)
        }
        80..87 => {
            let exptime = word(&EXPTIMES, dice);
            keyed("touch", exptime, dice)
        }
        87..95 => delete(dice),
        95..99 => line(vec![pick(dice, &OTHERS).as_bytes().to_vec()], dice),
        _ => {
            let mut request = get(dice);
            request.splice(0..0, b"gets  ".repeat(dice.below(30)));
            request
        }
    }
}

fn key(dice: &mut Maker) -> Vec<u8> {
    if rarely(dice, 10) { vec![b'K'; 251 + dice.below(9)] } else { a_key(Protocol::Text, dice) }
}

fn word(words: &[&str], dice: &mut Maker) -> Vec<u8> {
    pick(dice, words).as_bytes().to_vec()
}

fn get(dice: &mut Maker) -> Vec<u8> {
    let mut words = vec![word(&["get", "gets"], dice)];
    for _ in 0..1 + dice.below(4) {
        words.push(key(dice));
    }
    line(words, dice)
}

fn gat(dice: &mut Maker) -> Vec<u8> {
    let mut words = vec![word(&["gat", "gats"], dice), word(&EXPTIMES, dice)];
    for _ in 0..1 + dice.below(3) {
        words.push(key(dice));
    }
    line(words, dice)
}

fn keyed(verb: &str, argument: Vec<u8>, dice: &mut Maker) -> Vec<u8> {
    let words = vec![verb.into(), key(dice), argument];
    line(maybe_quiet(words, dice), dice)
}

fn delete(dice: &mut Maker) -> Vec<u8> {
    let mut words = vec![b"delete".to_vec(), key(dice)];
    if rarely(dice, 50) {
        words.push(word(&["0", "5", "b"], dice));
    }
    line(maybe_quiet(words, dice), dice)
}

fn store(dice: &mut Maker) -> Vec<u8> {
    let verb = word(&["set", "set", "set", "add", "replace", "append", "prepend", "cas"], dice);
    let key = key(dice);
    let value = a_value(key.len(), dice);
    let length = match dice.below(100) {
        0 => word(&LENGTHS, dice),
        1 => (value.len() + dice.below(3)).to_string().into(),
        _ => value.len().to_string().into(),
    };
    let mut words = vec![verb.clone(), key.clone(), word(&FLAGS, dice), word(&EXPTIMES, dice), length];
    if verb == b"cas" {
        words.push(match dice.below(10) {
            0..6 => cas_of(Protocol::Text, &key).to_string().into(),
            6 => cas_of(Protocol::Text, b"a").to_string().into(),
            _ => word(&["0", "1", "99", "18446744073709551616", "x", "-1"], dice),
        });
    }
    let mut request = line(maybe_quiet(words, dice), dice);
    request.extend(value);
    request.extend_from_slice(if rarely(dice, 5) { b"\n" } else { b"\r\n" });
    request
}

fn maybe_quiet(mut words: Vec<Vec<u8>>, dice: &mut Maker) -> Vec<Vec<u8>> {
    if rarely(dice, 20) {
        words.extend(vec![b"more".to_vec(); 1 + dice.below(30)]);
    }
    if rarely(dice, 120) {
        words.push(b"noreply".into());
    }
    words
}

/// A line of these words, as clients write them.
pub(crate) fn line(words: Vec<Vec<u8>>, dice: &mut Maker) -> Vec<u8> {
    let space: &[u8] = if rarely(dice, 30) { b"  " } else { b" " };
    let mut line = words.join(space);
    if rarely(dice, 20) {
        line.push(b' ');
    }
    line.extend_from_slice(if rarely(dice, 20) { b"\n" } else { b"\r\n" });
    line
}
