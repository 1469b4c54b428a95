//! When users may have a cache sleep: as its plan says, or earlier. What texts mean.
//!
//! The error says what to write instead.

/// The shortest time that a user may choose, in seconds: an application that asks now and then would have the cache stopped and
/// started without end.
pub const SLEEP_AFTER_MIN_SECONDS: i64 = 60;
/// The longest: a year, which is as good as never.
pub const SLEEP_AFTER_MAX_SECONDS: i64 = 365 * 24 * 3600;

/// Seconds without a command after which a cache is to sleep; `plan`: the plan's time.
///
/// # Errors
///
/// What to write instead.
///
/// ```
/// assert_eq!(identity::sleep::parse_sleep_after("1h"), Ok(Some(3600)));
/// assert_eq!(identity::sleep::parse_sleep_after("plan"), Ok(None));
/// ```
pub fn parse_sleep_after(text: &str) -> Result<Option<i64>, String> {
    if text == "plan" {
        return Ok(None);
    }
    let time = store::parse_duration(text).ok();
    let seconds = time.and_then(|time| i64::try_from(time.as_secs()).ok()).filter(|it| is_allowed(*it));
    seconds.map(Some).ok_or_else(|| "use a time from 1m to 365d, like 30m, 1h or 7d, or plan".to_owned())
}

/// Whether a user may choose this time, if the plan allows it.
#[must_use]
pub fn is_allowed(seconds: i64) -> bool {
    (SLEEP_AFTER_MIN_SECONDS..=SLEEP_AFTER_MAX_SECONDS).contains(&seconds)
}

/// A choice as text, which [`parse_sleep_after`] reads: `1h`, or `plan`.
#[must_use]
pub fn sleep_after_text(seconds: Option<i64>) -> String {
    let Some(seconds) = seconds else { return "plan".to_owned() };
    let units = [(86_400, 'd'), (3600, 'h'), (60, 'm'), (1, 's')];
    let fits = units.into_iter().find(|(unit, _)| seconds % unit == 0);
    fits.map_or_else(String::new, |(unit, letter)| format!("{}{letter}", seconds / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_mean_times_and_others_are_refused() {
        for (text, seconds) in
            [("plan", None), ("1m", Some(60)), ("90m", Some(5400)), ("365d", Some(31_536_000))]
        {
            assert_eq!(parse_sleep_after(text), Ok(seconds), "{text}");
            assert_eq!(parse_sleep_after(&sleep_after_text(seconds)), Ok(seconds), "{text}");
        }
        for text in ["", "never", "59s", "366d", "-1h", "1", "99999999999999999999d", "plan "] {
            assert!(parse_sleep_after(text).is_err(), "{text:?}");
        }
    }
}
