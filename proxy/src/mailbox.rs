//! Messages to workers, and which worker owns a tenant.

use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use store::{ConnectionId, Fingerprint, Grant, LiveConnection};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::auth::admission::Permit;
use crate::client_certificate::ClientCertificate;
use crate::login::Login;
use crate::metrics::ConnectionGuard;
use crate::takeover::ResumedSession;
use crate::transport::DetachedStream;

/// Messages queued for one worker; senders wait beyond that.
const INBOX_MAX: usize = 1024;

/// A message to a worker.
pub(crate) enum Message {
    /// An authenticated connection of a tenant that this worker owns.
    Handoff(Box<Handoff>),
    /// A session of such a tenant that another process has begun.
    Resume(Box<ResumedSession>),
    /// A grant has changed, perhaps in its route.
    Changed(Arc<Grant>),
    /// A client certificate was revoked.
    CertificateEnded(Fingerprint),
    /// Dropped by the worker, which shows that all earlier messages have been handled.
    Barrier(mpsc::Sender<Infallible>),
    /// List the connections of an instance; `proxy` is the id that their ids carry.
    List { instance_id: String, proxy: String, reply: oneshot::Sender<ConnectionList> },
    /// Close one connection of an instance.
    Close { instance_id: String, id: ConnectionId, reply: oneshot::Sender<()> },
}

/// Live connections of a tenant, as many as fit, and how many there are.
#[derive(Debug, Default)]
pub(crate) struct ConnectionList {
    pub(crate) total: usize,
    pub(crate) connections: Vec<LiveConnection>,
}

/// An authenticated connection on its way to another worker; its socket is registered with no runtime.
pub(crate) struct Handoff {
    pub(crate) stream: DetachedStream,
    pub(crate) source: IpAddr,
    pub(crate) grant: Arc<Grant>,
    pub(crate) login: Option<Login>,
    pub(crate) certificate: Option<ClientCertificate>,
    /// Counts the connection until its session is registered.
    pub(crate) permit: Permit,
    pub(crate) guard: ConnectionGuard,
}

pub(crate) type Inbox = mpsc::Receiver<Message>;

/// Channels to `count` workers.
pub(crate) fn channels(count: usize) -> (Vec<mpsc::Sender<Message>>, Vec<Inbox>) {
    (0..count).map(|_| mpsc::channel(INBOX_MAX)).unzip()
}

/// Sends a changed grant to the worker that owns its tenant.
pub(crate) async fn notify_grant(workers: &[mpsc::Sender<Message>], grant: Arc<Grant>) {
    if let Some(worker) = workers.get(worker_for(&grant.instance_id, workers.len())) {
        // A stopped worker has no tenants.
        let _ = worker.send(Message::Changed(grant)).await;
    }
}

/// Tells all workers that a client certificate was revoked.
pub(crate) async fn notify_certificate_end(workers: &[mpsc::Sender<Message>], fingerprint: Fingerprint) {
    for worker in workers {
        let _ = worker.send(Message::CertificateEnded(fingerprint)).await;
    }
}

/// Waits until all workers have handled all earlier messages; `false` if that takes longer than `time_limit`.
pub(crate) async fn barrier(workers: &[mpsc::Sender<Message>], time_limit: Duration) -> bool {
    let (barrier, mut all_done) = mpsc::channel(1);
    let wait = async {
        for worker in workers {
            let _ = worker.send(Message::Barrier(barrier.clone())).await;
        }
        drop(barrier);
        all_done.recv().await
    };
    timeout(time_limit, wait).await.is_ok()
}

/// Index of the worker, of `count`, that owns the tenant of an instance.
pub(crate) fn worker_for(instance_id: &str, count: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    instance_id.hash(&mut hasher);
    let count = u64::try_from(count.max(1)).unwrap_or(1);
    usize::try_from(hasher.finish() % count).unwrap_or(0)
}
