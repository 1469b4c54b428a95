//! The `[proxy]` section of memgate.toml.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use store::{Cidr, InstanceNetworks};

use crate::session_budget;

const MB: usize = 1024 * 1024;
/// The least that `buffer_mb` may be.
const BUFFER_MB_MIN: usize = 16;
/// Bounds of `buffer_mb` if it isn't set.
const DEFAULT_BUFFER_MB_MIN: usize = 64;
const DEFAULT_BUFFER_MB_MAX: usize = 1024;
/// How long a session waits at least, whether for its client or for memcached.
const WAIT_TIMEOUT_MIN: Duration = Duration::from_secs(60);
/// The clock that stalled connections are found by wraps after 71 minutes.
const STALL_SECONDS_MAX: u64 = 3600;

/// Longer than an instance takes to restart or to be replaced; clients don't wait that long.
const HOLD_SECONDS_MAX: u64 = 10;
/// The same while it wakes.
const HOLD_WAKE_SECONDS_MAX: u64 = 60;
/// A week: the old process has the faults that the upgrade mends.
const DRAIN_SECONDS_MAX: u64 = 7 * 24 * 3600;

/// Settings of the proxy.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address of the cache endpoint.
    pub listen: SocketAddr,
    /// Address of `/healthz`, `/readyz` and `/metrics`.
    pub health: SocketAddr,
    /// Worker threads; 0 means one per core.
    pub workers: usize,
    /// Maximum number of connections, lowered if the system allows fewer open files. At most a quarter of them may be
    /// unauthenticated, and at most a quarter one cache's, whatever its plan allows.
    pub connections: usize,
    /// Memory for unfinished requests and unread replies of all connections, in MB, at least 16; one cache may use a
    /// quarter of it. 0 means a quarter of the memory that the proxy may use, but 64 to 1,024.
    pub buffer_mb: usize,
    /// Seconds, 1 to 3,600, after which a connection ends that sends no more of an unfinished request, or reads no more of
    /// its replies.
    pub stall_seconds: u64,
    /// Seconds, 0 to 10, for which requests wait while an instance restarts, moves or can't be reached, before they are
    /// answered with an error; reads in flight are sent once more. 0 switches both off.
    pub hold: u64,
    /// Seconds, 0 to 60, for which requests wait while an instance that sleeps wakes, or one restarts whose plan is warm. 0
    /// answers them with an error at once, and wakes it all the same.
    pub hold_wake: u64,
    /// Seconds for which the old process of an upgrade goes on serving its TLS connections, which can't move to the new one;
    /// then it closes each between two requests.
    pub drain: u64,
    /// Accept plaintext from public addresses too.
    pub allow_plaintext: bool,
    /// The TLS certificate chain, in PEM; reloaded when the file changes.
    pub tls_certificate: Option<PathBuf>,
    /// Its private key.
    pub tls_key: Option<PathBuf>,
    /// Networks of load balancers. Their connections must begin with a PROXY protocol header (version 1 or 2), which
    /// gives the client's address.
    pub proxy_protocol_from: Vec<Cidr>,
    /// Offer SCRAM-SHA-256 in addition to PLAIN.
    pub scram: bool,
    /// Where instances can be, from the provisioner's section; without it, at any private address.
    #[serde(skip)]
    pub instance_networks: Option<InstanceNetworks>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 11211)),
            health: SocketAddr::from((Ipv4Addr::LOCALHOST, 9151)),
            workers: 0,
            connections: 100_000,
            buffer_mb: 0,
            stall_seconds: 60,
            hold: 2,
            hold_wake: 10,
            drain: 3600,
            allow_plaintext: false,
            tls_certificate: None,
            tls_key: None,
            proxy_protocol_from: Vec::new(),
            scram: false,
            instance_networks: None,
        }
    }
}

impl Config {
    /// Values out of their range, as setting and range. The proxy uses the nearest value instead.
    #[must_use]
    pub fn out_of_range(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        if self.connections == 0 {
            found.push(("proxy.connections", "give at least 1".to_owned()));
        }
        if (1..BUFFER_MB_MIN).contains(&self.buffer_mb) {
            found.push(("proxy.buffer_mb", format!("give 0 or at least {BUFFER_MB_MIN}")));
        }
        if !(1..=STALL_SECONDS_MAX).contains(&self.stall_seconds) {
            found.push(("proxy.stall_seconds", format!("give 1 to {STALL_SECONDS_MAX}")));
        }
        if self.hold > HOLD_SECONDS_MAX {
            found.push(("proxy.hold", format!("give 0 to {HOLD_SECONDS_MAX}")));
        }
        if self.hold_wake > HOLD_WAKE_SECONDS_MAX {
            found.push(("proxy.hold_wake", format!("give 0 to {HOLD_WAKE_SECONDS_MAX}")));
        }
        if self.drain > DRAIN_SECONDS_MAX {
            found.push(("proxy.drain", format!("give 0 to {DRAIN_SECONDS_MAX}")));
        }
        found
    }

    /// How many of the connections one cache may have, whatever its plan allows.
    #[must_use]
    pub fn connections_per_cache(&self) -> usize {
        session_budget::per_cache(self.connections)
    }

    /// The memory for unfinished requests and unread replies, in bytes.
    pub(crate) fn buffer_bytes(&self) -> usize {
        let mb = match self.buffer_mb {
            0 => default_buffer_mb(daemon::memory::available_bytes()),
            mb => mb.max(BUFFER_MB_MIN),
        };
        mb.saturating_mul(MB)
    }

    /// The time after which a stalled connection ends, never 0.
    pub(crate) fn stall_timeout(&self) -> Duration {
        Duration::from_secs(self.stall_seconds.clamp(1, STALL_SECONDS_MAX))
    }

    /// How long requests wait while an instance can't be reached; 0 for not at all.
    pub(crate) fn hold(&self) -> Duration {
        Duration::from_secs(self.hold.min(HOLD_SECONDS_MAX))
    }

    /// How long requests wait while an instance wakes, or a warm one restarts; 0 for not at all.
    pub(crate) fn hold_wake(&self) -> Duration {
        Duration::from_secs(self.hold_wake.min(HOLD_WAKE_SECONDS_MAX))
    }

    /// How long the old process of an upgrade serves the connections that can't move.
    pub(crate) fn drain(&self) -> Duration {
        Duration::from_secs(self.drain.min(DRAIN_SECONDS_MAX))
    }

    /// How long a session waits in one go for its client, or for memcached. Stalled clients are found earlier if
    /// [`Config::stall_timeout`] is shorter.
    pub(crate) fn wait_timeout(&self) -> Duration {
        self.stall_timeout().max(WAIT_TIMEOUT_MIN)
    }

    /// Whether connections from `peer` are a load balancer's.
    pub(crate) fn is_balancer(&self, peer: IpAddr) -> bool {
        self.proxy_protocol_from.iter().any(|balancers| balancers.contains(peer))
    }

    /// The number of workers, never 0.
    #[must_use]
    pub fn workers(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, NonZero::get),
            n => n,
        }
    }
}

/// A quarter of `memory` bytes, within bounds.
fn default_buffer_mb(memory: usize) -> usize {
    (memory / MB / 4).clamp(DEFAULT_BUFFER_MB_MIN, DEFAULT_BUFFER_MB_MAX)
}
