//! The end: removes everything of one installation, by its label alone, store or no store.

use std::path::Path;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use tokio::time::{Instant, sleep};

use crate::engine::Engine;
use crate::names::Names;
use crate::{Error, firewall};

const PARALLEL: usize = 8;

/// How many of each were there and are no more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Removed {
    /// Containers of instances.
    pub containers: usize,
    /// Volumes with lane secrets.
    pub volumes: usize,
    /// Bridge networks.
    pub networks: usize,
    /// Images that were made here; pulled ones stay.
    pub images: usize,
    /// Tables of firewall rules: one or none.
    pub tables: usize,
}

/// A network may be in use for a moment after its last container is gone.
const NETWORK: Duration = Duration::from_secs(3);
const BETWEEN: Duration = Duration::from_millis(100);

/// Removes what carries the installation's label. Again is fine. Stop its provisioner first.
/// What can't be removed doesn't keep the rest; the first such error is returned in the end.
pub(crate) async fn teardown(names: Names, socket: &Path) -> Result<Removed, Error> {
    let engine = Engine::new(names.clone(), socket);
    let engine = &engine;
    let containers = engine.containers().await?.into_iter().map(|container| container.id);
    let containers = all(containers, |id| async move { engine.remove_container(&id).await }).await;
    let volumes = engine.volumes().await?.into_iter().map(|volume| volume.name);
    let volumes = all(volumes, |name| async move { engine.remove_volume(&name).await }).await;
    let networks = engine.networks().await?.into_iter().map(|network| network.name);
    let networks = all(networks, |name| remove_network(engine, name)).await;
    let images = engine.own_images().await?.into_iter().map(|(name, _)| name);
    let images = all(images, |name| async move { engine.remove_image(&name).await }).await;
    // Last: the rule stands as long as anything does that it is there for.
    let tables = firewall::remove(&names).await.map(usize::from);
    Ok(Removed {
        containers: containers?,
        volumes: volumes?,
        networks: networks?,
        images: images?,
        tables: tables?,
    })
}

async fn remove_network(engine: &Engine, name: String) -> Result<bool, Error> {
    let deadline = Instant::now() + NETWORK;
    loop {
        match engine.remove_network(&name).await {
            Err(Error::Engine { status: Some(403), .. }) if Instant::now() < deadline => sleep(BETWEEN).await,
            // Seen with 20.10 after 200 containers died at once: its own count of them is wrong until a restart.
            Err(Error::Engine { status: Some(403), .. }) => return Err(Error::NetworkInUse(name)),
            removed => return removed,
        }
    }
}

/// Removes several at a time; how many were there. All are tried.
async fn all<F, Fut>(names: impl Iterator<Item = String>, remove: F) -> Result<usize, Error>
where
    F: Fn(String) -> Fut,
    Fut: Future<Output = Result<bool, Error>>,
{
    let removed: Vec<_> = stream::iter(names).map(remove).buffer_unordered(PARALLEL).collect().await;
    removed.into_iter().try_fold(0, |count, removed| Ok(count + usize::from(removed?)))
}
