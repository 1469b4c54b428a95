//! The end: removes everything of one installation, by its label alone, store or no store.

use std::path::Path;

use futures_util::stream::{self, StreamExt, TryStreamExt};

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

/// Removes what carries the installation's label. Again is fine. Stop its provisioner first.
pub(crate) async fn teardown(names: Names, socket: &Path) -> Result<Removed, Error> {
    let engine = Engine::new(names.clone(), socket);
    let engine = &engine;
    let containers = engine.containers().await?.into_iter().map(|container| container.id);
    let containers = all(containers, |id| async move { engine.remove_container(&id).await }).await?;
    let volumes = engine.volumes().await?.into_iter().map(|volume| volume.name);
    let volumes = all(volumes, |name| async move { engine.remove_volume(&name).await }).await?;
    let networks = engine.networks().await?.into_iter().map(|network| network.name);
    let networks = all(networks, |name| async move { engine.remove_network(&name).await }).await?;
    let images = engine.own_images().await?.into_iter().map(|(name, _)| name);
    let images = all(images, |name| async move { engine.remove_image(&name).await }).await?;
    // Last: the rule stands as long as anything does that it is there for.
    let tables = usize::from(firewall::remove(&names).await?);
    Ok(Removed { containers, volumes, networks, images, tables })
}

/// Removes several at a time; how many were there.
async fn all<F, Fut>(names: impl Iterator<Item = String>, remove: F) -> Result<usize, Error>
where
    F: Fn(String) -> Fut,
    Fut: Future<Output = Result<bool, Error>>,
{
    stream::iter(names)
        .map(remove)
        .buffer_unordered(PARALLEL)
        .try_fold(0, |count, removed| async move { Ok(count + usize::from(removed)) })
        .await
}
