//! What triggers the reconciler: changes in the store, and Docker's events.

use std::time::Duration;

use futures_util::StreamExt;
use store::{Instance, Network, Operation, Store, StoreError};
use tokio::sync::mpsc::Sender;
use tokio::time::{interval, sleep};

use crate::docker::{Docker, DockerEvent};
use crate::error::Error;
use crate::firewall::{Checked, Firewall};
use crate::networks::Networks;

/// Interval at which Docker is asked whether it answers, and of the check of bridges.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const BRIDGE_INTERVAL: Duration = Duration::from_secs(1);
/// A bridge that is broken in so many checks in a row is no passing state.
const BROKEN_CHECKS_MIN: u32 = 2;
const RECONNECT_BACKOFF_MIN: Duration = Duration::from_millis(250);
const RECONNECT_BACKOFF_MAX: Duration = Duration::from_secs(5);

/// A trigger of the reconciler.
#[derive(Debug)]
pub(crate) enum Event {
    /// An instance, its cache, user, plan or route was written, or what was asked of it: its unfinished operations.
    InstanceChanged(Box<Instance>, Vec<Operation>),
    /// The store answers, at start or after an outage: changes may have been missed.
    StoreConnected,
    StoreDown(Error),
    /// Docker answers, at start or after an outage: changes may have been missed.
    DockerConnected,
    DockerDown(Error),
    /// Something of this installation changed in Docker.
    Docker(DockerEvent),
    /// The isolation check has found that an instance's container isn't as it should be.
    Drifted(String),
    /// The firewall's rules were changed and restored, can't be checked or restored, or are complete again.
    Firewall(Result<Checked, Error>),
    /// Networks whose bridges were removed or changed on this host; none once all are right again.
    NetworksBroken(Vec<Network>),
}

/// Reports broken networks, at each check while there are any, until the receiver is dropped.
pub(crate) async fn watch_networks(networks: &Networks, events: Sender<Event>) {
    let mut checks = 0;
    while !events.is_closed() {
        sleep(BRIDGE_INTERVAL).await;
        let broken = networks.broken();
        let was_reported = checks >= BROKEN_CHECKS_MIN;
        checks = if broken.is_empty() { 0 } else { checks.saturating_add(1) };
        if was_reported || checks >= BROKEN_CHECKS_MIN {
            let _ = events.send(Event::NetworksBroken(broken)).await;
        }
    }
}

/// Restores the firewall's rules whenever they are changed, until the receiver is dropped.
pub(crate) async fn keep_firewall(firewall: &Firewall, events: Sender<Event>) {
    let report = |result| async {
        let _ = events.send(Event::Firewall(result)).await;
    };
    tokio::select! {
        () = firewall.keep(report) => {}
        () = events.closed() => {}
    }
}

/// Sends the store's changes until the receiver is dropped.
pub(crate) async fn follow_store(store: Store, events: Sender<Event>) {
    let mut backoff = RECONNECT_BACKOFF_MIN;
    while !events.is_closed() {
        let Err(error) = read_feed(&store, &events, &mut backoff).await else { return };
        if events.send(Event::StoreDown(error)).await.is_err() {
            return;
        }
        wait(&mut backoff).await;
    }
}

async fn read_feed(store: &Store, events: &Sender<Event>, backoff: &mut Duration) -> Result<(), Error> {
    // A new feed starts at the current revision. The resync after StoreConnected finds what was missed.
    let mut feed = store.feed_of_caches().await?;
    let mut has_logged = false;
    if events.send(Event::StoreConnected).await.is_err() {
        return Ok(());
    }
    *backoff = RECONNECT_BACKOFF_MIN;
    loop {
        let changes = feed.next().await?;
        for cache in changes.caches {
            let instance = match store.instance_of_cache(&cache).await {
                Ok(Some(instance)) => instance,
                Ok(None) => continue,
                // That cache only; the resync tells how many there are.
                Err(error @ StoreError::Corrupt(_)) => {
                    if !std::mem::replace(&mut has_logged, true) {
                        tracing::error!(cache, %error, "ignoring changes of a cache with an invalid row");
                    }
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let asked = store.open_operations_of(&cache).await?;
            if events.send(Event::InstanceChanged(Box::new(instance), asked)).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// Sends Docker's events until the receiver is dropped. Calls `forget` whenever another engine may answer from now on.
pub(crate) async fn follow_docker(docker: &Docker, events: Sender<Event>, forget: impl Fn()) {
    let mut backoff = RECONNECT_BACKOFF_MIN;
    while !events.is_closed() {
        // After the connection was lost, and again once there is a new one: an answer of the old one may be read late.
        let Err(error) = read_docker(docker, &events, &mut backoff, &forget).await else { return };
        forget();
        if events.send(Event::DockerDown(error)).await.is_err() {
            return;
        }
        wait(&mut backoff).await;
    }
}

async fn read_docker(
    docker: &Docker,
    events: &Sender<Event>,
    backoff: &mut Duration,
    forget: &impl Fn(),
) -> Result<(), Error> {
    let mut stream = std::pin::pin!(docker.events()?);
    docker.ping().await?;
    forget();
    *backoff = RECONNECT_BACKOFF_MIN;
    if events.send(Event::DockerConnected).await.is_err() {
        return Ok(());
    }
    let mut pings = interval(PING_INTERVAL);
    loop {
        let event = tokio::select! {
            event = stream.next() => event,
            // A Docker that hangs keeps the stream open.
            _ = pings.tick() => {
                docker.ping().await?;
                continue;
            }
        };
        let Some(event) = event else { return Err(Error::DockerDown("it closed its event stream".into())) };
        if events.send(Event::Docker(event?)).await.is_err() {
            return Ok(());
        }
    }
}

async fn wait(backoff: &mut Duration) {
    sleep(*backoff).await;
    *backoff = backoff.saturating_mul(2).min(RECONNECT_BACKOFF_MAX);
}
