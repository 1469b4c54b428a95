//! Limits of plans as operators and administrators write them: which numbers there may be, and what texts mean.
//!
//! The error of each parser says what to write instead: `use a whole number above 0, or none`.

use std::ops::RangeInclusive;
use std::time::Duration;

use store::{Plan, WARM_MB_MIN};

/// Characters of a plan's name.
const NAME_LEN_MAX: usize = 40;
/// Characters of a price label.
const PRICE_LABEL_LEN_MAX: usize = 60;
/// Activity is looked at every 10 s.
const SLEEP_AFTER_MIN: Duration = Duration::from_secs(10);
/// Memory for items, in MiB.
pub const MEMORY_MB: RangeInclusive<i64> = 1..=1_048_576;
/// Client connections.
pub const CONNECTIONS: RangeInclusive<i64> = 1..=1_000_000;
/// Bytes of the largest item.
pub const ITEM_SIZE_MAX: RangeInclusive<i64> = 1024..=134_217_728;
/// Caches of a user.
pub const CACHES_PER_USER: RangeInclusive<i64> = 1..=1_000;

/// The name of a plan.
///
/// # Errors
///
/// What to write instead.
///
/// ```
/// assert!(identity::plan_limits::parse_name("small-2").is_ok());
/// assert!(identity::plan_limits::parse_name("Small").is_err());
/// ```
pub fn parse_name(text: &str) -> Result<String, String> {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !text.is_empty() && text.len() <= NAME_LEN_MAX && text.bytes().all(is_allowed) {
        Ok(text.to_owned())
    } else {
        Err(format!("use 1 to {NAME_LEN_MAX} lower-case letters, digits and hyphens"))
    }
}

/// A whole number within a range.
///
/// # Errors
///
/// What to write instead.
pub fn parse_number(text: &str, range: &RangeInclusive<i64>) -> Result<i64, String> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("use a whole number from {} to {}", range.start(), range.end()))
}

/// A number per second; `none` is no limit.
///
/// # Errors
///
/// What to write instead.
pub fn parse_rate(text: &str) -> Result<Option<i64>, String> {
    if text == "none" {
        return Ok(None);
    }
    match text.parse() {
        Ok(rate) if rate > 0 => Ok(Some(rate)),
        _ => Err("use a whole number above 0, or none".to_owned()),
    }
}

/// Caches that a user may have; `none` leaves that to the setting.
///
/// # Errors
///
/// What to write instead.
pub fn parse_caches(text: &str) -> Result<Option<i64>, String> {
    if text == "none" {
        return Ok(None);
    }
    parse_number(text, &CACHES_PER_USER).map(Some).map_err(|fix| format!("{fix}, or none"))
}

/// Seconds without a command after which a cache is put to sleep; `never` is never.
///
/// # Errors
///
/// What to write instead.
pub fn parse_sleep(text: &str) -> Result<Option<i64>, String> {
    if text == "never" {
        return Ok(None);
    }
    let time = store::parse_duration(text).ok().filter(|time| *time >= SLEEP_AFTER_MIN);
    let seconds = time.and_then(|time| i64::try_from(time.as_secs()).ok());
    let fix = "use a time of at least 10s, like 30m, 1h or 7d, or never";
    seconds.map(Some).ok_or_else(|| fix.to_owned())
}

/// What users are told that a plan costs; an empty text is nothing.
///
/// # Errors
///
/// What to write instead.
pub fn parse_price_label(text: &str) -> Result<Option<String>, String> {
    if text.chars().count() > PRICE_LABEL_LEN_MAX || text.chars().any(char::is_control) {
        return Err(format!("use at most {PRICE_LABEL_LEN_MAX} characters, on one line"));
    }
    Ok(Some(text.to_owned()).filter(|text| !text.is_empty()))
}

/// Refuses a warm plan whose caches would have too little memory for that.
///
/// # Errors
///
/// The least memory in MiB.
pub fn check_warm(plan: &Plan) -> Result<(), i64> {
    if plan.warm && plan.memory_mb < WARM_MB_MIN { Err(WARM_MB_MIN) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_mean_limits() {
        assert_eq!([parse_rate("none"), parse_rate("5")], [Ok(None), Ok(Some(5))]);
        assert_eq!([parse_caches("none"), parse_caches("1000")], [Ok(None), Ok(Some(1000))]);
        assert_eq!([parse_sleep("never"), parse_sleep("1h")], [Ok(None), Ok(Some(3600))]);
        assert_eq!(parse_price_label(""), Ok(None));
        assert_eq!(parse_number("8", &MEMORY_MB), Ok(8));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "0", "-1", "1.5", "many", "99999999999999999999"] {
            assert!(parse_rate(text).is_err() && parse_caches(text).is_err(), "{text:?}");
            assert!(parse_number(text, &MEMORY_MB).is_err() && parse_sleep(text).is_err(), "{text:?}");
        }
        assert_eq!(parse_caches("1001").unwrap_err(), "use a whole number from 1 to 1000, or none");
        assert!(parse_sleep("9s").is_err());
        for name in ["", "A", "a b", "ä", &"x".repeat(41)] {
            assert!(parse_name(name).is_err(), "{name:?}");
        }
        assert!(parse_price_label("a\nb").is_err() && parse_price_label(&"x".repeat(61)).is_err());
    }
}
