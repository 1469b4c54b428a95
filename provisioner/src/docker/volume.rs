//! Volumes: each holds one file, the secret that lanes log in with at one instance; or a warm cache's memory, see `memory.rs`.

use std::collections::HashMap;

use bollard::query_parameters::{ListVolumesOptionsBuilder, RemoveVolumeOptions};

use super::{Docker, created_at, ignore_not_found};
use crate::error::Error;
use crate::names::{LABEL_INSTANCE, MemorySlot};
use crate::plan::Resource;

impl Docker {
    /// Lists the installation's volumes.
    pub(crate) async fn volumes(&self) -> Result<Vec<Resource>, Error> {
        let options = ListVolumesOptionsBuilder::new().filters(&self.label_filter()).build();
        let list = self.read("list volumes", self.client()?.list_volumes(Some(options))).await?;
        let volumes = list.volumes.unwrap_or_default();
        Ok(volumes
            .into_iter()
            .filter(|volume| {
                self.names.owns_instance(&volume.name, &volume.labels)
                    || self.names.owns_memory(&volume.name, &volume.labels)
            })
            .map(|volume| Resource {
                instance: volume.labels.get(LABEL_INSTANCE).cloned(),
                created_at: created_at(&volume.labels),
                name: volume.name,
            })
            .collect())
    }

    /// Removes an instance's volumes, except one of that name that isn't ours.
    pub(crate) async fn remove_volumes_of(&self, instance: &str) -> Result<(), Error> {
        let secret = self.names.instance(instance);
        let secret_labels =
            self.labels_of_volume(&secret, |labels| self.names.owns_instance(&secret, labels));
        self.remove_own_volume(&secret, secret_labels.await).await?;
        for slot in MemorySlot::ALL {
            let memory = self.names.memory(instance, slot);
            let labels = self.labels_of_volume(&memory, |labels| self.names.owns_memory(&memory, labels));
            self.remove_own_volume(&memory, labels.await).await?;
        }
        Ok(())
    }

    async fn remove_own_volume(
        &self,
        name: &str,
        labels: Result<Option<HashMap<String, String>>, Error>,
    ) -> Result<(), Error> {
        match labels {
            Ok(Some(_)) => self.remove_volume(name).await.map(drop),
            Ok(None) | Err(Error::NameTaken { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Checks that no volume that isn't ours has the name of an instance's.
    ///
    /// # Errors
    /// [`Error::NameTaken`] if one has.
    pub(super) async fn check_volume_of(&self, instance: &str) -> Result<(), Error> {
        let name = self.names.instance(instance);
        self.labels_of_volume(&name, |labels| self.names.owns_instance(&name, labels)).await.map(drop)
    }

    /// The labels of a volume, if it exists.
    ///
    /// # Errors
    /// [`Error::NameTaken`] if it isn't the installation's.
    pub(super) async fn labels_of_volume(
        &self,
        name: &str,
        owns: impl Fn(&HashMap<String, String>) -> bool,
    ) -> Result<Option<HashMap<String, String>>, Error> {
        match self.read("inspect a volume", self.client()?.inspect_volume(name)).await {
            Ok(volume) if owns(&volume.labels) => Ok(Some(volume.labels)),
            Ok(_) => Err(Error::NameTaken { kind: "volume", name: name.to_owned() }),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes a volume. Returns whether it existed.
    pub(crate) async fn remove_volume(&self, name: &str) -> Result<bool, Error> {
        let request = self.client()?.remove_volume(name, None::<RemoveVolumeOptions>);
        ignore_not_found(self.change("remove a volume", request).await)
    }
}
