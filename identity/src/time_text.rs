//! Durations for people.

use std::time::Duration;

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
}
