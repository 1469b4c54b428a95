//! Volumes: each holds one file, the secret that lanes log in with at one instance.

use bollard::query_parameters::{ListVolumesOptionsBuilder, RemoveVolumeOptions};

use super::{Docker, created_at, ignore_not_found, map_error};
use crate::error::Error;
use crate::names::LABEL_INSTANCE;
use crate::plan::Resource;

impl Docker {
    /// Lists the installation's volumes.
    pub(crate) async fn volumes(&self) -> Result<Vec<Resource>, Error> {
        let options = ListVolumesOptionsBuilder::new().filters(&self.label_filter()).build();
        let list = self.client()?.list_volumes(Some(options)).await;
        let volumes = list.map_err(|e| map_error("list volumes", e))?.volumes.unwrap_or_default();
        Ok(volumes
            .into_iter()
            .map(|volume| Resource {
                instance: volume.labels.get(LABEL_INSTANCE).cloned(),
                created_at: created_at(&volume.labels),
                name: volume.name,
            })
            .collect())
    }

    /// Removes an instance's volume. Returns whether it existed.
    pub(crate) async fn remove_volume_of(&self, instance: &str) -> Result<bool, Error> {
        self.remove_volume(&self.names.instance(instance)).await
    }

    /// Removes a volume. Returns whether it existed.
    pub(crate) async fn remove_volume(&self, name: &str) -> Result<bool, Error> {
        ignore_not_found(
            "remove a volume",
            self.client()?.remove_volume(name, None::<RemoveVolumeOptions>).await,
        )
    }
}
