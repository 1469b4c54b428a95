//! What goes wrong on the lanes of one instance: counted for `/metrics`, and logged at most once a minute, since a broken
//! memcached may break thousands of lanes.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::metrics::gauge::Gauge;

use super::connect::ConnectError;
use super::decode::ProtocolError;
use super::reachability::Reachability;
use crate::metrics::{LaneError, Metrics};

/// Interval between two log lines about the same kind of fault of one instance.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Records the faults of one instance's lanes.
pub(crate) struct LaneFaults {
    pub(crate) reachability: Reachability,
    metrics: Arc<Metrics>,
    violations: LogLimit,
    refusals: LogLimit,
    misroutes: LogLimit,
}

/// Lets one event a minute be logged, and counts the others.
#[derive(Default)]
struct LogLimit {
    logged_at: Cell<Option<Instant>>,
    suppressed: Cell<u64>,
}

impl LaneFaults {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            reachability: Reachability::default(),
            metrics,
            violations: LogLimit::default(),
            refusals: LogLimit::default(),
            misroutes: LogLimit::default(),
        }
    }

    /// The number of open shared lanes.
    pub(super) fn shared_lanes(&self) -> &Gauge {
        &self.metrics.lanes.shared
    }

    /// The number of open dedicated lanes.
    pub(super) fn dedicated_lanes(&self) -> &Gauge {
        &self.metrics.lanes.dedicated
    }

    /// A lane closes, because memcached has violated the protocol.
    pub(super) fn violation(&self, address: SocketAddr, error: ProtocolError) {
        self.metrics.lane_error(LaneError::ProtocolViolation);
        if let Some(suppressed) = self.violations.admit(Instant::now()) {
            tracing::warn!(%address, %error, suppressed, "closing lane: protocol violation by memcached");
        }
    }

    /// The route of `instance` leads to an address that no instance has. Each login says so again.
    pub(crate) fn misrouted(&self, instance: &str) {
        if let Some(suppressed) = self.misroutes.admit(Instant::now()) {
            tracing::error!(
                instance,
                suppressed,
                "route address is none of an instance: refusing to connect; is provisioner.subnets the same here?"
            );
        }
    }

    /// A lane couldn't be opened.
    pub(crate) fn connect_failed(&self, address: SocketAddr, error: &ConnectError) {
        if matches!(error, ConnectError::Io(error) if error.kind() == io::ErrorKind::TimedOut) {
            self.reachability.timed_out();
        } else {
            self.reachability.refused();
        }
        let cause = match error {
            ConnectError::Io(error) => {
                return tracing::debug!(%address, %error, "failed to open a lane");
            }
            ConnectError::NotAnInstance => LaneError::NotAnInstance,
            ConnectError::WrongSecret => LaneError::WrongSecret,
        };
        self.metrics.lane_error(cause);
        if let Some(suppressed) = self.refusals.admit(Instant::now()) {
            tracing::error!(%address, %error, suppressed, "refusing to open a lane");
        }
    }
}

impl LogLimit {
    /// The number of events since the last logged one, if this one may be logged.
    fn admit(&self, now: Instant) -> Option<u64> {
        if self.logged_at.get().is_some_and(|logged| now.duration_since(logged) < LOG_INTERVAL) {
            self.suppressed.set(self.suppressed.get().saturating_add(1));
            return None;
        }
        self.logged_at.set(Some(now));
        Some(self.suppressed.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // V-11.
    #[test]
    fn one_event_a_minute_is_logged_and_the_others_are_counted() {
        let (limit, now) = (LogLimit::default(), Instant::now());
        assert_eq!(limit.admit(now), Some(0));
        for millis in 0..1000 {
            assert_eq!(limit.admit(now + Duration::from_millis(millis)), None);
        }
        assert_eq!(limit.admit(now + LOG_INTERVAL), Some(1000));
        assert_eq!(limit.admit(now + LOG_INTERVAL), None);
    }
}
