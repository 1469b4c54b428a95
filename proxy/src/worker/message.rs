//! What other threads tell a worker, and how they find the right one.

use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use store::{ConnectionId, Grant, Millis};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::doorman::{Guest, Login};
use crate::metrics::Counted;
use crate::stream::Departed;
use crate::watch::Listed;

/// Messages that may wait for a worker.
const INBOX: usize = 1024;

/// What other threads tell a worker.
pub(crate) enum Message {
    /// A connection that has logged in elsewhere and lives here.
    Guest(Box<Moving>),
    /// A grant has changed; its route perhaps.
    Changed(Arc<Grant>),
    /// To be dropped: everything said before has been done then.
    Settle(mpsc::Sender<Infallible>),
    /// Somebody wants to see the connections of an instance, in the name of this proxy.
    List { instance_id: String, proxy: String, reply: oneshot::Sender<Listed> },
    /// A connection of an instance is to end.
    End { instance_id: String, id: ConnectionId, reply: oneshot::Sender<()> },
}

/// A guest between two runtimes: its socket belongs to neither.
pub(crate) struct Moving {
    pub(super) stream: Departed,
    pub(super) source: IpAddr,
    pub(super) grant: Arc<Grant>,
    pub(super) login: Option<Login>,
    pub(super) ends_at: Millis,
    pub(super) counted: Counted,
}

pub(crate) type Inbox = mpsc::Receiver<Message>;

/// A way to each of `count` workers.
pub(crate) fn channels(count: usize) -> (Vec<mpsc::Sender<Message>>, Vec<Inbox>) {
    (0..count).map(|_| mpsc::channel(INBOX)).unzip()
}

/// Tells the home of its instance that a grant has changed.
pub(crate) async fn tell(workers: &[mpsc::Sender<Message>], grant: Arc<Grant>) {
    if let Some(worker) = workers.get(home_of(&grant.instance_id, workers.len())) {
        // A worker that has stopped has no lanes to move.
        let _ = worker.send(Message::Changed(grant)).await;
    }
}

/// Whether all workers have done what they were told, in that time.
pub(crate) async fn settle(workers: &[mpsc::Sender<Message>], patience: Duration) -> bool {
    let (settled, mut all_have) = mpsc::channel(1);
    let wait = async {
        for worker in workers {
            let _ = worker.send(Message::Settle(settled.clone())).await;
        }
        drop(settled);
        all_have.recv().await
    };
    timeout(patience, wait).await.is_ok()
}

/// Which of `count` workers an instance lives on.
pub(crate) fn home_of(instance_id: &str, count: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    instance_id.hash(&mut hasher);
    let count = u64::try_from(count.max(1)).unwrap_or(1);
    usize::try_from(hasher.finish() % count).unwrap_or(0)
}

impl Moving {
    pub(super) fn new(guest: Guest, counted: Counted) -> io::Result<Self> {
        let Guest { stream, source, grant, login, ends_at } = guest;
        Ok(Self { stream: stream.depart()?, source, grant, login, ends_at, counted })
    }
}
