//! How roles and commands use the store.

use std::time::Duration;

use store::{LockWait, StoreOptions};

use crate::settings::Settings;

/// Time that a command waits for a database that another program has locked.
const LOCK_WAIT: Duration = Duration::from_secs(60);
/// Interval at which it says so, after the first second.
const LOCK_REPORT_SECONDS: u64 = 10;

/// A role fails a write early, and tries again.
pub(crate) fn of_role(settings: &Settings, role: &str) -> StoreOptions {
    options(settings, role, LockWait::default())
}

/// A command waits for the lock of another program, and says so.
pub(crate) fn of_command(settings: &Settings) -> StoreOptions {
    options(settings, "command", LockWait { limit: LOCK_WAIT, report: Some(report_wait) })
}

fn options(settings: &Settings, application: &str, lock_wait: LockWait) -> StoreOptions {
    let application = format!("memgate-{application}");
    StoreOptions { application, connections_max: settings.store.connections, lock_wait }
}

fn report_wait(waited: Duration) {
    let seconds = waited.as_secs();
    if seconds == 1 || (seconds > 0 && seconds.is_multiple_of(LOCK_REPORT_SECONDS)) {
        eprintln!("waiting for the database, which another program has locked for {seconds} s ...");
    }
}
