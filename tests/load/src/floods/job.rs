//! What a flood's process is told on its stdin, and what it reports at its end.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::kind::Kind;

/// However small its scale, a flood opens this many connections per second.
const CONNECTS_PER_SECOND_MIN: f64 = 10.0;

/// Work of one process of a flood. It goes through a pipe, so that no secret is on a command line.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Job {
    pub(super) kind: Kind,
    pub(super) target: SocketAddr,
    pub(super) username: String,
    pub(super) password: String,
    /// This process is the `shard`th of `shards` that share the flood's connections.
    pub(super) shard: usize,
    pub(super) shards: usize,
    /// Share of the flood's connections and of its rate, from 0 to 1.
    pub(super) scale: f64,
    /// The share of a core that [`Kind::CpuOnly`] uses.
    pub(super) cpu_share: f64,
    /// The process stops by itself after this time.
    pub(super) seconds_max: f64,
    /// The core that it runs on; `None` leaves that to the kernel.
    pub(super) core: Option<usize>,
}

/// What a flood did, added up over its processes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Report {
    /// Connections that were opened.
    pub(super) opened: u64,
    /// Connection attempts that failed.
    pub(super) failed: u64,
    /// Connections that the server closed.
    pub(super) closed: u64,
    /// Requests, logins or forms that were sent.
    pub(super) sent: u64,
    /// Replies with a denial.
    pub(super) denied: u64,
}

impl Report {
    pub(super) fn add(&mut self, other: Self) {
        self.opened += other.opened;
        self.failed += other.failed;
        self.closed += other.closed;
        self.sent += other.sent;
        self.denied += other.denied;
    }
}

/// Counts what a flood does while it runs.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) opened: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) closed: AtomicU64,
    pub(super) sent: AtomicU64,
    pub(super) denied: AtomicU64,
}

impl Tally {
    pub(super) fn count(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    pub(super) fn report(&self) -> Report {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Report {
            opened: read(&self.opened),
            failed: read(&self.failed),
            closed: read(&self.closed),
            sent: read(&self.sent),
            denied: read(&self.denied),
        }
    }
}

impl Job {
    /// The flood's connections that belong to this process, as numbers among all of them.
    pub(super) fn connections(&self) -> impl Iterator<Item = usize> + use<> {
        let all = (self.kind.connections() as f64 * self.scale).ceil() as usize;
        (self.shard..all).step_by(self.shards.max(1))
    }

    /// Connections that this process opens per second, at most.
    pub(super) fn connects_per_second(&self) -> f64 {
        (self.kind.connects_per_second() * self.scale / self.shards.max(1) as f64)
            .max(CONNECTS_PER_SECOND_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_share_all_connections() {
        let job = |shard| Job {
            kind: Kind::HalfOpenNetworks,
            target: SocketAddr::from(([127, 0, 0, 1], 1)),
            username: String::new(),
            password: String::new(),
            shard,
            shards: 3,
            scale: 0.01,
            cpu_share: 0.0,
            seconds_max: 1.0,
            core: None,
        };
        let mut all: Vec<usize> = (0..3).flat_map(|shard| job(shard).connections()).collect();
        all.sort_unstable();
        assert_eq!(all, (0..250).collect::<Vec<_>>());
    }
}
