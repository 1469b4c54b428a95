//! The memory of a warm cache: a volume in memory (tmpfs), on which memcached has its items. Docker unmounts such a volume,
//! and so empties it, when the last container that uses it stops. A holder is a container that uses it meanwhile: a memcached
//! without network, which nothing reaches. Docker creates, mounts and removes all of it, so the provisioner needs no privilege
//! for that, and nothing of it is left on the machine when the installation is removed.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, HostConfig, Mount, MountType, MountVolumeOptions, MountVolumeOptionsDriverConfig,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, InspectContainerOptions, StopContainerOptionsBuilder,
};

use super::Docker;
use crate::error::Error;
use crate::limits::Limits;
use crate::names::{LABEL_INSTANCE, LABEL_SPEC, MemorySlot};
use crate::spec::{GID, MEMORY_DIR, Spec, UID};

/// Bytes of a holder's own memory; it uses about 2 MB.
pub(crate) const HOLDER_MEMORY: i64 = 16 << 20;
/// Files on the volume: memcached has two.
const FILES_MAX: u32 = 8;
const OPEN_FILES_MAX: i64 = 256;

/// A holder to start.
#[derive(Debug)]
pub(crate) struct NewHolder<'a> {
    pub(crate) instance: &'a str,
    /// The limits of the instance, as the memory is for them.
    pub(crate) spec: &'a Spec,
    /// The image's id.
    pub(crate) image: &'a str,
    /// The command that starts memcached in that image.
    pub(crate) command: &'a str,
}

/// A holder that exists.
pub(super) struct HolderState {
    pub(super) id: String,
    pub(super) runs: bool,
}

impl Docker {
    /// Keeps the memory that a container of the instance uses, until the holder is removed. One that runs already stays.
    pub(crate) async fn start_holder(&self, new: &NewHolder<'_>, container: &str) -> Result<(), Error> {
        let slot = self.memory_slot_of(new.instance, container).await?;
        self.start_holder_in(new, slot, true).await
    }

    pub(super) async fn start_holder_in(
        &self,
        new: &NewHolder<'_>,
        slot: MemorySlot,
        is_read_only: bool,
    ) -> Result<(), Error> {
        let left = self.holder_in(new.instance, slot).await?;
        if left.as_ref().is_some_and(|holder| holder.runs) {
            return Ok(());
        }
        let id = if let Some(left) = left {
            // By a crash.
            left.id
        } else {
            let name = self.names.holder(new.instance, slot);
            let options = CreateContainerOptionsBuilder::new().name(&name).build();
            let body = self.holder_body(new, slot, is_read_only);
            self.change("create a container", self.client()?.create_container(Some(options), body)).await?.id
        };
        self.start(&id).await
    }

    /// Lets an instance's memory go: it is empty unless a container of the instance runs.
    pub(crate) async fn remove_holders(&self, instance: &str) -> Result<(), Error> {
        for slot in MemorySlot::ALL {
            if let Some(holder) = self.holder_in(instance, slot).await? {
                self.remove_container(&holder.id).await?;
            }
        }
        Ok(())
    }

    /// The holder of one slot; one of that name that isn't the installation's doesn't count.
    pub(super) async fn holder_in(
        &self,
        instance: &str,
        slot: MemorySlot,
    ) -> Result<Option<HolderState>, Error> {
        let name = self.names.holder(instance, slot);
        let request = self.client()?.inspect_container(&name, None::<InspectContainerOptions>);
        match self.read("inspect a container", request).await {
            Ok(found) => {
                let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
                let runs = found.state.and_then(|state| state.running).unwrap_or_default();
                let holder = HolderState { id: found.id.unwrap_or_default(), runs };
                Ok(self.names.owns_holder(&name, &labels).then_some(holder))
            }
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Which of an instance's volumes a container has.
    async fn memory_slot_of(&self, instance: &str, container: &str) -> Result<MemorySlot, Error> {
        let request = self.client()?.inspect_container(container, None::<InspectContainerOptions>);
        let mounts = self.read("inspect a container", request).await?.mounts.unwrap_or_default();
        let has = |slot| {
            let name = self.names.memory(instance, slot);
            mounts.iter().any(|mount| mount.name.as_ref() == Some(&name))
        };
        Ok(MemorySlot::ALL.into_iter().find(|slot| has(*slot)).unwrap_or(MemorySlot::First))
    }

    /// Stops a container with the signal that it was created with, within `seconds`; then Docker kills it. One that doesn't
    /// run stays as it is.
    pub(crate) async fn stop(&self, container: &str, seconds: i32) -> Result<(), Error> {
        let options = StopContainerOptionsBuilder::new().t(seconds).build();
        let request = self.client()?.stop_container(container, Some(options));
        self.change("stop a container", request).await
    }

    fn holder_body(&self, new: &NewHolder<'_>, slot: MemorySlot, is_read_only: bool) -> ContainerCreateBody {
        let mut labels = self.labels();
        labels.extend([
            (LABEL_INSTANCE.into(), new.instance.to_owned()),
            (LABEL_SPEC.into(), new.spec.label()),
        ]);
        let own =
            Limits { memory: HOLDER_MEMORY, memory_swap: HOLDER_MEMORY, ..Limits::wanted(new.spec, 1.0) };
        let mut memory = self.memory_mount(new.instance, slot, new.spec);
        memory.read_only = Some(is_read_only);
        let arguments = ["-U", "0", "-l", "127.0.0.1", "-m", "8", "-t", "1", "-c", "16"];
        ContainerCreateBody {
            image: Some(new.image.to_owned()),
            user: Some(format!("{UID}:{GID}")),
            entrypoint: Some(vec![new.command.to_owned()]),
            cmd: Some(arguments.map(str::to_owned).to_vec()),
            hostname: Some("holder".into()),
            labels: Some(labels),
            host_config: Some(HostConfig {
                network_mode: Some("none".into()),
                mounts: Some(vec![memory]),
                ..self.restricted(&own, OPEN_FILES_MAX)
            }),
            ..Default::default()
        }
    }

    /// The mount of an instance's memory: memcached's user alone may enter it, and its size is limited.
    pub(super) fn memory_mount(&self, instance: &str, slot: MemorySlot, spec: &Spec) -> Mount {
        let mut labels = self.labels();
        labels
            .extend([(LABEL_INSTANCE.into(), instance.to_owned()), (LABEL_SPEC.into(), memory_label(spec))]);
        let options = format!(
            "size={}m,nr_inodes={FILES_MAX},mode=0700,uid={UID},gid={GID},nosuid,nodev,noexec",
            spec.memory_volume_mb()
        );
        let driver = [("type", "tmpfs"), ("device", "tmpfs"), ("o", &options)];
        let driver = driver.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Mount {
            target: Some(MEMORY_DIR.into()),
            source: Some(self.names.memory(instance, slot)),
            typ: Some(MountType::VOLUME),
            volume_options: Some(MountVolumeOptions {
                no_copy: Some(true),
                labels: Some(labels),
                driver_config: Some(MountVolumeOptionsDriverConfig {
                    name: Some("local".into()),
                    options: Some(HashMap::from(driver)),
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }
}

/// What tells a volume from one of another size.
pub(super) fn memory_label(spec: &Spec) -> String {
    format!("{} MB", spec.memory_volume_mb())
}
