//! What Docker says of a container's isolation: exactly what `container.rs` asks for.

use bollard::models::{ContainerConfig, ContainerInspectResponse, HostConfig, MountPoint};

use crate::isolation::Isolation;
use crate::names::{MemorySlot, Names};
use crate::spec::{GID, LANE_DIR, MEMORY_DIR, UID};

/// Characters of the name of a network, which somebody else may have chosen.
const NAME_MAX: usize = 64;
/// Docker's word for a mount that is a volume.
const VOLUME: &str = "volume";

pub(super) fn isolation_of(names: &Names, inspected: &ContainerInspectResponse) -> Isolation {
    let host = inspected.host_config.clone().unwrap_or_default();
    let config = inspected.config.clone().unwrap_or_default();
    let settings = inspected.network_settings.clone().unwrap_or_default();
    let bound = settings.ports.iter().flatten().any(|(_, to)| to.as_ref().is_some_and(|to| !to.is_empty()));
    let publishes = bound
        || host.publish_all_ports == Some(true)
        || host.port_bindings.as_ref().is_some_and(|ports| !ports.is_empty());
    let own_network = host.network_mode.clone().unwrap_or_default();
    let has_own_network = names.is_network(&own_network);
    let networks = settings.networks.unwrap_or_default().into_keys();
    let mut other_networks: Vec<String> = networks.filter(|name| *name != own_network).collect();
    if !has_own_network {
        other_networks.clear();
    }
    other_networks.sort_unstable();
    // The volume has the container's name, and so begins that of a warm cache's memory.
    let volume = inspected.name.as_deref().map(|name| name.trim_start_matches('/'));
    let is_lane = |mount: &MountPoint| {
        mount.typ.as_deref() == Some(VOLUME)
            && mount.destination.as_deref() == Some(LANE_DIR)
            && mount.name.as_deref() == volume
    };
    let is_memory = |mount: &MountPoint| {
        let is_own = |container| MemorySlot::ALL.map(|slot| Some(Names::memory_beside(container, slot)));
        mount.typ.as_deref() == Some(VOLUME)
            && mount.destination.as_deref() == Some(MEMORY_DIR)
            && volume.is_some_and(|container| is_own(container).contains(&mount.name))
    };
    let mounts_own_only = inspected.mounts.iter().flatten().all(|it| is_lane(it) || is_memory(it));
    let restrictions = restrictions(&host, &config, mounts_own_only);
    let lacks = restrictions.into_iter().chain([("a network of memgate's", has_own_network)]);
    Isolation {
        publishes,
        lacks: lacks.filter(|(_, is_there)| !is_there).map(|(name, _)| name).collect(),
        other_networks,
        namespace: settings.sandbox_key.unwrap_or_default(),
        process: inspected.state.as_ref().and_then(|state| state.pid).unwrap_or_default(),
    }
}

