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
use crate::names::{LABEL_INSTANCE, LABEL_SPEC};
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
    /// The limits of the instance.
    pub(crate) spec: &'a Spec,
    /// The image's id.
    pub(crate) image: &'a str,
    /// The command that starts memcached in that image.
    pub(crate) command: &'a str,
}

impl Docker {
    /// Keeps an instance's memory until the holder is removed. One that runs already stays.
    pub(crate) async fn start_holder(&self, new: &NewHolder<'_>) -> Result<(), Error> {
        let name = self.names.holder(new.instance);
        if self.is_holding(&name).await? {
            return Ok(());
        }
        let options = CreateContainerOptionsBuilder::new().name(&name).build();
        let created = self.client()?.create_container(Some(options), self.holder_body(new));
        let id = match self.change("create a container", created).await {
            Ok(created) => created.id,
            // Left by a crash.
            Err(error @ Error::Docker { status: Some(409), .. }) => {
                let kept = self.holder_of(new.instance).await?;
                kept.ok_or(error)?
            }
            Err(error) => return Err(error),
        };
        self.start(&id).await
    }

    /// Lets an instance's memory go: it is empty unless a container of the instance runs.
    pub(crate) async fn remove_holder(&self, instance: &str) -> Result<(), Error> {
        match self.holder_of(instance).await? {
            Some(id) => self.remove_container(&id).await.map(drop),
            None => Ok(()),
        }
    }

    /// Whether a holder runs.
    async fn is_holding(&self, name: &str) -> Result<bool, Error> {
        let request = self.client()?.inspect_container(name, None::<InspectContainerOptions>);
        match self.read("inspect a container", request).await {
            Ok(found) => {
                let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
                let runs = found.state.and_then(|state| state.running).unwrap_or_default();
                Ok(runs && self.names.owns_holder(name, &labels))
            }
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn holder_of(&self, instance: &str) -> Result<Option<String>, Error> {
        let containers = self.containers_of(instance).await?;
        Ok(containers.into_iter().find(|container| container.is_holder).map(|holder| holder.id))
    }

    /// Stops a container with the signal that it was created with, within `seconds`; then Docker kills it. One that doesn't
    /// run stays as it is.
    pub(crate) async fn stop(&self, container: &str, seconds: i32) -> Result<(), Error> {
        let options = StopContainerOptionsBuilder::new().t(seconds).build();
        let request = self.client()?.stop_container(container, Some(options));
        self.change("stop a container", request).await
    }

    /// Removes the memory of an instance that has another size than it is to have, with what it holds.
    pub(crate) async fn fit_memory(&self, instance: &str, spec: &Spec) -> Result<(), Error> {
        let name = self.names.memory(instance);
        let labels = self.labels_of_volume(&name, |labels| self.names.owns_memory(&name, labels)).await?;
        match labels {
            Some(labels) if labels.get(LABEL_SPEC) != Some(&memory_label(spec)) => {
                self.remove_holder(instance).await?;
                self.remove_volume(&name).await.map(drop)
            }
            _ => Ok(()),
        }
    }

    fn holder_body(&self, new: &NewHolder<'_>) -> ContainerCreateBody {
        let mut labels = self.labels();
        labels.insert(LABEL_INSTANCE.into(), new.instance.to_owned());
        let own =
            Limits { memory: HOLDER_MEMORY, memory_swap: HOLDER_MEMORY, ..Limits::wanted(new.spec, 1.0) };
        let mut memory = self.memory_mount(new.instance, new.spec);
        memory.read_only = Some(true);
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
    pub(super) fn memory_mount(&self, instance: &str, spec: &Spec) -> Mount {
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
            source: Some(self.names.memory(instance)),
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
fn memory_label(spec: &Spec) -> String {
    format!("{} MB", spec.memory_volume_mb())
}
