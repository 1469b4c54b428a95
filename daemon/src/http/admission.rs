//! Which connections a listener holds: at most so many in total and of one source. When they are used up, a new one
//! takes the place of the oldest idle connection of the most crowded network, so that no flood keeps others out.
//!
//! Separate from the proxy's (`proxy/src/auth/admission.rs`): idleness is a matter of requests here, and few enough
//! connections are open to look at each.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::{ConnectionMetrics, Limits};
use crate::source::{Network, Source};

/// For how long a connection may wait for its peer, to send the rest of a body or to take a response, before it counts
/// as idle. A byte now and then doesn't help: it waits until all of it has come or gone.
const WAIT_TOLERANCE: Duration = Duration::from_secs(1);

/// Why there is no place for a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rejection {
    /// Its source has too many connections, none of them idle.
    Source,
    /// There are too many connections, none of them idle.
    Total,
}

impl Rejection {
    pub(super) fn cause(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Total => "total",
        }
    }
}

/// The open connections of a listener.
#[derive(Debug)]
pub(super) struct Admission {
    total_max: usize,
    per_source_max: usize,
    trusted_proxies: Vec<IpAddr>,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    next_id: u64,
    connections: HashMap<u64, Connection>,
    sources: HashMap<Source, usize>,
    networks: HashMap<Network, usize>,
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
    admission: Arc<Admission>,
    metrics: ConnectionMetrics,
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
        self.admission.table().remove(self.id);
        self.metrics.open.dec();
    }
}

impl Admission {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            total_max: limits.connections,
            per_source_max: limits.connections_per_source,
            trusted_proxies: limits.trusted_proxies.clone(),
            table: Mutex::default(),
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
        let mut table = self.table();
        let of_source = table.sources.get(&connection.source).copied().unwrap_or(0);
        if !connection.trusted && of_source >= self.per_source_max {
            let evicted = table.evict(|other| other.source == connection.source);
            evicted.then(|| metrics.count_close("source_limit")).ok_or(Rejection::Source)?;
        }
        if table.connections.len() >= self.total_max {
            let evicted = table.evict(|_| true);
            evicted.then(|| metrics.count_close("total_limit")).ok_or(Rejection::Total)?;
        }
        let id = table.insert(connection.clone());
        drop(table);
        metrics.open.inc();
        Ok(Slot { id, connection, admission: self.clone(), metrics: metrics.clone() })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
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

/// What a connection is doing.
#[derive(Debug)]
pub(super) struct Activity(Mutex<State>);

#[derive(Debug)]
struct State {
    in_request: bool,
    /// Since when it waits for its peer: for the rest of a body, or until a response is taken.
    waiting_since: Option<Instant>,
    /// When the connection was accepted, or the last request ended.
    idle_since: Instant,
    write_timed_out: bool,
}

/// A request that is being answered, until dropped.
#[derive(Debug)]
pub(super) struct RequestInProgress(Arc<Activity>);

impl Activity {
    fn new() -> Self {
        Self(Mutex::new(State {
            in_request: false,
            waiting_since: None,
            idle_since: Instant::now(),
            write_timed_out: false,
        }))
    }

    pub(super) fn begin_request(this: Arc<Self>) -> RequestInProgress {
        this.state().in_request = true;
        RequestInProgress(this)
    }

    pub(super) fn begin_wait(&self) {
        self.state().waiting_since.get_or_insert_with(Instant::now);
    }

    pub(super) fn end_wait(&self) {
        self.state().waiting_since = None;
    }

    pub(super) fn record_write_timeout(&self) {
        self.state().write_timed_out = true;
    }

    pub(super) fn has_write_timed_out(&self) -> bool {
        self.state().write_timed_out
    }

    /// For how long the connection has served nothing but its peer's slowness; `None` if it serves a request.
    fn idle_for(&self, now: Instant) -> Option<Duration> {
        let state = self.state();
        match state.waiting_since {
            Some(since) => Some(now.saturating_duration_since(since)).filter(|it| *it >= WAIT_TOLERANCE),
            None if state.in_request => None,
            None => Some(now.saturating_duration_since(state.idle_since)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RequestInProgress {
    fn drop(&mut self) {
        let mut state = self.0.state();
        (state.in_request, state.idle_since) = (false, Instant::now());
    }
}
