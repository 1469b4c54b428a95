//! Days, moments and waits as people read them.

use std::time::Duration;

use identity::time_text;
use store::Timestamp;
use time::OffsetDateTime;

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// A moment for a `<time>` element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Moment {
    /// For `datetime`: `2025-03-07T09:05:00Z`.
    pub(crate) iso: String,
    /// `7 Mar 2025, 09:05 UTC`.
    pub(crate) text: String,
}

impl Moment {
    pub(crate) fn new(at: Timestamp) -> Self {
        Self { iso: time_text::rfc3339(at), text: minute_of(at) }
    }
}

/// A day of the Gregorian calendar, in UTC: `7 Mar 2025`.
pub(crate) fn day(at: Timestamp) -> String {
    format!("{} {}", day_of_year(at), utc(at).year())
}

/// A day without its year, in UTC: `7 Mar`.
pub(crate) fn day_of_year(at: Timestamp) -> String {
    let date = utc(at).date();
    let month = MONTHS.get(usize::from(u8::from(date.month())) - 1).unwrap_or(&"?");
    format!("{} {month}", date.day())
}

/// An hour and minute, in UTC: `08:05`.
pub(crate) fn time_of_day(at: Timestamp) -> String {
    let time = utc(at).time();
    format!("{:02}:{:02}", time.hour(), time.minute())
}

/// A minute in UTC: `7 Mar 2025, 09:05 UTC`.
pub(crate) fn minute_of(at: Timestamp) -> String {
    format!("{}, {} UTC", day(at), time_of_day(at))
}

/// A time that the calendar can't express (beyond the year 9999) is its last day.
fn utc(at: Timestamp) -> OffsetDateTime {
    let last = time::Date::MAX.midnight().assume_utc();
    OffsetDateTime::from_unix_timestamp(at.as_millis().div_euclid(1000)).unwrap_or(last)
}

/// A length of time exactly, in its largest unit that fits: `90 minutes`, `1 hour`.
pub(crate) fn exactly(seconds: i64) -> String {
    let (count, unit) = match seconds {
        _ if seconds % 3600 == 0 => (seconds / 3600, "hour"),
        _ if seconds % 60 == 0 => (seconds / 60, "minute"),
        _ => (seconds, "second"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// When to try again: `in 40 seconds`, `in 12 minutes`. Rounded up, so that waiting that long is enough.
pub(crate) fn retry_in(wait: Duration) -> String {
    match wait.as_secs() + 1 {
        1 => "in a second".into(),
        seconds @ 2..=90 => format!("in {seconds} seconds"),
        seconds => format!("in {} minutes", seconds.div_ceil(60)),
    }
}

/// How long ago something was: `12 seconds ago`, `3 hours ago`.
pub(crate) fn ago(age: Duration) -> String {
    if age < Duration::from_secs(1) {
        "just now".to_owned()
    } else {
        format!("{} ago", time_text::duration(age))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn future_times_are_now() {
        let at = Timestamp::from_millis;
        assert_eq!(ago(at(1000).since(at(1005))), "just now");
        assert_eq!(ago(at(62_000).since(at(1000))), "1 minute ago");
    }

    #[test]
    fn moments_have_hours_and_their_zone() {
        let moment = Moment::new(Timestamp::from_millis(1_795_961_109_000));
        assert_eq!(
            (moment.text.as_str(), moment.iso.as_str()),
            ("29 Nov 2026, 14:05 UTC", "2026-11-29T14:05:09Z")
        );
        assert_eq!(minute_of(Timestamp::from_millis(-1)), "31 Dec 1969, 23:59 UTC");
    }

    #[test]
    fn lengths_are_exact() {
        let shown = [3600, 7200, 5400, 60, 90].map(exactly);
        assert_eq!(shown, ["1 hour", "2 hours", "90 minutes", "1 minute", "90 seconds"]);
    }

    #[test]
    fn days_in_utc() {
        for (at, expected) in [
            (0, "1 Jan 1970"),
            (-1, "31 Dec 1969"),
            (951_782_400_000, "29 Feb 2000"),
            (1_741_305_600_000, "7 Mar 2025"),
            (4_102_444_799_999, "31 Dec 2099"),
            (i64::MAX, "31 Dec 9999"),
        ] {
            assert_eq!(day(Timestamp::from_millis(at)), expected);
        }
        let at = Timestamp::from_millis(951_782_400_000 + 485 * 60_000);
        assert_eq!((day_of_year(at), time_of_day(at)), ("29 Feb".to_owned(), "08:05".to_owned()));
    }
}
