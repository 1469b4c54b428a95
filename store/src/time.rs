//! Points in time and spans of time.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The longest duration that [`parse_duration`] accepts: a hundred years.
const DURATION_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

const HOUR: Duration = Duration::from_hours(1);
const HOUR_MILLIS: i64 = 3_600_000;

/// A point in time: milliseconds since 1970-01-01 00:00 UTC, in the database, in JSON and in text.
#[derive(
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    sqlx::Type,
    serde::Serialize,
    serde::Deserialize,
)]
#[sqlx(transparent)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// 1970-01-01 00:00 UTC.
    pub const EPOCH: Self = Self(0);
    /// The latest timestamp: later than any that occurs.
    pub const MAX: Self = Self(i64::MAX);

    /// The time now. A clock before 1970 reads as 1970.
    #[must_use]
    pub fn now() -> Self {
        Self(millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()))
    }

    /// The timestamp `millis` milliseconds after 1970.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// The timestamp `span` later, at most [`Timestamp::MAX`].
    #[must_use]
    pub fn saturating_add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(millis(span)))
    }

    /// The timestamp `span` earlier, at least the earliest one.
    #[must_use]
    pub fn saturating_sub(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(millis(span)))
    }

    /// The beginning of its hour.
    #[must_use]
    pub fn hour(self) -> Self {
        Self(self.0.div_euclid(HOUR_MILLIS).saturating_mul(HOUR_MILLIS))
    }

    /// The beginning of the hour before its own.
    #[must_use]
    pub fn previous_hour(self) -> Self {
        self.saturating_sub(HOUR).hour()
    }

    /// The same time without a part of a second.
    #[must_use]
    pub fn whole_seconds(self) -> Self {
        Self(self.0.div_euclid(1000).saturating_mul(1000))
    }

    /// The time from `earlier` to this timestamp; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// [`Timestamp::now`].
#[must_use]
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// The text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid duration {0:?}: write it like 90s, 15m, 12h, 30d or 8w")]
pub struct ParseDurationError(String);

/// Parses a duration of at most a hundred years: a number and a unit, one of s, m, h, d and w.
///
/// ```
/// # use std::time::Duration;
/// assert_eq!(store::parse_duration("15m"), Ok(Duration::from_secs(900)));
/// assert!(store::parse_duration("15").is_err());
/// ```
///
/// # Errors
/// If the text has another form, or the duration is longer.
pub fn parse_duration(text: &str) -> Result<Duration, ParseDurationError> {
    let text = text.trim();
    let invalid = || ParseDurationError(text.to_owned());
    let unit = match text.as_bytes().last() {
        Some(b's') => 1,
        Some(b'm') => 60,
        Some(b'h') => 60 * 60,
        Some(b'd') => 24 * 60 * 60,
        Some(b'w') => 7 * 24 * 60 * 60,
        _ => return Err(invalid()),
    };
    let digits = &text[..text.len() - 1];
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(invalid());
    }
    let count: u64 = digits.parse().map_err(|_| invalid())?;
    let duration = count.checked_mul(unit).map(Duration::from_secs);
    duration.filter(|duration| *duration <= DURATION_MAX).ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duration_is_a_number_and_a_unit() {
        for (text, seconds) in [("90s", 90), ("15m", 900), (" 12h ", 43_200), ("30d", 2_592_000), ("0s", 0)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in
            ["", "d", "30", "-1d", "+1d", "1.5h", "30 d", "1y", "99999999999999999999s", "99999999w", "1é"]
        {
            assert_eq!(parse_duration(bad), Err(ParseDurationError(bad.into())), "{bad}");
        }
    }

    #[test]
    fn hours_and_seconds_begin_at_or_before_a_time() {
        let hour = HOUR_MILLIS;
        for (at, begins) in [(0, 0), (hour - 1, 0), (hour, hour), (hour + 5, hour), (-1, -hour)] {
            assert_eq!(Timestamp(at).hour(), Timestamp(begins), "{at}");
            assert_eq!(Timestamp(at).previous_hour(), Timestamp(begins - hour), "{at}");
        }
        assert_eq!([1999, 2000, -1].map(|at| Timestamp(at).whole_seconds().0), [1000, 2000, -1000]);
    }

    #[test]
    fn timestamp_arithmetic_saturates() {
        let second = Duration::from_secs(1);
        let (early, late) = (Timestamp(500), Timestamp(2000));
        assert_eq!(early.saturating_add(second), Timestamp(1500));
        assert_eq!(late.saturating_sub(second), Timestamp(1000));
        assert_eq!((late.since(early), early.since(late)), (Duration::from_millis(1500), Duration::ZERO));
        assert_eq!(Timestamp::MAX.saturating_add(second), Timestamp::MAX);
        assert_eq!(early.saturating_add(Duration::MAX), Timestamp::MAX);
        assert_eq!(Timestamp::MAX.since(Timestamp(i64::MIN)), Timestamp::MAX.since(Timestamp::EPOCH));
    }
}
