//! Reports whether the store takes a role's writes: reads may work while the disk is full, or the database is locked or
//! read-only.

use std::time::Duration;

use daemon::Shutdown;
use daemon::health::{Health, STORE_WRITES};
use identity::time_text::duration;
use store::{Store, WriteHealth};

const INTERVAL: Duration = Duration::from_secs(1);
/// Writes may fail this long before it counts: another process holds a lock now and then.
const FAILING_AFTER: Duration = Duration::from_secs(3);
/// A failure says nothing any more after this time: a role that writes rarely doesn't know better.
const OUTDATED_AFTER: Duration = Duration::from_secs(60);

/// Reports until the shutdown.
pub(super) async fn report(store: Store, health: Health, shutdown: Shutdown) {
    let mut ticks = shutdown.every(INTERVAL);
    while ticks.next().await {
        health.set_problem(STORE_WRITES, problem(&store.write_health()));
    }
}

fn problem(writes: &WriteHealth) -> Option<String> {
    let failure = writes.failure.as_ref()?;
    if failure.since < FAILING_AFTER || failure.last > OUTDATED_AFTER {
        return None;
    }
    let good = writes.last_success.map_or("none yet".to_owned(), |age| format!("{} ago", duration(age)));
    let since = duration(failure.since);
    Some(format!("the store takes no writes for {since} ({}); last good write: {good}", failure.message))
}

#[cfg(test)]
mod tests {
    use store::WriteFailure;

    use super::*;

    // F-18, F-20.
    #[test]
    fn lasting_failures_are_reported_with_the_last_good_write() {
        let writes = |since: u64, last: u64, good: Option<u64>| WriteHealth {
            last_success: good.map(Duration::from_secs),
            failure: Some(WriteFailure {
                since: Duration::from_secs(since),
                last: Duration::from_secs(last),
                message: "the disk is full".to_owned(),
            }),
        };
        assert_eq!(problem(&WriteHealth::default()), None);
        assert_eq!(problem(&writes(1, 0, Some(2))), None, "a lock now and then");
        let text =
            "the store takes no writes for 40 seconds (the disk is full); last good write: 41 seconds ago";
        assert_eq!(problem(&writes(40, 0, Some(41))).as_deref(), Some(text));
        assert!(problem(&writes(40, 0, None)).unwrap().ends_with("last good write: none yet"));
        assert_eq!(problem(&writes(90, 70, Some(91))), None, "nothing was written since");
    }
}
