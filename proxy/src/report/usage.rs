//! Adds up what the workers counted: totals for `/metrics`, and per instance and hour for the store.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use daemon::Shutdown;
use store::{Store, Timestamp, TokenId, TokenUse, UsageBatch, UsageReport, UsageReporterId, now};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at};

use crate::metrics::Metrics;
use crate::metrics::requests::{CountsByProtocol, total_latency};
use crate::metrics::usage::Counts;
use crate::report::heartbeat;

/// Interval between two writes to the store.
const WRITE_INTERVAL: Duration = Duration::from_secs(5);
/// Reports in one transaction: so many are written within the time limit by a slow database too.
const REPORTS_MAX: usize = 100;
/// Uses of tokens in one transaction.
const TOKEN_USES_MAX: usize = 200;
/// Time limit for one write.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the rest is tried when the proxy stops; its process waits for little longer.
const LAST_WRITE_TIMEOUT: Duration = Duration::from_secs(4);
/// Time between two attempts then.
const LAST_WRITE_INTERVAL: Duration = Duration::from_millis(100);
/// Tokens whose last use is to be written; of further ones, a later use is.
const USED_TOKENS_MAX: usize = 10_000;
/// Reports queued; a worker that finds the queue full adds its counts to its next report.
const INBOX_MAX: usize = 64;

/// What a worker counted for one instance since its last report.
#[derive(Debug, Clone)]
pub(crate) struct UsageDelta {
    pub(crate) instance_id: String,
    pub(crate) counts: Counts,
    pub(crate) requests: CountsByProtocol,
    pub(crate) connections: usize,
    /// The most connections at a time since the last report.
    pub(crate) peak_connections: usize,
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
    shutdown.spawn(UsageReporter::new(store, heartbeat::name(listen), metrics).run(inbox));
    sender
}

struct UsageReporter {
    store: Store,
    metrics: Arc<Metrics>,
    /// This proxy's name.
    proxy: String,
    id: UsageReporterId,
    /// Batches that were begun. The store adds one of a number only once.
    batches: i64,
    /// May have been added already, so it stays as it is until the store says that it has it.
    sent: Option<UsageBatch>,
    /// Not sent yet, by hour and instance: at most two hours each, however long the store is unavailable. The earlier hour
    /// is sent first, since the latest number of connections is the last one.
    pending: BTreeMap<(Timestamp, String), UsageDelta>,
    hour: Timestamp,
    /// Not written yet.
    used_tokens: HashMap<TokenId, TokenUse>,
    /// Whether the last write of usage failed.
    is_failing: bool,
}

impl UsageReporter {
    fn new(store: Store, proxy: String, metrics: Arc<Metrics>) -> Self {
        Self {
            store,
            metrics,
            proxy,
            id: UsageReporterId::new(),
            batches: 0,
            sent: None,
            pending: BTreeMap::new(),
            hour: now().hour(),
            used_tokens: HashMap::new(),
            is_failing: false,
        }
    }

