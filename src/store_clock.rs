//! Compares this machine's clock with the store's. All roles write times into the store and judge by them what has expired: with
//! clocks that differ, a token that has expired at one proxy goes on at another.

use std::time::Duration;

use store::{ClockDeviation, Store};

use crate::output::CliError;

/// Below this nobody is told: clocks that are synchronised differ by less.
const DEVIATION_WARNING: Duration = Duration::from_secs(1);
/// From here on a role that judges expiry doesn't start.
const DEVIATION_MAX: Duration = Duration::from_secs(30);
pub(crate) const FIX: &str =
    "synchronise the clocks of both machines (`timedatectl set-ntp true`), then start again";

/// Warns of a clock that differs from the store's, and refuses one that is far off.
///
/// # Errors
/// If a role that `judges_expiry` can't start with this clock, or the store doesn't answer.
pub(crate) async fn require(store: &Store, judges_expiry: bool) -> Result<(), CliError> {
    let Some(deviation) = store.clock_deviation().await? else { return Ok(()) };
    let Some(text) = warning(deviation) else { return Ok(()) };
    if judges_expiry && is_refused(deviation) {
        return Err(CliError::new(text, FIX));
    }
    tracing::warn!("{text}: {FIX}");
    Ok(())
}

/// What is wrong with a clock, if anything is.
pub(crate) fn warning(deviation: ClockDeviation) -> Option<String> {
    let ClockDeviation { at_least, is_ahead } = deviation;
    let direction = if is_ahead { "behind" } else { "ahead of" };
    (at_least > DEVIATION_WARNING)
        .then(|| format!("this machine's clock is {:.1} s {direction} the store's", at_least.as_secs_f64()))
}

/// Whether roles that judge expiry refuse to start.
pub(crate) fn is_refused(deviation: ClockDeviation) -> bool {
    deviation.at_least > DEVIATION_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_differences_are_ignored_and_large_ones_named() {
        let of = |millis, is_ahead| ClockDeviation { at_least: Duration::from_millis(millis), is_ahead };
        assert_eq!(warning(of(1_000, true)), None);
        assert_eq!(warning(of(2_500, true)).unwrap(), "this machine's clock is 2.5 s behind the store's");
        assert!(warning(of(40_000, false)).unwrap().contains("40.0 s ahead of"));
        assert!(!is_refused(of(30_000, true)) && is_refused(of(30_001, true)));
    }
}
