//! Hours on the command line, in UTC.

use store::Timestamp;
use time::{Date, Month, OffsetDateTime, Time};

/// Parses `2026-11-29` or `2026-11-29T08`.
///
/// # Errors
/// If it is no hour since 1970.
pub(super) fn parse(text: &str) -> Result<Timestamp, String> {
    read(text).ok_or_else(|| format!("{text:?} is no hour: write it like 2026-11-29 or 2026-11-29T08"))
}

fn read(text: &str) -> Option<Timestamp> {
    let (date, hour) = text.split_once('T').map_or((text, "00"), |(date, hour)| (date, hour));
    let mut parts = date.split('-');
    let (year, month, day) =
        (number(parts.next()?, 4)?, number(parts.next()?, 2)?, number(parts.next()?, 2)?);
    if parts.next().is_some() || year < 1970 {
        return None;
    }
    let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
    let date = Date::from_calendar_date(i32::from(year), month, u8::try_from(day).ok()?).ok()?;
    let time = Time::from_hms(u8::try_from(number(hour, 2)?).ok()?, 0, 0).ok()?;
    let seconds = OffsetDateTime::new_utc(date, time).unix_timestamp();
    Some(Timestamp::from_millis(seconds.checked_mul(1_000)?))
}

/// A number of exactly so many digits.
fn number(text: &str, digits: usize) -> Option<u16> {
    let is_plain = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
    is_plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use identity::time_text::rfc3339;

    use super::*;

    #[test]
    fn hours_are_read() {
        for (text, written) in [
            ("2026-11-29", "2026-11-29T00:00:00Z"),
            ("2026-11-29T08", "2026-11-29T08:00:00Z"),
            ("2024-02-29T23", "2024-02-29T23:00:00Z"),
            ("1970-01-01", "1970-01-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(parse(text).unwrap()), written);
        }
        for bad in [
            "",
            "2026",
            "2026-02-30",
            "2026-11-29T24",
            "2026-11-29T8",
            "2026-1-1",
            "1969-12-31",
            "2026-11-29-1",
        ] {
            assert!(parse(bad).unwrap_err().contains("2026-11-29T08"), "{bad}");
        }
    }
}
