//! Adds up what the workers counted: totals for `/metrics`, and per instance for the store.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use daemon::Shutdown;
use store::{Store, TokenId, TokenUse, UsageReport};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::metrics::Metrics;
use crate::metrics::usage::{BUCKETS, Counts};
use crate::report::heartbeat;

/// Interval between two writes to the store.
const WRITE_INTERVAL: Duration = Duration::from_secs(5);
/// Time limit for one write.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);
/// Tokens whose last use is to be written; of further ones, a later use is.
const USED_TOKENS_MAX: usize = 10_000;
/// Reports queued; a worker that finds the queue full adds its counts to its next report.
const INBOX_MAX: usize = 64;

/// What a worker counted for one instance since its last report.
#[derive(Debug, Clone)]
pub(crate) struct UsageDelta {
    pub(crate) instance_id: String,
    pub(crate) counts: Counts,
    pub(crate) latency: [u64; BUCKETS],
    pub(crate) connections: usize,
    /// The last use of each token that was used.
    pub(crate) used_tokens: Vec<TokenUse>,
}

pub(crate) type UsageSender = mpsc::Sender<Vec<UsageDelta>>;

/// Spawns the task that collects and writes usage; it ends after the last sender is dropped.
pub(crate) fn spawn(
    store: Store,
    listen: SocketAddr,
    metrics: Arc<Metrics>,
    shutdown: &Shutdown,
) -> UsageSender {
    let (sender, inbox) = mpsc::channel(INBOX_MAX);
    let proxy = heartbeat::name(listen);
    let usage_reporter =
        UsageReporter { store, proxy, metrics, pending: HashMap::new(), used_tokens: HashMap::new() };
    shutdown.spawn(usage_reporter.run(inbox));
    sender
}

struct UsageReporter {
    store: Store,
    /// This proxy's name.
    proxy: String,
    metrics: Arc<Metrics>,
    /// Not written yet: at most one per instance, however long the store is unavailable.
    pending: HashMap<String, UsageDelta>,
    /// Not written yet.
    used_tokens: HashMap<TokenId, TokenUse>,
}

impl UsageReporter {
    /// Runs until all workers have stopped, then writes the rest.
    async fn run(mut self, mut inbox: mpsc::Receiver<Vec<UsageDelta>>) {
        let mut tick = interval(WRITE_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                entries = inbox.recv() => match entries {
                    Some(entries) => self.add(entries),
                    None => return self.write().await,
                },
                _ = tick.tick() => self.write().await,
            }
        }
    }

    fn add(&mut self, entries: Vec<UsageDelta>) {
        for mut entry in entries {
            for used in entry.used_tokens.drain(..) {
                if self.used_tokens.len() < USED_TOKENS_MAX || self.used_tokens.contains_key(&used.token) {
                    self.used_tokens.insert(used.token, used);
                }
            }
            self.metrics.count(&entry.counts, &entry.latency);
            match self.pending.get_mut(&entry.instance_id) {
                Some(pending) => pending.add(&entry),
                None => drop(self.pending.insert(entry.instance_id.clone(), entry)),
            }
        }
    }

    async fn write(&mut self) {
        self.write_denials().await;
        self.write_used_tokens().await;
        if self.pending.is_empty() {
            return;
        }
        let reports: Vec<UsageReport> = self.pending.values().map(UsageDelta::report).collect();
        let write = self.metrics.store.observe("write_usage", self.store.add_usage(&self.proxy, &reports));
        match timeout(STORE_TIMEOUT, write).await {
            Ok(Ok(())) => self.pending.clear(),
            // The next write includes it: usage may be late, but never makes anything else fail.
            Ok(Err(error)) => tracing::debug!(%error, "failed to write usage"),
            Err(_) => tracing::debug!("writing usage timed out"),
        }
    }

    async fn write_used_tokens(&mut self) {
        if self.used_tokens.is_empty() {
            return;
        }
        let uses: Vec<TokenUse> = self.used_tokens.values().copied().collect();
        let write = self.metrics.store.observe("write_token_uses", self.store.record_token_uses(&uses));
        match timeout(STORE_TIMEOUT, write).await {
            Ok(Ok(())) => self.used_tokens.clear(),
            Ok(Err(error)) => tracing::debug!(%error, "failed to write when tokens were used"),
            Err(_) => tracing::debug!("writing when tokens were used timed out"),
        }
    }

    /// Denials that can't be written are dropped; `/metrics` has counted them.
    async fn write_denials(&self) {
        let denials = self.metrics.denials.take();
        if denials.is_empty() {
            return;
        }
        let write = self.metrics.store.observe("write_denials", self.store.add_denials(&denials));
        match timeout(STORE_TIMEOUT, write).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "failed to write denials"),
            Err(_) => tracing::debug!("writing denials timed out"),
        }
    }
}

impl UsageDelta {
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
