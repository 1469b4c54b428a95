//! Containers: each runs one memcached, without any privilege that memcached doesn't need.

use std::collections::HashMap;
use std::time::Duration;

use bollard::models::{
    ContainerCreateBody, ContainerStateStatusEnum, ContainerSummary, ContainerSummaryStateEnum,
    EndpointSettings, HostConfig, HostConfigCgroupnsModeEnum, HostConfigLogConfig, Mount, MountType,
    MountVolumeOptions, NetworkingConfig, ResourcesUlimits,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, InspectContainerOptions, ListContainersOptionsBuilder,
    RemoveContainerOptionsBuilder, UploadToContainerOptionsBuilder,
};
use tokio::time::{Instant, sleep};

use super::isolation::isolation_of;
use super::limits::{limits_of, restart_policy};
use super::network::endpoint;
use super::{Docker, created_at, ignore_not_found};
use store::LaneCredential;

use crate::error::Error;
use crate::limits::Limits;
use crate::names::{
    LABEL_ADDRESS, LABEL_AHEAD, LABEL_GENERATION, LABEL_INSTANCE, LABEL_SPEC, MemorySlot, Names,
};
use crate::plan::{Container, ContainerState, Ended};
use crate::spec::{GID, LANE_DIR, LANE_FILE, Spec, UID};

/// How long to wait for a removal that another client has begun.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(5);
const REMOVAL_RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// More is promised than the machine has: when its memory runs out, the largest cache ends, and not the proxy, which is the
/// way to all (300), nor another program (0).
const OOM_SCORE: i64 = 500;

/// A container to create.
#[derive(Debug)]
pub(crate) struct NewContainer<'a> {
    pub(crate) instance: &'a str,
    pub(crate) generation: i64,
    pub(crate) spec: &'a Spec,
    /// The image's id: a name may lead to another image by now.
    pub(crate) image: &'a str,
    /// The command that starts memcached in that image.
    pub(crate) command: &'a str,
    /// The network's name, and the container's address on it.
    pub(crate) network: &'a str,
    pub(crate) address: &'a str,
    /// The hard limit of its CPU time, in CPUs; zero is none.
    pub(crate) cpus: f64,
    /// Where a warm cache has its memory, which is prepared.
    pub(crate) memory: Option<MemorySlot>,
    /// memcached's `-t`.
    pub(crate) threads: u32,
    /// Whether it is made before its instance.
    pub(crate) made_ahead: bool,
}

impl Docker {
    /// Lists the installation's containers. Shortly after an event, the list may still show the state before it.
    pub(crate) async fn containers(&self) -> Result<Vec<Container>, Error> {
        self.list(self.label_filter()).await
    }

