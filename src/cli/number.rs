//! Whole numbers as arguments, with errors for people.

use std::ops::RangeInclusive;

use clap::builder::ValueParser;
use identity::plan_limits;

/// Accepts a whole number within a range.
pub(super) fn within(range: &RangeInclusive<i64>) -> ValueParser {
    between(*range.start(), *range.end())
}

/// Accepts a whole number from `min` to `max`.
pub(super) fn between(min: i64, max: i64) -> ValueParser {
    ValueParser::new(move |text: &str| parse(text, min, max))
}

fn parse(text: &str, min: i64, max: i64) -> Result<i64, String> {
    plan_limits::parse_number(text, &(min..=max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_outside_its_range_is_told_the_range() {
        assert_eq!(parse("7", 1, 10), Ok(7));
        for wrong in ["0", "11", "-1", "many", "", "1.5", "99999999999999999999"] {
            assert_eq!(parse(wrong, 1, 10), Err("use a whole number from 1 to 10".to_owned()), "{wrong}");
        }
    }
}
