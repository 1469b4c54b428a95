//! The proxy: authenticates each connection, enforces what its grant allows, and forwards requests to its cache's
//! memcached. It reads the store, and never names SQL or Docker.
//!
//! The way of a request: `acceptor` -> `auth` (PROXY header, TLS, login) -> `mailbox` (hand-off) ->
//! `worker` -> `session` -> `protocol` (parse) -> `policy` -> `tenant`, `backend`, `lane` (encode,
//! memcached, decode) -> `protocol` (encode) -> `responses`. `report` writes what was counted to the store.

// Bytes from the network decide every index, length and conversion here: none may panic.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]

mod acceptor;
mod auth;
mod backend;
mod buffers;
mod client_certificate;
mod config;
mod descriptors;
mod error;
#[cfg(test)]
mod fixtures;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod grants;
mod lane;
mod login;
mod mailbox;
mod metrics;
mod notify;
mod policy;
mod protocol;
mod report;
mod responses;
mod session;
mod session_budget;
mod takeover;
mod tenant;
mod thread;
mod transport;
mod worker;

use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use daemon::{Process, Shutdown, listener};
use prometheus_client::registry::Registry;
use store::{LaneKey, Store, StoreError, TokenKey};
use tokio::sync::oneshot;

pub use config::Config;
pub use error::Error;

use acceptor::Acceptor;
use auth::admission::AdmissionLimiter;
use auth::backoff::Throttle;
use backend::dedicated_pool::DedicatedLanes;
use backend::wake::WakeRequester;
use buffers::BufferBudget;
use descriptors::Descriptors;
use grants::Grants;
use mailbox::Inbox;
use metrics::Metrics;
use report::heartbeat::Heartbeat;
use report::{connections, usage, wake};
use session_budget::SessionBudget;
use transport::tls_config::Certificate;
use worker::{Shared, Worker};

/// Time limit for answering what was received, once shutdown has begun (F-32).
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// The same if the store isn't followed any more: connections may belong to tokens that are no longer valid.
const UNFOLLOWED_DRAIN_TIMEOUT: Duration = Duration::from_secs(4);
/// Time limit for the tasks that follow the store, once no connection is left.
const FOLLOW_STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// Loads the TLS certificate and its key as [`run`] does, and forgets them.
///
/// # Errors
/// If only one of the two is set, a file can't be used, or they don't belong together.
pub fn check_certificate(config: &Config) -> Result<(), Error> {
    Certificate::load(config, &mut Registry::default()).map(drop)
}

/// How many files the process has to open for `proxy.connections`.
#[must_use]
pub fn wanted_files(config: &Config) -> usize {
    descriptors::wanted(config.connections, config.workers())
}

