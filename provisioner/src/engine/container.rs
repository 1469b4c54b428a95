//! Containers: one memcached each, with everything taken away that it doesn't need.

use std::collections::HashMap;
use std::time::Duration;

use bollard::models::{
    ContainerCreateBody, ContainerStateStatusEnum, ContainerSummary, ContainerSummaryStateEnum,
    EndpointIpamConfig, EndpointSettings, HostConfig, HostConfigCgroupnsModeEnum, HostConfigLogConfig, Mount,
    MountType, MountVolumeOptions, NetworkingConfig, ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, InspectContainerOptions, ListContainersOptionsBuilder,
    RemoveContainerOptionsBuilder, UploadToContainerOptionsBuilder,
};
use tokio::time::{Instant, sleep};

use super::{Engine, created_at, gone, refused};
use crate::Error;
use crate::image::{GID, UID};
use crate::names::{LABEL_ADDRESS, LABEL_GENERATION, LABEL_INSTANCE, LABEL_SPEC};
use crate::plan::{Activity, Container};
use crate::spec::{LANE_DIR, LANE_FILE, Spec};

/// A removal that somebody else has begun takes this long at most, on a busy host.
const REMOVAL: Duration = Duration::from_secs(5);
const BETWEEN: Duration = Duration::from_millis(20);
/// memcached has about ten threads.
const PIDS: i64 = 32;
const NANO: f64 = 1e9;

/// A container about to be made.
#[derive(Debug)]
pub(crate) struct NewContainer<'a> {
    pub(crate) instance: &'a str,
    pub(crate) generation: i64,
    pub(crate) spec: &'a Spec,
    pub(crate) image: &'a str,
    /// memcached in that image: a path, or a name to be found there.
    pub(crate) command: &'a str,
    /// The network's name, and our address on it.
    pub(crate) network: &'a str,
    pub(crate) address: &'a str,
    pub(crate) cpus: f64,
}

impl Engine {
    /// All containers of ours, from one list. Right after an event that may still show what was before.
    pub(crate) async fn containers(&self) -> Result<Vec<Container>, Error> {
        self.list(self.ours()).await
    }

