//! Teardown: removes everything of one installation from Docker, by label and exact name. Needs no store.

use std::path::Path;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use tokio::time::{Instant, sleep};

use crate::docker::{Docker, Untagged};
use crate::error::Error;
use crate::firewall;
use crate::names::Names;

/// Removals in parallel.
const REMOVALS_MAX: usize = 8;
/// How long a network may still be in use after its last container was removed.
const NETWORK_TIMEOUT: Duration = Duration::from_secs(3);
const NETWORK_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// How many resources of each kind were removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Removed {
    /// Containers of instances.
    pub containers: usize,
    /// Volumes with lane secrets.
    pub volumes: usize,
    /// Bridge networks.
    pub networks: usize,
    /// Images that were built here; pulled ones are kept.
    pub images: usize,
    /// Firewall tables: one or none.
    pub tables: usize,
    /// What was kept because memgate didn't create it, or something else uses it, as `KIND NAME`.
    pub kept: Vec<String>,
}

/// Removes everything that belongs to the installation, and goes on after a failure.
///
/// # Errors
/// The first failure, after everything else was removed.
pub(crate) async fn teardown(names: Names, socket: &Path) -> Result<Removed, Error> {
    let docker = &Docker::new(names.clone(), socket);
    let containers = docker.containers().await?.into_iter().map(|container| container.id);
    let containers = remove_all(containers, |id| async move { docker.remove_container(&id).await }).await;
    let volumes = docker.volumes().await?.into_iter().map(|volume| volume.name);
    let volumes = remove_all(volumes, |name| async move { docker.remove_volume(&name).await }).await;
    let networks = docker.networks().await?.into_iter().map(|network| network.name);
    let networks = remove_all(networks, |name| remove_network(docker, name)).await;
    let images = docker.own_images().await?.into_iter().map(|image| image.name);
    let images =
        remove_all(images, |name| async move { Ok(docker.untag_image(&name).await? == Untagged::Removed) })
            .await;
    let in_use = docker.own_images().await?.into_iter().map(|image| format!("image {}", image.name));
    let foreign = docker.foreign().await?.into_iter().map(|foreign| foreign.to_string());
    let kept = in_use.chain(foreign).collect();
    // Last: it protects the host as long as a container exists.
    let tables = firewall::remove(&names).await.map(usize::from);
    Ok(Removed {
        containers: containers?,
        volumes: volumes?,
        networks: networks?,
        images: images?,
        tables: tables?,
        kept,
    })
}

/// Counts what [`teardown`] would remove.
///
/// # Errors
/// If Docker doesn't answer, or the firewall can't be read.
pub(crate) async fn survey(names: &Names, socket: &Path) -> Result<Removed, Error> {
    let docker = &Docker::new(names.clone(), socket);
    Ok(Removed {
        containers: docker.containers().await?.len(),
        volumes: docker.volumes().await?.len(),
        networks: docker.networks().await?.len(),
        images: docker.own_images().await?.len(),
        tables: usize::from(firewall::exists(names).await?),
        kept: docker.foreign().await?.into_iter().map(|foreign| foreign.to_string()).collect(),
    })
}

async fn remove_network(docker: &Docker, name: String) -> Result<bool, Error> {
    let deadline = Instant::now() + NETWORK_TIMEOUT;
    loop {
        match docker.remove_network(&name).await {
            Err(Error::Docker { status: Some(403), .. }) if Instant::now() < deadline => {
                sleep(NETWORK_RETRY_INTERVAL).await;
            }
            // Snapshot with 20.10 after 200 containers died at once: its own count of them is wrong until a restart.
            Err(Error::Docker { status: Some(403), .. }) => return Err(Error::NetworkInUse(name)),
            removed => return removed,
        }
    }
}

/// Tries to remove all, and returns how many existed.
async fn remove_all<F, Fut>(names: impl Iterator<Item = String>, remove: F) -> Result<usize, Error>
where
    F: Fn(String) -> Fut,
    Fut: Future<Output = Result<bool, Error>>,
{
    let removed: Vec<_> = stream::iter(names).map(remove).buffer_unordered(REMOVALS_MAX).collect().await;
    removed.into_iter().try_fold(0, |count, removed| Ok(count + usize::from(removed?)))
}