/// Runs the proxy until shutdown: binds its port, follows the store, accepts connections. The caller serves the health
/// endpoint.
///
/// # Errors
///
/// If the port can't be bound, a certificate can't be loaded, or the store can't be followed any more later, because its
/// revision has gone backwards or by a panic (the supervisor then restarts the proxy).
pub async fn run(
    config: Config,
    store: Store,
    token_key: TokenKey,
    lane_key: LaneKey,
    process: Process,
) -> Result<(), Error> {
    let Process { shutdown, reload, health, listeners, takeover } = process;
    let listeners = listeners.take_or_bind(config.listen, config.workers());
    let listeners = listeners.map_err(|source| Error::Bind { address: config.listen, source })?;
    let descriptors = Descriptors::reserve(config.connections, listeners.len());
    let mut registry = Registry::default();
    let metrics = Arc::new(Metrics::register(&mut registry));
    let certificate = Arc::new(Certificate::load(&config, &mut registry)?);
    health.publish_metrics(registry);

    let (workers, inboxes) = mailbox::channels(listeners.len());
    let usage = usage::spawn(store.clone(), config.listen, metrics.clone(), &shutdown);
    certificate.follow(health.clone(), reload, &shutdown);
    metrics.set_limits(descriptors.connections, config.buffer_bytes());
    let wake_requests = wake::spawn(store.clone(), metrics.clone(), &shutdown);
    let wake_requester = WakeRequester::new(config.hold_wake(), wake_requests);
    let grants = Arc::new(Grants::new(store.clone(), token_key, metrics.clone()));
    // Begins when no connection is left: until then, revoked tokens are closed and requests to close are obeyed.
    let drained = Shutdown::new();
    let stops = (&shutdown, &drained);
    let following = grants::follow(grants.clone(), workers.clone(), health.clone(), stops).await;
    let Some(following) = following else { return Ok(()) };
    let heartbeat = Heartbeat::new(store.clone(), config.listen);
    heartbeat.spawn(grants.applied(), metrics.store.clone(), &drained);
    connections::spawn(store, heartbeat.id().to_owned(), workers.clone(), &drained);
    let (leaving, sessions) = takeover::channel();
    let shared = Arc::new(Shared {
        admission_limiter: AdmissionLimiter::new(
            descriptors.connections,
            descriptors.closing,
            metrics.admission.clone(),
        ),
        buffers: BufferBudget::new(metrics.buffered.clone(), config.buffer_bytes()),
        sessions: SessionBudget::new(metrics.sessions.clone(), descriptors.connections),
        dedicated_lanes: DedicatedLanes::new(descriptors.dedicated_lanes),
        throttle: Throttle::new(Instant::now()),
        shutdown: shutdown.clone(),
        drained: drained.clone(),
        takeover: takeover.clone(),
        leaving,
        config,
        health,
        certificate,
        grants,
        lane_key,
        metrics,
        usage,
        wake_requester,
        workers,
    });

    let threads = match start_threads(listeners, inboxes, &shared) {
        // The process that keeps the port has closed it for the shutdown.
        Err(Error::Bind { .. }) if shutdown.has_begun() => Vec::new(),
        threads => threads?,
    };
    tracing::info!(listen = %shared.config.listen, workers = shared.workers.len(), "accepting connections");
    if let Some(predecessor) = takeover.take_predecessor() {
        takeover::spawn_receiver(predecessor, &shared)?;
    }
    takeover::spawn_sender(takeover, sessions, shared.clone());
    let error = wait_for_end(&shutdown, following).await;
    let time_limit = if error.is_some() { UNFOLLOWED_DRAIN_TIMEOUT } else { DRAIN_TIMEOUT };
    join(threads, &drained, time_limit).await;
    drained.finished(FOLLOW_STOP_TIMEOUT).await;
    heartbeat.deregister().await;
    error.map_or(Ok(()), Err)
}

/// Starts a worker and an acceptor for each listener, which listens from then on.
fn start_threads(
    listeners: Vec<TcpListener>,
    inboxes: Vec<Inbox>,
    shared: &Arc<Shared>,
) -> Result<Vec<JoinHandle<()>>, Error> {
    let mut threads = Vec::new();
    for (index, (listener, inbox)) in listeners.into_iter().zip(inboxes).enumerate() {
        let address = shared.config.listen;
        listener::listen(&listener).map_err(|source| Error::Bind { address, source })?;
        threads.push(Worker::start(index, inbox, shared.clone())?);
        threads.push(Acceptor::start(index, listener, shared.clone())?);
    }
    Ok(threads)
}

/// Waits until all threads have ended. After the time limit `drained` begins, and they close the connections that are left.
async fn join(threads: Vec<JoinHandle<()>>, drained: &Shutdown, time_limit: Duration) {
    let mut joined =
        tokio::task::spawn_blocking(move || threads.into_iter().all(|thread| thread.join().is_ok()));
    let in_time = tokio::time::timeout(time_limit, &mut joined).await;
    drained.begin();
    let joined = match in_time {
        Ok(joined) => joined,
        Err(_) => {
            tracing::warn!("closing connections that haven't read their replies in time");
            joined.await
        }
    };
    if !joined.unwrap_or(false) {
        tracing::error!("a thread panicked");
    }
}

/// Waits until the proxy must stop, and begins that. Returns why, if it must be restarted: the store isn't followed any more.
async fn wait_for_end(shutdown: &Shutdown, following: oneshot::Receiver<StoreError>) -> Option<Error> {
    tokio::select! {
        biased;
        error = following => {
            shutdown.begin();
            Some(error.map_or(Error::Following, Error::Store))
        }
        () = shutdown.begun() => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // F-25.
    #[tokio::test]
    async fn proxy_stops_with_an_error_when_the_store_is_not_followed_any_more() {
        let (shutdown, (following, ended)) = (Shutdown::new(), oneshot::channel());
        drop(following);
        assert!(matches!(wait_for_end(&shutdown, ended).await, Some(Error::Following)));
        assert!(shutdown.has_begun());
    }

    #[tokio::test]
    async fn proxy_stops_without_an_error_at_shutdown() {
        let (shutdown, (_following, ended)) = (Shutdown::new(), oneshot::channel());
        shutdown.begin();
        assert!(wait_for_end(&shutdown, ended).await.is_none());
    }
}
