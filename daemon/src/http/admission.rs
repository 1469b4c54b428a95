//! Which connections a listener holds: at most so many in total and of one source. When they are used up, a new one
//! takes the place of the oldest idle connection of the most crowded network, so that no flood keeps others out.
//!
//! Separate from the proxy's (`proxy/src/auth/admission.rs`): idleness is a matter of requests here, and few enough
//! connections are open to look at each.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::activity::Activity;
use super::{ConnectionLimits, ConnectionMetrics};
use crate::source::{Network, Source};

/// New connections that wait until one ends, and those of one network.
const QUEUED_MAX: usize = 64;
const WAITING_PER_NETWORK_MAX: usize = 4;

/// The limit for which a new connection is rejected, or an idle connection closed for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rejection {
    /// Its source has too many connections.
    SourceLimit,
    /// There are too many connections.
    TotalLimit,
}

impl Rejection {
    pub(super) fn cause(self) -> &'static str {
        match self {
            Self::SourceLimit => "source_limit",
            Self::TotalLimit => "total_limit",
        }
    }
}

/// The open connections of a listener, within its limits.
#[derive(Debug)]
pub(super) struct ConnectionTable {
    total_max: usize,
    per_source_max: usize,
    trusted_proxies: Vec<IpAddr>,
    open: Mutex<OpenConnections>,
}

#[derive(Debug, Default)]
struct OpenConnections {
    next_id: u64,
    connections: HashMap<u64, Connection>,
    sources: HashMap<Source, usize>,
    networks: HashMap<Network, usize>,
    /// Connections that wait for a place.
    waiting: HashMap<Network, usize>,
}

#[derive(Debug, Clone)]
struct Connection {
    source: Source,
    /// From a trusted proxy: others' connections are closed first.
    trusted: bool,
    activity: Arc<Activity>,
    evicted: CancellationToken,
}

/// The place of one open connection, until dropped.
#[derive(Debug)]
pub(super) struct Slot {
    id: u64,
    connection: Connection,
    table: Arc<ConnectionTable>,
    metrics: ConnectionMetrics,
}

/// A connection that waits for a place, until dropped.
#[derive(Debug)]
pub(super) struct Waiting {
    network: Network,
    table: Arc<ConnectionTable>,
    metrics: ConnectionMetrics,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        decrement(&mut self.table.open().waiting, self.network);
        self.metrics.waiting.dec();
    }
}

impl Slot {
    pub(super) fn activity(&self) -> Arc<Activity> {
        self.connection.activity.clone()
    }

    /// Returns when the connection has to make room for another.
    pub(super) async fn evicted(&self) {
        self.connection.evicted.cancelled().await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.table.open().remove(self.id);
        self.metrics.open.dec();
    }
}

impl ConnectionTable {
    pub(super) fn new(limits: &ConnectionLimits) -> Self {
        Self {
            total_max: limits.connections,
            per_source_max: limits.connections_per_source,
            trusted_proxies: limits.trusted_proxies.clone(),
            open: Mutex::default(),
        }
    }

    /// A place for a new connection.
    pub(super) fn admit(
        self: &Arc<Self>,
        peer: IpAddr,
        metrics: &ConnectionMetrics,
    ) -> Result<Slot, Rejection> {
        let connection = Connection {
            source: Source::of(peer),
            trusted: self.trusted_proxies.contains(&peer.to_canonical()),
            activity: Arc::new(Activity::new()),
            evicted: CancellationToken::new(),
        };
        let mut open = self.open();
        let make_room = |open: &mut OpenConnections, limit: Rejection, source: Option<Source>| {
            let may_go = |other: &Connection| source.is_none_or(|source| other.source == source);
            open.evict(may_go).then(|| metrics.count_close(limit.cause())).ok_or(limit)
        };
        let of_source = open.sources.get(&connection.source).copied().unwrap_or(0);
        if !connection.trusted && of_source >= self.per_source_max {
            make_room(&mut open, Rejection::SourceLimit, Some(connection.source))?;
        }
        if open.connections.len() >= self.total_max {
            make_room(&mut open, Rejection::TotalLimit, None)?;
        }
        let id = open.insert(connection.clone());
        drop(open);
        metrics.open.inc();
        Ok(Slot { id, connection, table: self.clone(), metrics: metrics.clone() })
    }

    /// Lets a rejected connection wait for a place; `None` if that wouldn't help, or too many wait, in all or of its
    /// network.
    pub(super) fn wait(
        self: &Arc<Self>,
        peer: IpAddr,
        rejection: Rejection,
        metrics: &ConnectionMetrics,
    ) -> Option<Waiting> {
        if rejection == Rejection::SourceLimit {
            return None;
        }
        let network = Source::of(peer).network();
        let mut open = self.open();
        let of_network = open.waiting.get(&network).copied().unwrap_or(0);
        let may_wait =
            of_network < WAITING_PER_NETWORK_MAX || self.trusted_proxies.contains(&peer.to_canonical());
        if !may_wait || open.waiting.values().sum::<usize>() >= QUEUED_MAX {
            return None;
        }
        *open.waiting.entry(network).or_default() += 1;
        drop(open);
        metrics.waiting.inc();
        Some(Waiting { network, table: self.clone(), metrics: metrics.clone() })
    }

    fn open(&self) -> MutexGuard<'_, OpenConnections> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenConnections {
    fn insert(&mut self, connection: Connection) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        *self.sources.entry(connection.source).or_default() += 1;
        *self.networks.entry(connection.source.network()).or_default() += 1;
        self.connections.insert(id, connection);
        id
    }

    fn remove(&mut self, id: u64) -> Option<Connection> {
        let connection = self.connections.remove(&id)?;
        decrement(&mut self.sources, connection.source);
        decrement(&mut self.networks, connection.source.network());
        Some(connection)
    }

    /// Closes the longest idle connection of the most crowded network, of those that `may_go`. Returns whether there
    /// was one.
    fn evict(&mut self, may_go: impl Fn(&Connection) -> bool) -> bool {
        let now = Instant::now();
        let idle = self.connections.iter().filter(|(_, connection)| may_go(connection)).filter_map(
            |(id, connection)| {
                let idle = connection.activity.idle_for(now)?;
                let network = self.networks.get(&connection.source.network()).copied().unwrap_or(0);
                let source = self.sources.get(&connection.source).copied().unwrap_or(0);
                Some(((!connection.trusted, network, source, idle), *id))
            },
        );
        let Some((_, id)) = idle.max() else { return false };
        if let Some(connection) = self.remove(id) {
            connection.evicted.cancel();
        }
        true
    }
}

fn decrement<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: K) {
    match counts.get_mut(&key) {
        Some(count) if *count > 1 => *count -= 1,
        _ => {
            counts.remove(&key);
        }
    }
}
