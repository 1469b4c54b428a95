//! Whether this process still leads: another one does once it has the leader lock.

use std::time::Duration;

use store::{LeaderLock, Store};
use tokio::sync::Notify;
use tokio::time::timeout;

/// Interval of the check that this process still holds the leader lock.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Time limit of the check that this process still holds the leader lock.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether this process still leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leadership {
    Held,
    Lost,
    /// The store is away, and the lock with it.
    Unknown,
}

/// Waits for the next check, and takes the lock again if it went with the store's connection, and nobody else has it.
pub(crate) async fn check_leadership(
    mut lock: LeaderLock,
    store: &Store,
    check_now: &Notify,
) -> (LeaderLock, Leadership) {
    let _ = timeout(CHECK_INTERVAL, check_now.notified()).await;
    if timeout(CHECK_TIMEOUT, lock.is_held()).await.unwrap_or(false) {
        return (lock, Leadership::Held);
    }
    match timeout(CHECK_TIMEOUT, store.try_acquire_leader_lock()).await {
        Ok(Ok(Some(again))) => {
            tracing::info!("took the leader lock again");
            (again, Leadership::Held)
        }
        Ok(Ok(None)) => (lock, Leadership::Lost),
        Ok(Err(_)) | Err(_) => (lock, Leadership::Unknown),
    }
}
