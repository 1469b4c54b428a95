//! Which connections a listener holds: at most so many in total and of one source. When they are used up, a new one
//! takes the place of the oldest idle connection of the most crowded network, so that no flood keeps others out.
//!
//! Separate from the proxy's (`proxy/src/auth/admission.rs`): idleness is a matter of requests here, and few enough
//! connections are open to look at each.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;
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
    /// Connections that wait for a place, in the order in which they get one.
    queue: VecDeque<Queued>,
}

#[derive(Debug)]
struct Queued {
    id: u64,
    network: Network,
    wake: Arc<Notify>,
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
    id: u64,
    peer: IpAddr,
    wake: Arc<Notify>,
    table: Arc<ConnectionTable>,
    metrics: ConnectionMetrics,
}

impl Waiting {
    /// A place for the connection, if it is the first that waits: a free one, or, if it `may_evict`, that of an idle one.
    /// `None` if it isn't the first.
    pub(super) fn admit(&self, may_evict: bool) -> Option<Result<Slot, Rejection>> {
        let open = self.table.open();
        if open.queue.front().is_none_or(|first| first.id != self.id) {
            return None;
        }
        if !may_evict && open.connections.len() >= self.table.total_max {
            return Some(Err(Rejection::TotalLimit));
        }
        Some(self.table.admit_next(open, self.peer, &self.metrics))
    }

    /// Returns when a place has become free, or the connection is the first that waits.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut open = self.table.open();
        open.queue.retain(|queued| queued.id != self.id);
        open.wake_first();
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
        let mut open = self.table.open();
        open.remove(self.id);
        open.wake_first();
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

    /// A place for a new connection. It doesn't go before those that wait for one.
    pub(super) fn admit(
        self: &Arc<Self>,
        peer: IpAddr,
        metrics: &ConnectionMetrics,
    ) -> Result<Slot, Rejection> {
        let open = self.open();
        let source = Source::of(peer);
        // A source at its limit takes one of its own.
        if !open.queue.is_empty() && (self.is_trusted(peer) || open.of(source) < self.per_source_max) {
            return Err(Rejection::TotalLimit);
        }
        self.admit_next(open, peer, metrics)
    }

    fn admit_next(
        self: &Arc<Self>,
        mut open: MutexGuard<'_, OpenConnections>,
        peer: IpAddr,
        metrics: &ConnectionMetrics,
    ) -> Result<Slot, Rejection> {
        let connection = Connection {
            source: Source::of(peer),
            trusted: self.is_trusted(peer),
            activity: Arc::new(Activity::new()),
            evicted: CancellationToken::new(),
        };
        let make_room = |open: &mut OpenConnections, limit: Rejection, source: Option<Source>| {
            let may_go = |other: &Connection| source.is_none_or(|source| other.source == source);
            open.evict(may_go).then(|| metrics.count_close(limit.cause())).ok_or(limit)
        };
        if !connection.trusted && open.of(connection.source) >= self.per_source_max {
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

    /// Lets a rejected connection wait for a place behind those that wait already; `None` if that wouldn't help, or too many
    /// wait, in all or of its network.
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
        let of_network = open.queue.iter().filter(|queued| queued.network == network).count();
        let may_wait = of_network < WAITING_PER_NETWORK_MAX || self.is_trusted(peer);
        if !may_wait || open.queue.len() >= QUEUED_MAX {
            return None;
        }
        let (id, wake) = (open.next_id(), Arc::<Notify>::default());
        open.queue.push_back(Queued { id, network, wake: wake.clone() });
        drop(open);
        metrics.waiting.inc();
        Some(Waiting { id, peer, wake, table: self.clone(), metrics: metrics.clone() })
    }

    fn is_trusted(&self, peer: IpAddr) -> bool {
        self.trusted_proxies.contains(&peer.to_canonical())
    }

    fn open(&self) -> MutexGuard<'_, OpenConnections> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenConnections {
    fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// The connections of a source.
    fn of(&self, source: Source) -> usize {
        self.sources.get(&source).copied().unwrap_or(0)
    }

    fn wake_first(&self) {
        if let Some(first) = self.queue.front() {
            first.wake.notify_one();
        }
    }

    fn insert(&mut self, connection: Connection) -> u64 {
        let id = self.next_id();
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
                Some(((!connection.trusted, network, self.of(connection.source), idle), *id))
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