    /// One instance's containers, each asked by itself: that waits until Docker has done with it.
    pub(crate) async fn containers_of(&self, instance: &str) -> Result<Vec<Container>, Error> {
        let mut filters = self.ours();
        filters.entry("label".into()).or_default().push(format!("{LABEL_INSTANCE}={instance}"));
        let mut containers = Vec::new();
        for container in self.list(filters).await? {
            match self.inspect(&container).await {
                Ok(container) => containers.push(container),
                Err(error) if error.is_missing() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(containers)
    }

    async fn list(&self, filters: HashMap<String, Vec<String>>) -> Result<Vec<Container>, Error> {
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let list = self.docker()?.list_containers(Some(options)).await;
        Ok(list.map_err(|e| refused("list containers", e))?.into_iter().map(seen).collect())
    }

    /// What it does, and whether it has its address.
    async fn inspect(&self, container: &Container) -> Result<Container, Error> {
        use ContainerStateStatusEnum as State;
        let inspected =
            self.docker()?.inspect_container(&container.id, None::<InspectContainerOptions>).await;
        let inspected = inspected.map_err(|e| refused("inspect a container", e))?;
        let networks = inspected.network_settings.and_then(|s| s.networks).unwrap_or_default();
        let activity = match inspected.state.and_then(|state| state.status) {
            Some(State::RUNNING | State::STOPPING) => Activity::Running,
            Some(State::PAUSED) => Activity::Paused,
            Some(State::RESTARTING) => Activity::Restarting,
            Some(State::CREATED) => Activity::Created,
            _ => Activity::Stopped,
        };
        let attached = attached(&networks, &container.address);
        Ok(Container { activity, attached, ..container.clone() })
    }

    /// Makes a container, not started; its id. The volume for the secret is made with it.
    pub(crate) async fn create_container(&self, new: &NewContainer<'_>) -> Result<String, Error> {
        let name = self.names.instance(new.instance);
        let options = CreateContainerOptionsBuilder::new().name(&name).build();
        let made = self.docker()?.create_container(Some(options), self.body(new)).await;
        Ok(made.map_err(|e| refused("create a container", e))?.id)
    }

    /// Puts the file that memcached reads at start into the container's volume, for its user only.
    pub(crate) async fn upload_secret(&self, container: &str, secret: &str) -> Result<(), Error> {
        let tar = secret_tar(secret).map_err(|error| Error::Engine {
            doing: "take a secret",
            status: None,
            message: error.to_string(),
        })?;
        let options = UploadToContainerOptionsBuilder::new().path(LANE_DIR).build();
        let sent = self
            .docker()?
            .upload_to_container(container, Some(options), bollard::body_full(tar.into()))
            .await;
        sent.map_err(|e| refused("take a secret", e))
    }

    pub(crate) async fn start(&self, container: &str) -> Result<(), Error> {
        let started = self.docker()?.start_container(container, None).await;
        started.map_err(|e| refused("start a container", e))
    }

    pub(crate) async fn unpause(&self, container: &str) -> Result<(), Error> {
        self.docker()?.unpause_container(container).await.map_err(|e| refused("unpause a container", e))
    }

    /// Whether it was there. Its named volume stays. If somebody else is removing it, waits until it is gone:
    /// until then its name is taken.
    pub(crate) async fn remove_container(&self, container: &str) -> Result<bool, Error> {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        let deadline = Instant::now() + REMOVAL;
        loop {
            let removed = self.docker()?.remove_container(container, Some(options.clone())).await;
            match gone("remove a container", removed) {
                Err(Error::Engine { status: Some(409), .. }) if Instant::now() < deadline => {
                    sleep(BETWEEN).await;
                }
                removed => return removed,
            }
        }
    }

    fn body(&self, new: &NewContainer<'_>) -> ContainerCreateBody {
        let mut labels = self.labels();
        labels.extend([
            (LABEL_INSTANCE.into(), new.instance.to_owned()),
            (LABEL_GENERATION.into(), new.generation.to_string()),
            (LABEL_ADDRESS.into(), new.address.to_owned()),
            (LABEL_SPEC.into(), new.spec.label()),
        ]);
        let endpoint = EndpointSettings {
            ipam_config: Some(EndpointIpamConfig {
                ipv4_address: Some(new.address.to_owned()),
                ..Default::default()
            }),
            ..Default::default()
        };
        ContainerCreateBody {
            image: Some(new.image.to_owned()),
            user: Some(format!("{UID}:{GID}")),
            // No shell, no script of the image's own.
            entrypoint: Some(vec![new.command.to_owned()]),
            cmd: Some(new.spec.arguments()),
            hostname: Some("memcached".into()),
            labels: Some(labels),
            host_config: Some(self.host_config(new)),
            networking_config: Some(NetworkingConfig {
                endpoints_config: Some(HashMap::from([(new.network.to_owned(), endpoint)])),
            }),
            ..Default::default()
        }
    }

    fn host_config(&self, new: &NewContainer<'_>) -> HostConfig {
        let memory = new.spec.memory_limit();
        let limit = |name: &str, value| ResourcesUlimits {
            name: Some(name.into()),
            soft: Some(value),
            hard: Some(value),
        };
        HostConfig {
            network_mode: Some(new.network.to_owned()),
            // Nobody listens there: names of the outside don't resolve (the engine would ask for us).
            dns: Some(vec!["127.0.0.1".into()]),
            dns_search: Some(vec![".".into()]),
            mounts: Some(vec![self.secret_mount(new.instance)]),
            readonly_rootfs: Some(true),
            cap_drop: Some(vec!["ALL".into()]),
            security_opt: Some(vec!["no-new-privileges:true".into()]),
            privileged: Some(false),
            publish_all_ports: Some(false),
            ipc_mode: Some("none".into()),
            cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
            pids_limit: Some(PIDS),
            memory: Some(memory),
            memory_swap: Some(memory),
            nano_cpus: Some(nano(new.cpus)),
            ulimits: Some(vec![limit("nofile", new.spec.open_files()), limit("core", 0)]),
            // Docker brings it back while we are away; what it can't, we do.
            restart_policy: Some(RestartPolicy {
                name: Some(RestartPolicyNameEnum::UNLESS_STOPPED),
                maximum_retry_count: None,
            }),
            log_config: Some(HostConfigLogConfig {
                typ: Some("json-file".into()),
                config: Some(HashMap::from([
                    ("max-size".into(), "1m".into()),
                    ("max-file".into(), "1".into()),
                ])),
            }),
            ..Default::default()
        }
    }

    fn secret_mount(&self, instance: &str) -> Mount {
        let mut labels = self.labels();
        labels.insert(LABEL_INSTANCE.into(), instance.to_owned());
        Mount {
            target: Some(LANE_DIR.into()),
            source: Some(self.names.instance(instance)),
            typ: Some(MountType::VOLUME),
            volume_options: Some(MountVolumeOptions {
                no_copy: Some(true),
                labels: Some(labels),
                ..Default::default()
            }),
            ..Default::default()
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "settings are checked: at most 1024 CPUs")]
fn nano(cpus: f64) -> i64 {
    (cpus * NANO) as i64
}

fn secret_tar(secret: &str) -> std::io::Result<Vec<u8>> {
    let line = format!("lane:{secret}\n");
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o400);
    header.set_uid(UID.into());
    header.set_gid(GID.into());
    header.set_size(u64::try_from(line.len()).unwrap_or(u64::MAX));
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_data(&mut header, LANE_FILE, line.as_bytes())?;
    tar.into_inner()
}

fn seen(summary: ContainerSummary) -> Container {
    use ContainerSummaryStateEnum as State;
    let labels = summary.labels.unwrap_or_default();
    let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
    let address = label(LABEL_ADDRESS);
    let networks = summary.network_settings.and_then(|s| s.networks).unwrap_or_default();
    Container {
        id: summary.id.unwrap_or_default(),
        instance: label(LABEL_INSTANCE),
        generation: label(LABEL_GENERATION).parse().unwrap_or(0),
        spec: label(LABEL_SPEC),
        activity: match summary.state {
            Some(State::RUNNING | State::STOPPING) => Activity::Running,
            Some(State::PAUSED) => Activity::Paused,
            Some(State::RESTARTING) => Activity::Restarting,
            Some(State::CREATED) => Activity::Created,
            _ => Activity::Stopped,
        },
        attached: attached(&networks, &address),
        created_at: created_at(&labels),
        address,
    }
}

fn attached(networks: &HashMap<String, EndpointSettings>, address: &str) -> bool {
    networks.values().any(|network| network.ip_address.as_deref() == Some(address))
}
