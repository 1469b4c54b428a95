//! Durations for people, and times for programs.

use std::time::Duration;

use store::Timestamp;
use time::OffsetDateTime;

/// A duration in its largest fitting unit, rounded down: `12 seconds`, `1 minute`, `3 hours`, `2 days`.
///
/// ```
/// use std::time::Duration;
///
/// assert_eq!(identity::time_text::duration(Duration::from_secs(7200)), "2 hours");
/// ```
#[must_use]
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..172_800 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural}")
}

/// A time as other programs read it (RFC 3339): `2026-11-29T08:00:00Z`; milliseconds since 1970 if no calendar has it.
#[must_use]
pub fn rfc3339(at: Timestamp) -> String {
    let Ok(date) = OffsetDateTime::from_unix_timestamp(at.as_millis().div_euclid(1_000)) else {
        return at.to_string();
    };
    let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", date.hour(), date.minute(), date.second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_rounded_down() {
        for (millis, expected) in [
            (0, "0 seconds"),
            (1999, "1 second"),
            (61_000, "1 minute"),
            (7_200_000, "2 hours"),
            (200_000_000, "2 days"),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), expected);
        }
    }

    #[test]
    fn times_are_written_for_programs() {
        for (millis, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (1_795_942_799_999, "2026-11-29T08:59:59Z"),
        ] {
            assert_eq!(rfc3339(Timestamp::from_millis(millis)), expected);
        }
        assert_eq!(rfc3339(Timestamp::MAX), Timestamp::MAX.to_string());
    }
}
