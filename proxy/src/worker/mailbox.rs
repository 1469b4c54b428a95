//! What other threads tell a worker, and how they find the right one.

use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use store::{ConnectionId, Grant, LiveConnection, Millis};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::auth::authenticated::{AuthenticatedConnection, Login};
use crate::metrics::ConnectionGuard;
use crate::transport::DetachedStream;

/// Messages that may wait for a worker.
const INBOX: usize = 1024;

/// What other threads tell a worker.
pub(crate) enum Message {
    /// A connection that has logged in elsewhere and lives here.
    AuthenticatedConnection(Box<Handoff>),
    /// A grant has changed; its route perhaps.
    Changed(Arc<Grant>),
    /// To be dropped: everything said before has been done then.
    Barrier(mpsc::Sender<Infallible>),
    /// Somebody wants to see the connections of an instance, in the name of this proxy.
    List { instance_id: String, proxy: String, reply: oneshot::Sender<ConnectionList> },
    /// A connection of an instance is to end.
    End { instance_id: String, id: ConnectionId, reply: oneshot::Sender<()> },
}

/// What a tenant says of its connections.
#[derive(Debug, Default)]
pub(crate) struct ConnectionList {
    pub(crate) total: usize,
    pub(crate) connections: Vec<LiveConnection>,
}

/// A connection between two runtimes: its socket belongs to neither.
pub(crate) struct Handoff {
    pub(super) stream: DetachedStream,
    pub(super) source: IpAddr,
    pub(super) grant: Arc<Grant>,
    pub(super) login: Option<Login>,
    pub(super) ends_at: Millis,
    pub(super) counted: ConnectionGuard,
}

pub(crate) type Inbox = mpsc::Receiver<Message>;

/// A way to each of `count` workers.
pub(crate) fn channels(count: usize) -> (Vec<mpsc::Sender<Message>>, Vec<Inbox>) {
    (0..count).map(|_| mpsc::channel(INBOX)).unzip()
}

/// Tells the tenant of its instance that a grant has changed.
pub(crate) async fn tell(workers: &[mpsc::Sender<Message>], grant: Arc<Grant>) {
    if let Some(worker) = workers.get(worker_for(&grant.instance_id, workers.len())) {
        // A worker that has stopped has no lanes to move.
        let _ = worker.send(Message::Changed(grant)).await;
    }
}

/// Whether all workers have done what they were told, in that time.
pub(crate) async fn barrier(workers: &[mpsc::Sender<Message>], patience: Duration) -> bool {
    let (settled, mut all_have) = mpsc::channel(1);
    let wait = async {
        for worker in workers {
            let _ = worker.send(Message::Barrier(settled.clone())).await;
        }
        drop(settled);
        all_have.recv().await
    };
    timeout(patience, wait).await.is_ok()
}

/// Which of `count` workers an instance lives on.
pub(crate) fn worker_for(instance_id: &str, count: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    instance_id.hash(&mut hasher);
    let count = u64::try_from(count.max(1)).unwrap_or(1);
    usize::try_from(hasher.finish() % count).unwrap_or(0)
}

impl Handoff {
    pub(super) fn new(connection: AuthenticatedConnection, counted: ConnectionGuard) -> io::Result<Self> {
        let AuthenticatedConnection { stream, source, grant, login, ends_at } = connection;
        Ok(Self { stream: stream.detach()?, source, grant, login, ends_at, counted })
    }
}
