//! Live connections for whoever wants to see them, and the end of those that are to end. On demand only:
//! while nobody asks, it costs the store two small reads a second and the workers nothing.

use std::collections::HashMap;
use std::time::Duration;

use daemon::Shutdown;
use store::{ConnectionId, ListRequest, Millis, Store, StoreError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::mailbox::{self, ConnectionList, Message};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// How long a worker may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

struct ConnectionAdmin {
    store: Store,
    proxy_id: String,
    workers: Vec<mpsc::Sender<Message>>,
    /// The wishes that have been answered.
    answered: HashMap<String, Millis>,
}

/// Looks until shutdown, in a task of it.
pub(crate) fn keep(store: Store, proxy_id: String, workers: Vec<mpsc::Sender<Message>>, shutdown: &Shutdown) {
    let mut watch = ConnectionAdmin { store, proxy_id, workers, answered: HashMap::new() };
    let stop = shutdown.clone();
    shutdown.spawn(async move {
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.begun() => return,
                _ = tick.tick() => {}
            }
            if let Err(error) = watch.look().await {
                tracing::debug!(%error, "can't see who wants to see connections");
            }
        }
    });
}

impl ConnectionAdmin {
    async fn look(&mut self) -> Result<(), StoreError> {
        for (instance_id, id) in self.store.pending_closes(&self.proxy_id).await? {
            if self.end(&instance_id, id.clone()).await.is_some() {
                self.store.mark_closed(&instance_id, &id).await?;
            }
        }
        let wishes = self.store.connection_requests().await?;
        for wish in &wishes {
            if self.answered.get(&wish.instance_id) != Some(&wish.asked_at) {
                self.answer(wish).await?;
            }
        }
        let is_over = |instance_id: &String| wishes.iter().all(|wish| wish.instance_id != *instance_id);
        let over: Vec<String> = self.answered.keys().filter(|id| is_over(id)).cloned().collect();
        for instance_id in over {
            self.store.forget_connections(&self.proxy_id, &instance_id).await?;
            self.answered.remove(&instance_id);
        }
        Ok(())
    }

    async fn answer(&mut self, wish: &ListRequest) -> Result<(), StoreError> {
        let (reply, listed) = oneshot::channel();
        let ask =
            Message::List { instance_id: wish.instance_id.clone(), proxy: self.proxy_id.clone(), reply };
        let Some(ConnectionList { total, connections }) = self.ask(&wish.instance_id, ask, listed).await
        else {
            return Ok(());
        };
        let total = i64::try_from(total).unwrap_or(i64::MAX);
        self.store.list_connections(&self.proxy_id, wish, total, &connections).await?;
        self.answered.insert(wish.instance_id.clone(), wish.asked_at);
        Ok(())
    }

    /// `None` if the worker hasn't said that it is done.
    async fn end(&self, instance_id: &str, id: ConnectionId) -> Option<()> {
        let (reply, ended) = oneshot::channel();
        let order = Message::Close { instance_id: instance_id.to_owned(), id, reply };
        self.ask(instance_id, order, ended).await
    }

    /// What an instance's tenant worker says to `message`; `None` if it says nothing in time.
    async fn ask<T>(&self, instance_id: &str, message: Message, reply: oneshot::Receiver<T>) -> Option<T> {
        let worker = self.workers.get(mailbox::worker_for(instance_id, self.workers.len()))?;
        let asked = async {
            worker.send(message).await.ok()?;
            reply.await.ok()
        };
        timeout(PATIENCE, asked).await.ok()?
    }
}
