//! The old process: sends its sessions to the new one.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use daemon::{Takeover, fd_passing};
use tokio::time::{Instant, sleep, timeout_at};

use super::{LeavingSession, LeavingSessions, READY, packet, receiver};
use crate::worker::Shared;

/// Interval at which the old process looks whether it has connections left.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Spawns the task that waits for a successor and gives it the sessions. It then stops the proxy when its last connection has
/// ended, or `proxy.drain` has passed.
pub(crate) fn spawn(takeover: Takeover, leaving: LeavingSessions, shared: Arc<Shared>) {
    let shutdown = shared.shutdown.clone();
    shutdown.clone().spawn_until_stopped(async move {
        let successor = wait_for_successor(&takeover).await;
        tracing::info!("a new process has taken over: sending it the connections");
        takeover.begin();
        // The last reports of usage wait until nobody has it any more.
        let sending = Arc::downgrade(&shared);
        let sender = thread::Builder::new().name("takeover".to_owned());
        let runtime = tokio::runtime::Handle::current();
        let started = sender.spawn(move || send_all(&successor, leaving, &sending, &runtime));
        if let Err(error) = started {
            tracing::error!(%error, "failed to start the thread that sends connections");
        }
        drain(&shared).await;
        shutdown.begin();
    });
}

/// Waits for one that says that it is ready. One that ends before changes nothing.
async fn wait_for_successor(takeover: &Takeover) -> OwnedFd {
    loop {
        let socket = takeover.successor().await;
        let ready = tokio::task::spawn_blocking(move || {
            let mut message = [0; READY.len()];
            let received = fd_passing::receive(&socket, &mut message)?;
            let is_ready = message.get(..received.length) == Some(READY);
            is_ready.then_some(socket).ok_or(io::Error::from(io::ErrorKind::UnexpectedEof))
        });
        match ready.await {
            Ok(Ok(socket)) => return socket,
            _ => tracing::warn!("a new process ended before it was ready: going on"),
        }
    }
}

/// Sends sessions until none can come any more. If the new process is gone, they go on here.
fn send_all(
    successor: &OwnedFd,
    mut leaving: LeavingSessions,
    shared: &Weak<Shared>,
    runtime: &tokio::runtime::Handle,
) {
    let mut sent: u64 = 0;
    while let Some(LeavingSession { session, guard }) = leaving.blocking_recv() {
        let result = packet::encode(&session)
            .and_then(|packet| fd_passing::send(successor, &packet, Some(session.stream.as_fd())));
        match result {
            Ok(()) => sent = sent.saturating_add(1),
            Err(error) => {
                tracing::warn!(%error, sent, "failed to send a connection to the new process: it stays");
                let is_gone =
                    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset);
                if let Some(shared) = shared.upgrade() {
                    runtime.spawn(receiver::resume(shared, session, guard, is_gone));
                }
            }
        }
    }
}

/// Waits until no connection is left, for `proxy.drain` at most.
async fn drain(shared: &Shared) {
    let until = Instant::now() + shared.config.drain();
    let ended = timeout_at(until, async {
        // First, because an acceptor may have one that isn't counted yet.
        sleep(POLL_INTERVAL).await;
        while shared.metrics.connections_open() > 0 {
            sleep(POLL_INTERVAL).await;
        }
    });
    if ended.await.is_err() {
        let connections = shared.metrics.connections_open();
        tracing::info!(connections, "proxy.drain has passed: closing the connections that are left");
    }
}
