//! Times as the store keeps them.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970, the unit of every time in the store.
pub type Millis = i64;

/// The time now. A clock before 1970 reads as 0.
#[must_use]
pub fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
}
