//! Asks the store for instances that sleep to be woken. The store takes one request for each time that an instance sleeps.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use daemon::Shutdown;
use store::Store;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::metrics::Metrics;

/// Instances that wait for a write to the store; a backend that finds the queue full asks again with its next request.
const QUEUE_MAX: usize = 1_024;
/// Instances in one write.
const BATCH_MAX: usize = 64;
/// Time limit for one write, attempts, and the time between them.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPTS_MAX: usize = 5;
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Takes ids of instances.
pub(crate) type WakeSender = mpsc::Sender<String>;

/// Spawns the task that writes the requests; it ends after the last sender is dropped, or at shutdown.
pub(crate) fn spawn(store: Store, metrics: Arc<Metrics>, shutdown: &Shutdown) -> WakeSender {
    let (sender, mut inbox) = mpsc::channel(QUEUE_MAX);
    shutdown.spawn_until_stopped(async move {
        let mut batch = Vec::new();
        while inbox.recv_many(&mut batch, BATCH_MAX).await > 0 {
            let ids: BTreeSet<String> = batch.drain(..).collect();
            let ids: Vec<String> = ids.into_iter().collect();
            for _ in 0..ATTEMPTS_MAX {
                let write = metrics.store.observe("request_wake", store.request_wake(&ids));
                match timeout(STORE_TIMEOUT, write).await {
                    Ok(Ok(())) => break,
                    Ok(Err(error)) => tracing::debug!(%error, "failed to ask for instances to be woken"),
                    Err(_) => tracing::debug!("asking for instances to be woken timed out"),
                }
                sleep(RETRY_INTERVAL).await;
            }
        }
    });
    sender
}