    /// Runs until all workers have stopped, then writes the rest.
    async fn run(mut self, mut inbox: mpsc::Receiver<Vec<UsageDelta>>) {
        let mut tick = interval(WRITE_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                entries = inbox.recv() => match entries {
                    Some(entries) => self.add(now().hour(), entries),
                    None => return self.write_last().await,
                },
                _ = tick.tick() => {
                    self.write().await;
                    self.write_used_tokens().await;
                    self.write_denials().await;
                }
            }
        }
    }

    fn add(&mut self, hour: Timestamp, entries: Vec<UsageDelta>) {
        if hour != self.hour {
            self.hour = hour;
            self.merge_old_hours();
        }
        for mut entry in entries {
            for used in entry.used_tokens.drain(..) {
                if self.used_tokens.len() < USED_TOKENS_MAX || self.used_tokens.contains_key(&used.token) {
                    self.used_tokens.insert(used.token, used);
                }
            }
            self.metrics.count(&entry.counts, &entry.requests);
            self.add_one(hour, entry);
        }
    }

    fn add_one(&mut self, hour: Timestamp, entry: UsageDelta) {
        match self.pending.get_mut(&(hour, entry.instance_id.clone())) {
            Some(pending) => pending.add(&entry),
            None => drop(self.pending.insert((hour, entry.instance_id.clone()), entry)),
        }
    }

    /// What couldn't be written for over an hour counts in the previous hour: the store takes no older ones.
    fn merge_old_hours(&mut self) {
        let previous = self.hour.previous_hour();
        // In their order: the latest number of connections is the last one.
        for ((hour, _), entry) in std::mem::take(&mut self.pending) {
            self.add_one(hour.max(previous), entry);
        }
    }

    /// Writes what is to be written. Returns whether all of it was.
    async fn write(&mut self) -> bool {
        loop {
            if self.sent.is_none() {
                self.sent = self.next_batch();
            }
            let Some(batch) = &self.sent else { return true };
            let write = self.metrics.store.observe("write_usage", self.store.add_usage(batch, now()));
            let problem = match timeout(STORE_TIMEOUT, write).await {
                Ok(Ok(())) => {
                    self.sent = None;
                    if std::mem::take(&mut self.is_failing) {
                        tracing::info!("usage is written again");
                    }
                    continue;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the store took too long".to_owned(),
            };
            // Usage may be late, but never makes anything else fail.
            if !std::mem::replace(&mut self.is_failing, true) {
                tracing::warn!("usage can't be written now, and is kept: {problem}");
            }
            return false;
        }
    }

    async fn write_last(&mut self) {
        let deadline = Instant::now() + LAST_WRITE_TIMEOUT;
        // Usage first: bills are made from it.
        while !self.write().await {
            if Instant::now() >= deadline {
                return tracing::warn!("the last usage can't be written: the store is unavailable");
            }
            sleep(LAST_WRITE_INTERVAL).await;
        }
        let rest = async {
            self.write_used_tokens().await;
            self.write_denials().await;
        };
        if timeout_at(deadline, rest).await.is_err() {
            tracing::debug!("the last denials and uses of tokens can't be written in time");
        }
    }

    fn next_batch(&mut self) -> Option<UsageBatch> {
        let next = std::iter::from_fn(|| self.pending.pop_first()).take(REPORTS_MAX);
        let reports: Vec<_> = next.map(|((hour, _), delta)| delta.report(hour)).collect();
        if reports.is_empty() {
            return None;
        }
        self.batches += 1;
        let (reporter, number) = (self.id.clone(), self.batches);
        Some(UsageBatch { reporter, number, proxy: self.proxy.clone(), reports })
    }

    /// Writes a part at a time. What isn't written is kept.
    async fn write_used_tokens(&mut self) {
        let deadline = Instant::now() + STORE_TIMEOUT;
        while !self.used_tokens.is_empty() {
            let uses: Vec<TokenUse> = self.used_tokens.values().take(TOKEN_USES_MAX).copied().collect();
            let write = self.metrics.store.observe("write_token_uses", self.store.record_token_uses(&uses));
            match timeout_at(deadline, write).await {
                Ok(Ok(())) => uses.iter().for_each(|it| _ = self.used_tokens.remove(&it.token)),
                Ok(Err(error)) => return tracing::debug!(%error, "failed to write when tokens were used"),
                Err(_) => return tracing::debug!("writing when tokens were used timed out"),
            }
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
        self.requests.iter_mut().zip(&later.requests).for_each(|(sum, more)| sum.add(more));
        self.connections = later.connections;
        self.peak_connections = self.peak_connections.max(later.peak_connections);
    }

    fn report(self, hour: Timestamp) -> UsageReport {
        let latency = total_latency(&self.requests);
        let requests = latency.iter().enumerate().filter(|(_, requests)| **requests > 0);
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        UsageReport {
            hour,
            usage: self.counts.to_usage(),
            latency: requests
                .map(|(bucket, requests)| (1 << bucket, i64::try_from(*requests).unwrap_or(i64::MAX)))
                .collect(),
            connections: number(self.connections),
            peak_connections: number(self.peak_connections),
            instance_id: self.instance_id,
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;
    use store::{Database, Usage};

    use super::*;

    fn delta(hits: u64, connections: usize) -> UsageDelta {
        let counts = Counts { hits, ..Counts::default() };
        let (requests, peak_connections) = (CountsByProtocol::default(), connections + 1);
        let (instance_id, used_tokens) = ("one".to_owned(), Vec::new());
        UsageDelta { instance_id, counts, requests, connections, peak_connections, used_tokens }
    }

    async fn reporter(folder: &std::path::Path) -> UsageReporter {
        let store = Store::open(&Database::Sqlite(folder.join("memgate.db"))).await.unwrap();
        UsageReporter::new(store, "proxy".to_owned(), Arc::new(Metrics::register(&mut Registry::default())))
    }

    //
    #[tokio::test]
    async fn what_may_have_been_added_is_sent_again_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let mut reporter = reporter(folder.path()).await;
        let hour = reporter.hour;
        reporter.add(hour, vec![delta(3, 2)]);
        // Closed, so every write fails.
        let store = std::mem::replace(&mut reporter.store, {
            let other = tempfile::tempdir().unwrap();
            let store = Store::open(&Database::Sqlite(other.path().join("memgate.db"))).await.unwrap();
            store.close().await;
            store
        });
        assert!(!reporter.write().await);
        let sent = reporter.sent.clone().unwrap();
        assert_eq!((sent.number, sent.reports[0].usage.hits, sent.reports[0].peak_connections), (1, 3, 3));
        reporter.add(hour, vec![delta(4, 1)]);
        assert!(!reporter.write().await);
        assert_eq!(reporter.sent.as_ref(), Some(&sent), "neither changed nor numbered again");
        reporter.store = store;
        assert!(reporter.write().await);
        assert_eq!((reporter.batches, reporter.sent.is_none(), reporter.pending.len()), (2, true, 0));
    }

    //
    #[tokio::test]
    async fn counts_stay_in_their_hour_and_are_bounded_by_two() {
        let folder = tempfile::tempdir().unwrap();
        let mut reporter = reporter(folder.path()).await;
        let hours: Vec<_> =
            (0..5).map(|hour| Timestamp::from_millis(hour * 3_600_000 + 1_000 * 3_600_000)).collect();
        reporter.hour = hours[0];
        for (hour, hits) in hours.iter().zip([1, 10, 100, 1_000, 10_000]) {
            reporter.add(*hour, vec![delta(hits, 7), delta(hits, 3)]);
        }
        let mut reports = reporter.next_batch().unwrap().reports;
        reports.sort_by_key(|report| report.hour);
        let counted: Vec<_> = reports.iter().map(|it| (it.hour, it.usage.hits, it.connections)).collect();
        assert_eq!(counted, [(hours[3], 2_222, 3), (hours[4], 20_000, 3)]);
        assert_eq!(reports[0].usage, Usage { hits: 2_222, ..Usage::default() });
        assert_eq!(reports[0].peak_connections, 8);
    }

    //
    #[tokio::test]
    async fn many_busy_instances_are_reported_in_batches_that_fit() {
        let folder = tempfile::tempdir().unwrap();
        let mut reporter = reporter(folder.path()).await;
        let (hour, before) = (reporter.hour, reporter.hour.previous_hour());
        let all = |hits| {
            let of = |number| UsageDelta { instance_id: format!("instance-{number}"), ..delta(hits, 2) };
            (0..150).map(of).collect::<Vec<_>>()
        };
        reporter.hour = before;
        reporter.add(before, all(1));
        reporter.add(hour, all(10));
        let batches: Vec<_> = std::iter::from_fn(|| reporter.next_batch()).collect();
        assert_eq!(
            batches.iter().map(|it| (it.number, it.reports.len())).collect::<Vec<_>>(),
            [(1, 100), (2, 100), (3, 100)]
        );
        let reports: Vec<_> = batches.iter().flat_map(|it| &it.reports).collect();
        assert_eq!(reports.iter().map(|it| it.usage.hits).sum::<i64>(), 150 * 11);
        assert!(reports.is_sorted_by_key(|it| it.hour));
        reporter.add(hour, all(10));
        assert!(reporter.write().await);
        assert_eq!((reporter.batches, reporter.sent.is_none(), reporter.pending.len()), (5, true, 0));
    }
}
