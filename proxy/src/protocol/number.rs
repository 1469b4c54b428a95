//! Numbers as memcached reads and writes them (T-5, T-6). A parser returns `None` for what memcached refuses.

/// The longest 64-bit number that memcached reads, in bytes.
const LONG_MAX: usize = 22;

/// Reads digits within 64 bits, with at most [`LONG_MAX`] bytes.
pub(crate) fn unsigned(token: &[u8]) -> Option<u64> {
    digits(token).filter(|_| token.len() <= LONG_MAX)
}

fn digits(token: &[u8]) -> Option<u64> {
    if token.is_empty() {
        return None;
    }
    token.iter().try_fold(0_u64, |value, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit <= 9)?;
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// Reads digits with an optional minus, within 64 bits.
fn signed(token: &[u8]) -> Option<i64> {
    match token.strip_prefix(b"-") {
        Some(rest) => 0_i64.checked_sub_unsigned(digits(rest)?),
        None => i64::try_from(digits(token)?).ok(),
    }
}

/// Extracts a number, with its minus, as C's `strtol` does: skips leading white space and a plus, and ignores
/// what follows further white space. memcached reads the flags and the expiry of a classic store this way.
fn c_digits(token: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b'\t' | 0x0b | 0x0c);
    let begin = token.iter().position(|byte| !is_space(byte)).unwrap_or(token.len());
    let token = token.get(begin..).unwrap_or_default();
    let end = token.iter().position(is_space).unwrap_or(token.len());
    let digits = token.get(..end).unwrap_or_default();
    digits.strip_prefix(b"+").filter(|digits| !digits.starts_with(b"-")).unwrap_or(digits)
}

/// Reads the expiry of a store: any 64-bit number, of which memcached keeps the low 32 bits.
pub(crate) fn truncated(token: &[u8]) -> Option<i32> {
    let low = signed(c_digits(token))?.to_le_bytes();
    low.first_chunk().copied().map(i32::from_le_bytes)
}

/// Reads the expiry of touch, gat, `flush_all` and meta flags: 32 bits in at most 11 bytes. memcached reads a
/// lone minus as 0.
pub(crate) fn exact(token: &[u8]) -> Option<i32> {
    const LEN_MAX: usize = 11;
    if token == LONE_MINUS {
        return Some(0);
    }
    i32::try_from(signed(token)?).ok().filter(|_| token.len() <= LEN_MAX)
}

/// See [`exact`].
pub(crate) const LONE_MINUS: &[u8] = b"-";

/// Reads client flags: any 64-bit number, of which memcached keeps the low 32 bits. A minus wraps the number
/// around; memcached refuses it only if the result exceeds `i64::MAX`.
pub(crate) fn flags(token: &[u8]) -> Option<u32> {
    let token = c_digits(token);
    let value = match token.strip_prefix(b"-") {
        Some(rest) => Some(digits(rest)?.wrapping_neg()).filter(|value| i64::try_from(*value).is_ok())?,
        None => digits(token)?,
    };
    let low = value.to_le_bytes();
    low.first_chunk().copied().map(u32::from_le_bytes)
}

/// Whether `token` is a level of `verbosity`: up to 11 digits, of which memcached keeps the low 32 bits.
pub(crate) fn is_level(token: &[u8]) -> bool {
    const LEN_MAX: usize = 11;
    digits(token).is_some() && token.len() <= LEN_MAX
}

/// Reads a length in bytes: one to ten digits, at most memcached's `INT_MAX - 2`.
pub(crate) fn length(token: &[u8]) -> Option<usize> {
    const MAX: u64 = 2_147_483_645;
    let length = unsigned(token).filter(|length| token.len() <= 10 && *length <= MAX)?;
    usize::try_from(length).ok()
}

/// Appends `value` in decimal.
pub(crate) fn write(mut value: u64, out: &mut Vec<u8>) {
    const LEN: usize = 20;
    let mut digits = [b'0'; LEN];
    let mut used = 0;
    for slot in digits.iter_mut().rev() {
        *slot = b'0' + u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
        used += 1;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(LEN - used..).unwrap_or_default());
}

/// Appends `value` in decimal, with a minus if it is negative.
pub(crate) fn write_signed(value: i64, out: &mut Vec<u8>) {
    if value < 0 {
        out.push(b'-');
    }
    write(value.unsigned_abs(), out);
}

/// Appends a length in decimal.
pub(crate) fn write_len(len: usize, out: &mut Vec<u8>) {
    write(u64::try_from(len).unwrap_or(u64::MAX), out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_parsed_as_memcached_does() {
        assert_eq!(unsigned(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(unsigned(b"18446744073709551616"), None);
        for bad in [&b""[..], b"+1", b"-1", b"0x1", b"1a", b"1\t", b" 1"] {
            assert_eq!(unsigned(bad), None);
            assert_eq!(length(bad), None);
        }
        assert_eq!(truncated(b"4294967296"), Some(0));
        assert_eq!(truncated(b"-1"), Some(-1));
        assert_eq!(truncated(b"x"), None);
        assert_eq!((truncated(b"\t+7\t8"), flags(b"+7")), (Some(7), Some(7)));
        assert_eq!((flags(b"-0"), flags(b"-18446744073709551609")), (Some(0), Some(7)));
        assert_eq!((truncated(b"+-7"), flags(b"-7"), flags(b"+"), flags(b"\t")), (None, None, None, None));
        assert_eq!(exact(b"4294967296"), None);
        assert_eq!(exact(b"-2147483648"), Some(i32::MIN));
        assert_eq!((exact(b"-"), exact(b"00000000007"), exact(b"000000000007")), (Some(0), Some(7), None));
        assert_eq!(unsigned(b"00000000000000000000007"), None);
        assert_eq!(flags(b"4294967297"), Some(1));
        assert_eq!(length(b"2147483645"), Some(2_147_483_645));
        assert_eq!(length(b"2147483646"), None);
        assert_eq!(length(b"00000000001"), None);
    }

    #[test]
    fn numbers_are_written_in_decimal() {
        for value in [0, 7, 10, 99, 1_234_567, u64::MAX] {
            let mut out = Vec::new();
            write(value, &mut out);
            assert_eq!(out, value.to_string().into_bytes());
        }
        let mut out = Vec::new();
        write_signed(-15, &mut out);
        assert_eq!(out, b"-15");
    }
}