    /// Inspects an instance's containers one by one: Docker answers once it has finished changing them.
    pub(crate) async fn containers_of(&self, instance: &str) -> Result<Vec<Container>, Error> {
        let mut filters = self.label_filter();
        filters.entry("label".into()).or_default().push(format!("{LABEL_INSTANCE}={instance}"));
        let mut containers = Vec::new();
        for container in self.list(filters).await? {
            match self.inspect(&container).await {
                Ok(container) => containers.push(container),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(containers)
    }

    async fn list(&self, filters: HashMap<String, Vec<String>>) -> Result<Vec<Container>, Error> {
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let list = self.read("list containers", self.client()?.list_containers(Some(options))).await?;
        Ok(list.into_iter().filter_map(|summary| from_summary(&self.names, summary)).collect())
    }

    /// Updates what the list doesn't say for sure: the state, the address, and how it ended; and its limits.
    pub(crate) async fn inspect(&self, container: &Container) -> Result<Container, Error> {
        use ContainerStateStatusEnum as State;
        let request = self.client()?.inspect_container(&container.id, None::<InspectContainerOptions>);
        let inspected = self.read("inspect a container", request).await?;
        let isolation = Some(isolation_of(&self.names, &inspected));
        let networks = inspected.network_settings.and_then(|s| s.networks).unwrap_or_default();
        let status = inspected.state.as_ref().and_then(|state| state.status);
        let state = match status {
            Some(State::RUNNING | State::STOPPING) => ContainerState::Running,
            Some(State::PAUSED) => ContainerState::Paused,
            Some(State::RESTARTING) => ContainerState::Restarting,
            Some(State::CREATED) => ContainerState::Created,
            Some(State::REMOVING) => ContainerState::Removing,
            _ => ContainerState::Stopped,
        };
        let started_at = inspected.state.as_ref().and_then(|state| state.started_at.clone());
        let ended =
            inspected.state.filter(|_| matches!(state, ContainerState::Stopped | ContainerState::Restarting));
        let ended = ended.map(|state| Ended {
            exit_code: state.exit_code.unwrap_or_default(),
            out_of_memory: state.oom_killed.unwrap_or_default(),
            by_itself: false,
        });
        let attached = attached(&networks, &container.address);
        let limits = inspected.host_config.as_ref().map(limits_of);
        Ok(Container { state, attached, started_at, ended, limits, isolation, ..container.clone() })
    }

    /// Creates a container and the volumes for its secret and a warm cache's memory, without starting it. Returns its id.
    pub(crate) async fn create_container(&self, new: &NewContainer<'_>) -> Result<String, Error> {
        self.check_volume_of(new.instance).await?;
        let name = self.names.instance(new.instance);
        let options = CreateContainerOptionsBuilder::new().name(&name).build();
        let request = self.client()?.create_container(Some(options), self.body(new));
        match self.change("create a container", request).await {
            Ok(created) => {
                self.note_created(&created.id);
                Ok(created.id)
            }
            // The name is in use: by one that another client is removing, or by one that isn't ours.
            Err(error @ Error::Docker { status: Some(409), .. }) => {
                let own = self.containers().await?.iter().any(|container| container.instance == new.instance);
                Err(if own { error } else { Error::NameTaken { kind: "container", name } })
            }
            Err(error) => Err(error),
        }
    }

    /// Writes the file with the secret, which memcached reads at start, into the container's volume.
    pub(crate) async fn upload_secret(
        &self,
        container: &str,
        credential: &LaneCredential,
    ) -> Result<(), Error> {
        let tar = secret_tar(credential).map_err(|error| Error::Docker {
            operation: "take a secret",
            status: None,
            message: error.to_string(),
        })?;
        let options = UploadToContainerOptionsBuilder::new().path(LANE_DIR).build();
        let body = bollard::body_full(tar.into());
        let request = self.client()?.upload_to_container(container, Some(options), body);
        self.change("take a secret", request).await
    }

    pub(crate) async fn start(&self, container: &str) -> Result<(), Error> {
        self.change("start a container", self.client()?.start_container(container, None)).await
    }

    pub(crate) async fn unpause(&self, container: &str) -> Result<(), Error> {
        self.change("unpause a container", self.client()?.unpause_container(container)).await
    }

    /// Removes a container, but not its named volume. Returns whether it existed. If another client is removing
    /// it, waits until that is done, since its name is in use until then.
    pub(crate) async fn remove_container(&self, container: &str) -> Result<bool, Error> {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        let deadline = Instant::now() + REMOVAL_TIMEOUT;
        loop {
            let request = self.client()?.remove_container(container, Some(options.clone()));
            match ignore_not_found(self.change("remove a container", request).await) {
                Err(Error::Docker { status: Some(409), .. }) if Instant::now() < deadline => {
                    sleep(REMOVAL_RETRY_INTERVAL).await;
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
        if new.made_ahead {
            labels.insert(LABEL_AHEAD.into(), "1".into());
        }
        let endpoint = endpoint(new.address);
        ContainerCreateBody {
            image: Some(new.image.to_owned()),
            user: Some(format!("{UID}:{GID}")),
            // The image's own entry point may be a script.
            entrypoint: Some(vec![new.command.to_owned()]),
            cmd: Some(new.spec.arguments(new.threads)),
            hostname: Some("memcached".into()),
            // With that, memcached saves what it needs to start with the contents.
            stop_signal: new.spec.is_warm().then(|| "SIGUSR1".to_owned()),
            labels: Some(labels),
            host_config: Some(self.host_config(new)),
            networking_config: Some(NetworkingConfig {
                endpoints_config: Some(HashMap::from([(new.network.to_owned(), endpoint)])),
            }),
            ..Default::default()
        }
    }

    fn host_config(&self, new: &NewContainer<'_>) -> HostConfig {
        let limits = Limits::wanted(new.spec, new.cpus);
        let memory = new.memory.map(|slot| self.memory_mount(new.instance, slot, new.spec));
        HostConfig {
            network_mode: Some(new.network.to_owned()),
            // Nothing listens there, so no external name resolves; Docker's resolver would forward queries.
            dns: Some(vec!["127.0.0.1".into()]),
            dns_search: Some(vec![".".into()]),
            mounts: Some([self.secret_mount(new.instance)].into_iter().chain(memory).collect()),
            nano_cpus: Some(limits.nano_cpus),
            ..self.restricted(&limits, new.spec.open_files())
        }
    }

    /// What holds for every container.
    pub(super) fn restricted(&self, limits: &Limits, open_files: i64) -> HostConfig {
        let limit = |name: &str, value| ResourcesUlimits {
            name: Some(name.into()),
            soft: Some(value),
            hard: Some(value),
        };
        HostConfig {
            readonly_rootfs: Some(true),
            cap_drop: Some(vec!["ALL".into()]),
            security_opt: Some(vec!["no-new-privileges:true".into()]),
            privileged: Some(false),
            publish_all_ports: Some(false),
            ipc_mode: Some("none".into()),
            cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
            pids_limit: Some(limits.processes),
            memory: Some(limits.memory),
            memory_swap: Some(limits.memory_swap),
            oom_score_adj: Some(OOM_SCORE),
            nano_cpus: Some(limits.nano_cpus),
            cpu_shares: Some(limits.cpu_shares),
            ulimits: Some(vec![limit("nofile", open_files), limit("core", 0), limit("msgqueue", 0)]),
            restart_policy: Some(restart_policy()),
            log_config: Some(self.log_config()),
            ..Default::default()
        }
    }

    /// What a container writes is kept up to 1 MB.
    fn log_config(&self) -> HostConfigLogConfig {
        let config = [("max-size", "1m"), ("max-file", "1")];
        let config = config.map(|(name, value)| (name.to_owned(), value.to_owned()));
        HostConfigLogConfig { typ: Some("json-file".into()), config: Some(HashMap::from(config)) }
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

fn secret_tar(credential: &LaneCredential) -> std::io::Result<Vec<u8>> {
    let line = credential.auth_file();
    let mut header = tar::Header::new_gnu();
    // Root's: memcached's own user may neither write the file nor change its mode.
    header.set_mode(0o440);
    header.set_uid(0);
    header.set_gid(GID.into());
    header.set_size(u64::try_from(line.len()).unwrap_or(u64::MAX));
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_data(&mut header, LANE_FILE, line.as_bytes())?;
    tar.into_inner()
}

/// `None` if the container isn't the installation's. Docker writes names with a slash in front.
fn from_summary(names: &Names, summary: ContainerSummary) -> Option<Container> {
    use ContainerSummaryStateEnum as State;
    let labels = summary.labels.unwrap_or_default();
    let docker_names = summary.names.unwrap_or_default();
    let mut own_names = docker_names.iter().map(|name| name.trim_start_matches('/'));
    let is_holder = own_names.clone().any(|name| names.owns_holder(name, &labels));
    if !is_holder && !own_names.any(|name| names.owns_instance(name, &labels)) {
        return None;
    }
    let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
    let address = label(LABEL_ADDRESS);
    let networks = summary.network_settings.and_then(|s| s.networks).unwrap_or_default();
    Some(Container {
        id: summary.id.unwrap_or_default(),
        image: summary.image_id.unwrap_or_default(),
        instance: label(LABEL_INSTANCE),
        generation: label(LABEL_GENERATION).parse().unwrap_or(0),
        spec: label(LABEL_SPEC),
        state: match summary.state {
            Some(State::RUNNING | State::STOPPING) => ContainerState::Running,
            Some(State::PAUSED) => ContainerState::Paused,
            Some(State::RESTARTING) => ContainerState::Restarting,
            Some(State::CREATED) => ContainerState::Created,
            Some(State::REMOVING) => ContainerState::Removing,
            _ => ContainerState::Stopped,
        },
        attached: attached(&networks, &address),
        created_at: created_at(&labels),
        address,
        started_at: None,
        ended: None,
        limits: None,
        isolation: None,
        hung: false,
        outdated: false,
        limits_differ: false,
        unrestricted: false,
        idle: false,
        is_holder,
        made_ahead: labels.contains_key(LABEL_AHEAD),
    })
}

fn attached(networks: &HashMap<String, EndpointSettings>, address: &str) -> bool {
    networks.values().any(|network| network.ip_address.as_deref() == Some(address))
}
