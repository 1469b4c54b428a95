//! What operators' checks and reports need to know of Docker Engine, and of the installation's containers in it.

use std::path::PathBuf;

use serde::Serialize;
use store::Timestamp;

use crate::plan::Container;

/// A Docker Engine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DockerInfo {
    /// Its version.
    pub version: String,
    /// The folder with its images, containers and volumes.
    pub root: Option<PathBuf>,
    /// Its clock, when it answered.
    pub clock: Option<Timestamp>,
    /// How it stores images and containers: `overlay2`.
    pub storage_driver: String,
    /// The version of control groups: `1` or `2`.
    pub cgroup_version: String,
    /// Whether containers go on while it restarts.
    pub live_restore: bool,
}

/// A container of the installation, without anything that its owner wouldn't want others to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ContainerInfo {
    /// Its id in Docker.
    pub id: String,
    /// Its instance.
    pub instance: String,
    /// `Running`, `Stopped` and so on.
    pub state: String,
    /// The id of its image.
    pub image: String,
    /// The generation of its instance.
    pub generation: i64,
}

impl From<Container> for ContainerInfo {
    fn from(container: Container) -> Self {
        Self {
            state: format!("{:?}", container.state),
            id: container.id,
            instance: container.instance,
            image: container.image,
            generation: container.generation,
        }
    }
}
