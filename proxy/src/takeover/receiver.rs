//! The new process: receives the sessions of the old one, and goes on with them.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use daemon::fd_passing;
use tokio::runtime::Handle;
use tokio::time::sleep;

use super::packet::{self, PACKET_MAX};
use super::{MovedSession, READY, ResumedSession};
use crate::Error;
use crate::grants::Verdict;
use crate::mailbox::{Message, worker_for};
use crate::metrics::ConnectionGuard;
use crate::metrics::denials::{ClientInfo, Subject};
use crate::worker::Shared;

/// Messages that can't be understood; after so many, nothing more of the old process is taken.
const FAULTS_MAX: usize = 16;
/// Delay before a grant is looked up again that couldn't be read.
const RETRY_BACKOFF: Duration = Duration::from_millis(200);

/// Tells the old process that this one is ready, and starts the thread that receives its sessions.
///
/// # Errors
/// If the thread can't be started.
pub(crate) fn spawn(predecessor: OwnedFd, shared: &Arc<Shared>) -> Result<(), Error> {
    // The last reports of usage wait until nobody has it any more.
    let (runtime, shared) = (Handle::current(), Arc::downgrade(shared));
    let receive = move || {
        if let Err(error) = fd_passing::send(&predecessor, READY, None) {
            return tracing::warn!(%error, "the old process has ended: its connections are closed");
        }
        receive_all(&predecessor, &shared, &runtime);
    };
    thread::Builder::new().name("takeover".to_owned()).spawn(receive).map(drop).map_err(Error::Thread)
}

/// Receives until the old process has ended, or has sent too much that isn't a session. What it hasn't sent by then stays with it.
fn receive_all(predecessor: &OwnedFd, shared: &Weak<Shared>, runtime: &Handle) {
    let mut buffer = vec![0; PACKET_MAX];
    let (mut received, mut faults): (u64, usize) = (0, 0);
    while faults < FAULTS_MAX {
        let session = match fd_passing::receive(predecessor, &mut buffer) {
            Ok(message) if message.length == 0 => break,
            Ok(message) => packet::decode(&buffer, message),
            Err(error) => Err(error),
        };
        // This process has stopped.
        let Some(shared) = shared.upgrade() else { break };
        match session {
            // The old process was allowed more, or sends what it makes up.
            Ok(_) if shared.metrics.is_full() => {
                faults = faults.saturating_add(1);
                tracing::warn!("no room for a connection of the old process: closed it");
            }
            Ok(session) => {
                received = received.saturating_add(1);
                let guard = ConnectionGuard::new(&shared.metrics.connections);
                runtime.spawn(resume(shared, session, guard, false));
            }
            // Its client has left, or the old process sends what this one doesn't understand.
            Err(error) => {
                faults = faults.saturating_add(1);
                tracing::warn!(%error, "failed to take over a connection");
            }
        }
    }
    tracing::info!(received, faults, "nothing more is taken from the old process");
}

/// Goes on with a session, if its token is still valid: sends it to the worker that owns its tenant.
pub(super) async fn resume(
    shared: Arc<Shared>,
    session: MovedSession,
    guard: ConnectionGuard,
    is_back: bool,
) {
    let grant = loop {
        match shared.grants.still_valid(session.token, session.source).await {
            Verdict::Granted(grant) => break grant,
            Verdict::Denied(outcome) => {
                if let Some(cause) = outcome.cause() {
                    let MovedSession { source, protocol, token, .. } = session;
                    let client = ClientInfo { source, protocol, tls: false };
                    shared.metrics.denials.record(Subject::Token(token), cause, client, "");
                }
                return;
            }
            // Its client waits as for any reply that the store delays.
            Verdict::Unavailable => sleep(RETRY_BACKOFF).await,
        }
    };
    let owner = worker_for(&grant.instance_id, shared.workers.len());
    if let Some(worker) = shared.workers.get(owner) {
        let resumed = ResumedSession { session, grant, guard, is_back };
        let _ = worker.send(Message::Resume(Box::new(resumed))).await;
    }
}