/// Each restriction, and whether the container has it. Limits that can be changed while it runs are in `limits.rs`.
fn restrictions(
    host: &HostConfig,
    config: &ContainerConfig,
    mounts_own_only: bool,
) -> [(&'static str, bool); 10] {
    let is_empty = |list: &Option<Vec<String>>| list.as_ref().is_none_or(Vec::is_empty);
    let options = host.security_opt.as_deref().unwrap_or_default();
    let drops_all = host.cap_drop.iter().flatten().any(|name| name.eq_ignore_ascii_case("ALL"));
    let shares = |mode: &Option<String>| mode.as_deref().is_some_and(|mode| !mode.is_empty());
    let has_devices = host.devices.as_ref().is_some_and(|devices| !devices.is_empty())
        || host.device_requests.as_ref().is_some_and(|devices| !devices.is_empty())
        || !is_empty(&host.device_cgroup_rules);
    [
        ("the user of memcached", config.user.as_deref() == Some(format!("{UID}:{GID}").as_str())),
        ("no capabilities", drops_all && is_empty(&host.cap_add)),
        ("no privileges", host.privileged != Some(true) && is_empty(&host.group_add)),
        ("a read-only root", host.readonly_rootfs == Some(true)),
        ("no new privileges", options.iter().any(|it| is_no_new_privileges(it))),
        ("Docker's profiles", options.iter().all(|it| is_no_new_privileges(it))),
        (
            "a process namespace",
            !shares(&host.pid_mode) && !shares(&host.uts_mode) && !shares(&host.userns_mode),
        ),
        ("an IPC namespace", host.ipc_mode.as_deref() == Some("none")),
        ("no devices", !has_devices),
        ("only its own volumes", mounts_own_only && is_empty(&host.binds)),
    ]
}

fn is_no_new_privileges(option: &str) -> bool {
    matches!(option, "no-new-privileges" | "no-new-privileges:true" | "no-new-privileges=true")
}

/// The name of a network, for texts.
pub(crate) fn shown(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '?' };
    name.chars().take(NAME_MAX).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use bollard::models::{EndpointSettings, NetworkSettings, PortBinding};

    use super::*;

    fn names() -> Names {
        Names::new("abc234").unwrap()
    }

    fn isolated() -> ContainerInspectResponse {
        let networks = HashMap::from([(names().network(0), EndpointSettings::default())]);
        ContainerInspectResponse {
            name: Some("/memgate-abc234-one".into()),
            host_config: Some(HostConfig {
                network_mode: Some(names().network(0)),
                readonly_rootfs: Some(true),
                cap_drop: Some(vec!["ALL".into()]),
                security_opt: Some(vec!["no-new-privileges:true".into()]),
                ipc_mode: Some("none".into()),
                ..Default::default()
            }),
            config: Some(ContainerConfig { user: Some("11211:11211".into()), ..Default::default() }),
            mounts: Some(vec![MountPoint {
                typ: Some(VOLUME.into()),
                destination: Some(LANE_DIR.into()),
                name: Some("memgate-abc234-one".into()),
                ..Default::default()
            }]),
            network_settings: Some(NetworkSettings {
                ports: Some(HashMap::new()),
                networks: Some(networks),
                sandbox_key: Some("/var/run/docker/netns/one".into()),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn with_host(change: impl Fn(&mut HostConfig)) -> Isolation {
        let mut inspected = isolated();
        change(inspected.host_config.as_mut().unwrap());
        isolation_of(&names(), &inspected)
    }

    //
    #[test]
    fn each_missing_restriction_is_noticed() {
        let isolation = isolation_of(&names(), &isolated());
        assert!(!isolation.is_broken() && isolation.other_networks.is_empty(), "{isolation:?}");
        assert_eq!(isolation.namespace, "/var/run/docker/netns/one");
        let text = |text: &str| Some(vec![text.to_owned()]);
        for (lacks, broken) in [
            ("no capabilities", with_host(|host| host.cap_add = text("NET_RAW"))),
            ("no capabilities", with_host(|host| host.cap_drop = None)),
            ("no privileges", with_host(|host| host.privileged = Some(true))),
            ("no privileges", with_host(|host| host.group_add = text("docker"))),
            ("a read-only root", with_host(|host| host.readonly_rootfs = None)),
            ("no new privileges", with_host(|host| host.security_opt = None)),
            (
                "Docker's profiles",
                with_host(|host| host.security_opt.as_mut().unwrap().push("seccomp=unconfined".into())),
            ),
            ("a process namespace", with_host(|host| host.pid_mode = Some("host".into()))),
            ("an IPC namespace", with_host(|host| host.ipc_mode = Some("shareable".into()))),
            ("no devices", with_host(|host| host.device_cgroup_rules = text("a *:* rwm"))),
            ("only its own volumes", with_host(|host| host.binds = text("/:/host"))),
            ("a network of memgate's", with_host(|host| host.network_mode = Some("host".into()))),
        ] {
            assert_eq!(broken.lacks, [lacks]);
        }
        assert_eq!(isolation_of(&names(), &ContainerInspectResponse::default()).lacks.len(), 6);
        let mut root = isolated();
        root.config.as_mut().unwrap().user = Some("0".into());
        assert_eq!(isolation_of(&names(), &root).lacks, ["the user of memcached"]);
        // Another instance's secret.
        let mut mounted = isolated();
        mounted.mounts.as_mut().unwrap()[0].name = Some("memgate-abc234-two".into());
        assert_eq!(isolation_of(&names(), &mounted).lacks, ["only its own volumes"]);
        // Its own memory, and another instance's.
        for (name, is_own) in [
            ("memgate-abc234-one-memory", true),
            ("memgate-abc234-one-memory-2", true),
            ("memgate-abc234-one-memory-3", false),
            ("memgate-abc234-two-memory-2", false),
        ] {
            let memory = MountPoint {
                typ: Some(VOLUME.into()),
                destination: Some(MEMORY_DIR.into()),
                name: Some(name.into()),
                ..Default::default()
            };
            let mut warm = isolated();
            warm.mounts.as_mut().unwrap().push(memory);
            assert_eq!(isolation_of(&names(), &warm).lacks.is_empty(), is_own, "{name}");
        }
    }

    //
    #[test]
    fn published_ports_and_other_networks_are_noticed() {
        let binding = || Some(vec![PortBinding { host_port: Some("1".into()), ..Default::default() }]);
        let published = HashMap::from([("11211/tcp".to_owned(), binding())]);
        assert!(with_host(|host| host.publish_all_ports = Some(true)).publishes);
        assert!(with_host(|host| host.port_bindings = Some(published.clone())).publishes);
        let mut inspected = isolated();
        let settings = inspected.network_settings.as_mut().unwrap();
        // What the image exposes, and nothing binds.
        settings.ports = Some(HashMap::from([("11211/tcp".to_owned(), None)]));
        assert!(!isolation_of(&names(), &inspected).publishes);
        let settings = inspected.network_settings.as_mut().unwrap();
        settings.ports = Some(published);
        settings.networks.as_mut().unwrap().insert("bridge".into(), EndpointSettings::default());
        let isolation = isolation_of(&names(), &inspected);
        assert!(isolation.publishes && isolation.lacks.is_empty());
        assert_eq!(isolation.other_networks, ["bridge"]);
        assert_eq!(shown("a\u{1b}b c"), "a?b?c");
    }
}
