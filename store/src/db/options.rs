//! How a process uses the store.

use std::time::{Duration, Instant};

use super::BUSY_TIMEOUT;

/// Interval at which a write that waits for a lock says so.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// How a process uses the store.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// PostgreSQL shows it for each connection, such as `memgate-proxy`.
    pub application: String,
    /// Connections to PostgreSQL, which allows about 100 in all by default. One of them follows the feed.
    pub connections_max: u32,
    /// What writes do while another program has locked the database.
    pub lock_wait: LockWait,
}

impl StoreOptions {
    /// Connections of a process unless it is told otherwise.
    pub const CONNECTIONS_DEFAULT: u32 = 5;
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            application: "memgate".to_owned(),
            connections_max: Self::CONNECTIONS_DEFAULT,
            lock_wait: LockWait::default(),
        }
    }
}

/// What a write does while another program has locked the database.
#[derive(Debug, Clone, Copy)]
pub struct LockWait {
    /// Time after which it fails.
    pub limit: Duration,
    /// Called once a second with the time that the write has waited.
    pub report: Option<fn(Duration)>,
}

impl Default for LockWait {
    fn default() -> Self {
        Self { limit: BUSY_TIMEOUT, report: None }
    }
}

impl LockWait {
    /// Time that the database waits before it gives the lock up.
    pub(super) fn attempt_timeout(&self) -> Duration {
        if self.report.is_some() { REPORT_INTERVAL.min(self.limit) } else { self.limit }
    }

    pub(super) fn start(&self) -> StartedWait {
        StartedWait { wait: *self, started: Instant::now() }
    }
}

/// A write that began to wait.
pub(super) struct StartedWait {
    wait: LockWait,
    started: Instant,
}

impl StartedWait {
    /// Reports the wait. Returns whether it isn't over.
    pub(super) fn continues(&mut self) -> bool {
        let Some(report) = self.wait.report else { return false };
        let waited = self.started.elapsed();
        report(waited);
        waited < self.wait.limit
    }
}
