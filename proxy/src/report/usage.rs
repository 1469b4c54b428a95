//! Where all workers' counts come together: totals for `/metrics`, each instance's own for the store.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use daemon::Shutdown;
use store::{Store, UsageReport};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::metrics::Metrics;
use crate::metrics::usage::{BUCKETS, Counts};
use crate::report::heartbeat;

/// Between two writes to the store.
const WRITE: Duration = Duration::from_secs(5);
/// How long the store may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Entries that may wait; a worker that finds it full keeps its counts for the next time.
const INBOX: usize = 64;

/// What a worker has counted for one instance since it last said so.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) instance_id: String,
    pub(crate) counts: Counts,
    pub(crate) latency: [u64; BUCKETS],
    pub(crate) connections: usize,
}

pub(crate) type Entries = mpsc::Sender<Vec<Entry>>;

/// Starts keeping it, in a task of `shutdown`.
pub(crate) fn keep(store: Store, listen: SocketAddr, metrics: Arc<Metrics>, shutdown: &Shutdown) -> Entries {
    let (sender, inbox) = mpsc::channel(INBOX);
    let proxy = heartbeat::name(listen);
    let usage_reporter = UsageReporter { store, proxy, metrics, owed: HashMap::new() };
    shutdown.spawn(usage_reporter.run(inbox));
    sender
}

struct UsageReporter {
    store: Store,
    /// Our name there.
    proxy: String,
    metrics: Arc<Metrics>,
    /// Not written yet. One for each instance at most, however long the store is away.
    owed: HashMap<String, Entry>,
}

impl UsageReporter {
    /// Until the last worker has ended and all is written.
    async fn run(mut self, mut inbox: mpsc::Receiver<Vec<Entry>>) {
        let mut tick = interval(WRITE);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                entries = inbox.recv() => match entries {
                    Some(entries) => self.take(entries),
                    None => return self.write().await,
                },
                _ = tick.tick() => self.write().await,
            }
        }
    }

    fn take(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            self.metrics.count(&entry.counts, &entry.latency);
            match self.owed.get_mut(&entry.instance_id) {
                Some(owed) => owed.add(&entry),
                None => drop(self.owed.insert(entry.instance_id.clone(), entry)),
            }
        }
    }

    async fn write(&mut self) {
        self.write_denials().await;
        if self.owed.is_empty() {
            return;
        }
        let reports: Vec<UsageReport> = self.owed.values().map(Entry::report).collect();
        match timeout(PATIENCE, self.store.add_usage(&self.proxy, &reports)).await {
            Ok(Ok(())) => self.owed.clear(),
            // Added to the next: numbers may be late, and are never why something else fails.
            Ok(Err(error)) => tracing::debug!(%error, "usage can't be written"),
            Err(_) => tracing::debug!("usage can't be written in time"),
        }
    }

    /// Those that can't be written are lost to their owners; `/metrics` has counted them.
    async fn write_denials(&self) {
        let denials = self.metrics.denials.take();
        if denials.is_empty() {
            return;
        }
        match timeout(PATIENCE, self.store.add_denials(&denials)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "denials can't be written"),
            Err(_) => tracing::debug!("denials can't be written in time"),
        }
    }
}

impl Entry {
    fn add(&mut self, later: &Self) {
        self.counts.add(&later.counts);
        for (sum, more) in self.latency.iter_mut().zip(later.latency) {
            *sum = sum.saturating_add(more);
        }
        self.connections = later.connections;
    }

    fn report(&self) -> UsageReport {
        let requests = self.latency.iter().enumerate().filter(|(_, requests)| **requests > 0);
        UsageReport {
            instance_id: self.instance_id.clone(),
            usage: self.counts.to_usage(),
            latency: requests
                .map(|(bucket, requests)| (1 << bucket, i64::try_from(*requests).unwrap_or(i64::MAX)))
                .collect(),
            connections: i64::try_from(self.connections).unwrap_or(i64::MAX),
        }
    }
}
