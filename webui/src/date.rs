//! Days as people read them.

use store::Millis;

const DAY: Millis = 24 * 60 * 60 * 1000;
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// A day of the common calendar, in UTC: `7 Mar 2025`.
pub(crate) fn day(at: Millis) -> String {
    // Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
    let z = at.div_euclid(DAY) + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    let name = usize::try_from(month - 1).ok().and_then(|m| MONTHS.get(m)).unwrap_or(&"?");
    format!("{day} {name} {year}")
}

/// How long ago that was: `12 seconds ago`, `3 hours ago`.
pub(crate) fn ago(span: Millis) -> String {
    let seconds = span.max(0) / 1000;
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..172_800 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural} ago")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        for (span, wanted) in [
            (-5, "0 seconds ago"),
            (1999, "1 second ago"),
            (61_000, "1 minute ago"),
            (7_200_000, "2 hours ago"),
            (200_000_000, "2 days ago"),
        ] {
            assert_eq!(ago(span), wanted);
        }
    }

    #[test]
    fn days() {
        for (at, wanted) in [
            (0, "1 Jan 1970"),
            (-1, "31 Dec 1969"),
            (951_782_400_000, "29 Feb 2000"),
            (1_741_305_600_000, "7 Mar 2025"),
            (4_102_444_799_999, "31 Dec 2099"),
        ] {
            assert_eq!(day(at), wanted);
        }
    }
}
