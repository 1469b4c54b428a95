//! Values that say what they are: their owner and key, their sequence number, their length, and bytes that follow from these. Pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Keys of one connection.
const KEYS: u64 = 24;
/// A set without a reply may still be carried out: its value is accepted for this time.
const IN_DOUBT: Duration = Duration::from_secs(40);
/// Bytes of most values, and of a few.
const SHORT_MAX: u64 = 2_000;
const LONG: u64 = 150_000;
/// One in this many values is long.
const LONG_VALUES: u64 = 40;

/// What one connection has stored. No other connection uses these keys.
pub(crate) struct Keys {
    /// Of the connection; part of each key and value.
    name: String,
    stored: HashMap<String, Stored>,
    /// The set that has no reply yet.
    pending: Option<(String, u64)>,
}

#[derive(Default)]
struct Stored {
    acknowledged: u64,
    /// Sets whose outcome isn't known, and until when they may show.
    in_doubt: Vec<(u64, Instant)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Right,
    Missing,
    /// An earlier value of this key.
    Stale,
    /// A value of another key, or another connection.
    Foreign,
    /// Some bytes of a value are wrong.
    Torn,
}

impl Keys {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), stored: HashMap::new(), pending: None }
    }

    /// The next key to set, and its value.
    pub(crate) fn next_set(&mut self, number: u64) -> (String, Vec<u8>) {
        let key = self.key(number / 3);
        // Numbers of one key increase, and 0 is no value's.
        let sequence = number + 1;
        self.pending = Some((key.clone(), sequence));
        let value = value(&key, sequence);
        (key, value)
    }

    /// How the last set ended.
    pub(crate) fn set_ended(&mut self, is_acknowledged: bool) {
        let Some((key, sequence)) = self.pending.take() else { return };
        let stored = self.stored.entry(key).or_default();
        if is_acknowledged {
            stored.acknowledged = sequence;
        } else {
            stored.in_doubt.push((sequence, Instant::now() + IN_DOUBT));
        }
    }

    pub(crate) fn next_get(&self, number: u64) -> String {
        self.key(number.wrapping_mul(7) / 3)
    }

    pub(crate) fn check(&mut self, key: &str, found: Option<&[u8]>) -> Verdict {
        let stored = self.stored.entry(key.to_owned()).or_default();
        let now = Instant::now();
        stored.in_doubt.retain(|(_, until)| *until > now);
        let Some(found) = found else {
            return if stored.acknowledged == 0 { Verdict::Right } else { Verdict::Missing };
        };
        let head = found.split(|byte| *byte == b'|').take(2).collect::<Vec<_>>();
        let [owner, sequence] = head[..] else { return Verdict::Torn };
        if owner != key.as_bytes() {
            return Verdict::Foreign;
        }
        let sequence = std::str::from_utf8(sequence).ok().and_then(|text| text.parse().ok());
        let Some(sequence) = sequence else { return Verdict::Torn };
        if found != value(key, sequence) {
            return Verdict::Torn;
        }
        let in_doubt = stored.in_doubt.iter().any(|(doubted, _)| *doubted == sequence);
        if sequence == stored.acknowledged || in_doubt { Verdict::Right } else { Verdict::Stale }
    }

    fn key(&self, number: u64) -> String {
        format!("{}:{}", self.name, number % KEYS)
    }
}

/// The value of a set: key, number, and bytes that follow from both.
fn value(key: &str, sequence: u64) -> Vec<u8> {
    let mut value = format!("{key}|{sequence}|").into_bytes();
    let mut state = key.bytes().fold(sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, |state, byte| {
        state.wrapping_mul(31).wrapping_add(u64::from(byte))
    }) | 1;
    let long = sequence.is_multiple_of(LONG_VALUES);
    let length = value.len() + if long { LONG as usize } else { (state % SHORT_MAX) as usize };
    while value.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        value.extend_from_slice(&state.to_le_bytes());
    }
    value.truncate(length);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(keys: &mut Keys, number: u64, is_acknowledged: bool) -> (String, Vec<u8>) {
        let set = keys.next_set(number);
        keys.set_ended(is_acknowledged);
        set
    }

    #[test]
    fn what_was_acknowledged_last_or_is_in_doubt_is_right() {
        let mut keys = Keys::new("a");
        let (key, first) = stored(&mut keys, 0, true);
        assert_eq!(keys.check(&key, Some(&first)), Verdict::Right);
        let (same, second) = stored(&mut keys, KEYS * 3, false);
        assert_eq!(key, same);
        for value in [&first, &second] {
            assert_eq!(keys.check(&key, Some(value)), Verdict::Right);
        }
        let (_, third) = stored(&mut keys, KEYS * 6, true);
        assert_eq!(keys.check(&key, Some(&third)), Verdict::Right);
        assert_eq!(keys.check(&key, Some(&first)), Verdict::Stale);
        assert_eq!(keys.check(&key, None), Verdict::Missing);
    }

    #[test]
    fn wrong_values_are_told_apart() {
        let mut keys = Keys::new("a");
        let (key, value) = stored(&mut keys, 0, true);
        let (_, other) = stored(&mut keys, 3, true);
        assert_eq!(keys.check(&key, Some(&other)), Verdict::Foreign);
        assert_eq!(keys.check(&key, Some(&value[..value.len() - 1])), Verdict::Torn);
        let mut changed = value.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert_eq!(keys.check(&key, Some(&changed)), Verdict::Torn);
        assert_eq!(keys.check(&key, Some(&value)), Verdict::Right);
    }
}
