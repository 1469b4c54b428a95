//! The only door: authenticates each connection, enforces what its grant allows, forwards to its
//! user's memcached. Reads the store; never names SQL or Docker.
//!
//! The way of a request: `listener` -> `auth` (login) -> `worker` (tenant) -> `session` -> `protocol`
//! (parse) -> `policy` -> `lane` (encode, memcached, decode) -> `protocol` (answer) -> `responses`.

// Bytes from the network decide every index, length and conversion here: none may panic.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]

mod auth;
mod backend;
mod config;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod grants;
mod lane;
mod listener;
mod login;
mod mailbox;
mod metrics;
mod notify;
mod policy;
mod protocol;
mod report;
mod responses;
mod session;
mod tenant;
mod transport;
mod worker;

use std::sync::Arc;
use std::time::{Duration, Instant};

use daemon::Shutdown;
use daemon::health::{self, Readiness};
use prometheus_client::registry::Registry;
use store::{LaneKey, Store, TokenKey};

pub use config::Config;
pub use error::Error;

use auth::admission::AdmissionLimiter;
use auth::backoff::Throttle;
use grants::Grants;
use metrics::Metrics;
use report::heartbeat::Heartbeat;
use report::{connections, usage};
use transport::tls_config::Certificate;
use worker::{Shared, Worker};

/// How long clients may take to be answered once the stop has begun.
const DRAIN: Duration = Duration::from_secs(4);

/// Runs the proxy until shutdown: binds its ports, follows the store, serves.
pub async fn run(
    config: Config,
    store: Store,
    token_key: TokenKey,
    lane_key: LaneKey,
    shutdown: Shutdown,
) -> Result<(), Error> {
    let mut registry = Registry::default();
    let metrics = Arc::new(Metrics::register(&mut registry));
    let readiness = Readiness::default();
    let certificate = Arc::new(Certificate::load(&config)?);
    let listeners = listener::bind(config.listen, config.workers())?;
    health::serve(config.health, readiness.clone(), registry, &shutdown)
        .await
        .map_err(|source| Error::Bind { what: "health port", address: config.health, source })?;

    let usage_reporter = usage::keep(store.clone(), config.listen, metrics.clone(), &shutdown);
    let presence = Heartbeat::new(store.clone(), config.listen);
    certificate.follow(readiness.clone(), &shutdown);
    let grants = Arc::new(Grants::new(store.clone(), token_key));
    let (senders, inboxes) = mailbox::channels(listeners.len());
    let mut over = grants::follow(grants.clone(), senders.clone(), readiness, &shutdown).await?;
    presence.keep(grants.applied(), &shutdown);
    connections::keep(store, presence.id().to_owned(), senders.clone(), &shutdown);
    let admission_limiter = AdmissionLimiter::new(config.connections_max());
    let shared = Arc::new(Shared {
        config,
        certificate,
        grants,
        lane_key,
        metrics,
        admission_limiter,
        throttle: Throttle::new(Instant::now()),
        usage_reporter,
        shutdown: shutdown.clone(),
        workers: senders,
    });

    let mut threads = Vec::new();
    for (index, (listener, inbox)) in listeners.into_iter().zip(inboxes).enumerate() {
        threads.push(Worker::start(index, listener, inbox, shared.clone())?);
    }
    tracing::info!(listen = %shared.config.listen, workers = threads.len(), "the proxy serves");
    shutdown.begun().await;
    let joined = tokio::task::spawn_blocking(move || threads.into_iter().all(|thread| thread.join().is_ok()));
    if !joined.await.unwrap_or(false) {
        tracing::error!("a worker has panicked");
    }
    presence.leave().await;
    over.try_recv().map_or(Ok(()), |error| Err(error.into()))
}
