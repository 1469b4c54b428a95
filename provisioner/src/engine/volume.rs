//! Volumes: each holds one file, the secret between an instance's memcached and its lanes.

use bollard::query_parameters::{ListVolumesOptionsBuilder, RemoveVolumeOptions};

use super::{Engine, created_at, gone, refused};
use crate::Error;
use crate::names::LABEL_INSTANCE;
use crate::plan::Thing;

impl Engine {
    /// All volumes of ours.
    pub(crate) async fn volumes(&self) -> Result<Vec<Thing>, Error> {
        let options = ListVolumesOptionsBuilder::new().filters(&self.ours()).build();
        let list = self.docker()?.list_volumes(Some(options)).await;
        let volumes = list.map_err(|e| refused("list volumes", e))?.volumes.unwrap_or_default();
        Ok(volumes
            .into_iter()
            .map(|volume| Thing {
                instance: volume.labels.get(LABEL_INSTANCE).cloned(),
                created_at: created_at(&volume.labels),
                name: volume.name,
            })
            .collect())
    }

    /// Removes an instance's volume: whether it was there.
    pub(crate) async fn remove_volume_of(&self, instance: &str) -> Result<bool, Error> {
        self.remove_volume(&self.names.instance(instance)).await
    }

    /// Whether it was there.
    pub(crate) async fn remove_volume(&self, name: &str) -> Result<bool, Error> {
        gone("remove a volume", self.docker()?.remove_volume(name, None::<RemoveVolumeOptions>).await)
    }
}
