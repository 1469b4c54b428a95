//! Moments for people, in UTC.

use ::time::OffsetDateTime;
use store::Timestamp;

use super::table::{time_since, time_until};

/// A past time with its moment: `2026-11-29 12:05 UTC (3 minutes ago)`.
pub(crate) fn past(then: Timestamp) -> String {
    format!("{} ({})", utc(then), time_since(then))
}

/// A future time with its moment: `2026-11-29 12:05 UTC (in 3 minutes)`.
pub(crate) fn future(then: Timestamp) -> String {
    format!("{} ({})", utc(then), time_until(then))
}

/// A moment in UTC: `2026-11-29 12:05 UTC`; the number of milliseconds since 1970 if no calendar has it.
pub(crate) fn utc(at: Timestamp) -> String {
    let Ok(date) = OffsetDateTime::from_unix_timestamp(at.as_millis().div_euclid(1000)) else {
        return at.to_string();
    };
    let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", date.hour(), date.minute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_have_hours_and_a_time_zone() {
        for (millis, text) in [
            (0, "1970-01-01 00:00 UTC"),
            (1_827_442_860_512, "2027-11-28 23:01 UTC"),
            (-1, "1969-12-31 23:59 UTC"),
            (i64::MAX, "9223372036854775807"),
        ] {
            assert_eq!(utc(Timestamp::from_millis(millis)), text);
        }
    }
}
