//! Times as the store keeps them.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970, the unit of every time in the store.
pub type Millis = i64;

/// The time now. A clock before 1970 reads as 0.
#[must_use]
pub fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
}

/// Text that is no span of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no span of time: write it like 90s, 15m, 12h, 30d or 8w")]
pub struct ParseDurationError(String);

/// The longest span: a hundred years.
const SPAN_MAX: Millis = 100 * 365 * 24 * 60 * 60 * 1000;

/// Reads a span of time, `30d`: a number and its unit, one of s, m, h, d, w.
pub fn span(text: &str) -> Result<Millis, ParseDurationError> {
    let text = text.trim();
    let bad = || ParseDurationError(text.to_owned());
    let unit = match text.as_bytes().last() {
        Some(b's') => 1000,
        Some(b'm') => 60 * 1000,
        Some(b'h') => 60 * 60 * 1000,
        Some(b'd') => 24 * 60 * 60 * 1000,
        Some(b'w') => 7 * 24 * 60 * 60 * 1000,
        _ => return Err(bad()),
    };
    let digits = &text[..text.len() - 1];
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad());
    }
    let count: Millis = digits.parse().map_err(|_| bad())?;
    count.checked_mul(unit).filter(|span| *span <= SPAN_MAX).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        for (text, expected) in
            [("90s", 90_000), ("15m", 900_000), (" 12h ", 43_200_000), ("30d", 2_592_000_000), ("0s", 0)]
        {
            assert_eq!(span(text), Ok(expected), "{text}");
        }
        for bad in
            ["", "d", "30", "-1d", "+1d", "1.5h", "30 d", "1y", "99999999999999999999s", "99999999w", "1é"]
        {
            assert_eq!(span(bad), Err(ParseDurationError(bad.into())), "{bad}");
        }
    }
}
