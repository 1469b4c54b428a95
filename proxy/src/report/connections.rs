//! Lists live connections on request, and closes those that a user or operator wants closed. Without a request it
//! costs two small reads of the store per poll, and nothing on the workers.

use std::collections::HashMap;
use std::time::Duration;

use daemon::Shutdown;
use store::{ConnectionId, ListRequest, Store, StoreError, Timestamp};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::mailbox::{self, ConnectionList, Message};

/// Interval between two polls of the store.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Time limit for a worker's answer.
const WORKER_TIMEOUT: Duration = Duration::from_secs(2);

struct ConnectionAdmin {
    store: Store,
    proxy_id: String,
    workers: Vec<mpsc::Sender<Message>>,
    /// For each instance, the request that was answered last.
    answered: HashMap<String, Timestamp>,
}

/// Spawns the task that polls until shutdown.
pub(crate) fn spawn(
    store: Store,
    proxy_id: String,
    workers: Vec<mpsc::Sender<Message>>,
    shutdown: &Shutdown,
) {
    let mut admin = ConnectionAdmin { store, proxy_id, workers, answered: HashMap::new() };
    let mut ticks = shutdown.every(POLL_INTERVAL);
    shutdown.spawn(async move {
        while ticks.next().await {
            if let Err(error) = admin.poll().await {
                tracing::debug!(%error, "failed to poll connection requests");
            }
        }
    });
}

impl ConnectionAdmin {
    async fn poll(&mut self) -> Result<(), StoreError> {
        for (instance_id, id) in self.store.pending_closes(&self.proxy_id).await? {
            if self.close(&instance_id, id.clone()).await.is_some() {
                self.store.mark_closed(&instance_id, &id).await?;
            }
        }
        let requests = self.store.connection_requests().await?;
        for request in &requests {
            if self.answered.get(&request.instance_id) != Some(&request.requested_at) {
                self.answer(request).await?;
            }
        }
        let has_expired =
            |instance_id: &String| requests.iter().all(|request| request.instance_id != *instance_id);
        let expired: Vec<String> = self.answered.keys().filter(|id| has_expired(id)).cloned().collect();
        for instance_id in expired {
            self.store.forget_connections(&self.proxy_id, &instance_id).await?;
            self.answered.remove(&instance_id);
        }
        Ok(())
    }

    async fn answer(&mut self, request: &ListRequest) -> Result<(), StoreError> {
        let (reply, listed) = oneshot::channel();
        let message =
            Message::List { instance_id: request.instance_id.clone(), proxy: self.proxy_id.clone(), reply };
        let Some(ConnectionList { total, connections }) =
            self.send(&request.instance_id, message, listed).await
        else {
            return Ok(());
        };
        let total = i64::try_from(total).unwrap_or(i64::MAX);
        self.store.list_connections(&self.proxy_id, request, total, &connections).await?;
        self.answered.insert(request.instance_id.clone(), request.requested_at);
        Ok(())
    }

    /// `None` if the worker doesn't confirm in time.
    async fn close(&self, instance_id: &str, id: ConnectionId) -> Option<()> {
        let (reply, closed) = oneshot::channel();
        let message = Message::Close { instance_id: instance_id.to_owned(), id, reply };
        self.send(instance_id, message, closed).await
    }

    /// Sends `message` to the worker that owns the instance and returns its reply; `None` if there is none in time.
    async fn send<T>(&self, instance_id: &str, message: Message, reply: oneshot::Receiver<T>) -> Option<T> {
        let worker = self.workers.get(mailbox::worker_for(instance_id, self.workers.len()))?;
        let answer = async {
            worker.send(message).await.ok()?;
            reply.await.ok()
        };
        timeout(WORKER_TIMEOUT, answer).await.ok()?
    }
}
