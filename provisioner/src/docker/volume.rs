//! Volumes: each holds one file, the secret that lanes log in with at one instance.

use bollard::query_parameters::{ListVolumesOptionsBuilder, RemoveVolumeOptions};

use super::{Docker, created_at, ignore_not_found};
use crate::error::Error;
use crate::names::LABEL_INSTANCE;
use crate::plan::Resource;

impl Docker {
    /// Lists the installation's volumes.
    pub(crate) async fn volumes(&self) -> Result<Vec<Resource>, Error> {
        let options = ListVolumesOptionsBuilder::new().filters(&self.label_filter()).build();
        let list = self.read("list volumes", self.client()?.list_volumes(Some(options))).await?;
        let volumes = list.volumes.unwrap_or_default();
        Ok(volumes
            .into_iter()
            .filter(|volume| self.names.owns_instance(&volume.name, &volume.labels))
            .map(|volume| Resource {
                instance: volume.labels.get(LABEL_INSTANCE).cloned(),
                created_at: created_at(&volume.labels),
                name: volume.name,
            })
            .collect())
    }

    /// Removes an instance's volume, unless the volume of that name isn't ours. Returns whether it existed.
    pub(crate) async fn remove_volume_of(&self, instance: &str) -> Result<bool, Error> {
        match self.check_volume_of(instance).await {
            Ok(true) => self.remove_volume(&self.names.instance(instance)).await,
            Ok(false) | Err(Error::NameTaken { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether an instance's volume exists.
    ///
    /// # Errors
    /// [`Error::NameTaken`] if a volume has its name that isn't the installation's.
    pub(super) async fn check_volume_of(&self, instance: &str) -> Result<bool, Error> {
        let name = self.names.instance(instance);
        match self.read("inspect a volume", self.client()?.inspect_volume(&name)).await {
            Ok(volume) if self.names.owns_instance(&name, &volume.labels) => Ok(true),
            Ok(_) => Err(Error::NameTaken { kind: "volume", name }),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes a volume. Returns whether it existed.
    pub(crate) async fn remove_volume(&self, name: &str) -> Result<bool, Error> {
        let request = self.client()?.remove_volume(name, None::<RemoveVolumeOptions>);
        ignore_not_found(self.change("remove a volume", request).await)
    }
}
