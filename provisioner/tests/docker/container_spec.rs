//! the limits and missing privileges of every container, field by field, by `docker inspect`.

use serde_json::{Value, json};

use crate::harness::{Installation, docker, inspect, output};

//
#[tokio::test]
async fn containers_have_no_privileges_beyond_what_memcached_needs() {
    let installation = Installation::start().await;
    let (instance, route) = installation.running_instance().await;
    let name = installation.container(&instance);
    let container = inspect("container", &name);
    let fields = [
        ("Config.User", json!("11211:11211")),
        ("Config.Entrypoint", json!(["/usr/bin/memcached"])),
        (
            "Config.Cmd",
            json!([
                "-U",
                "0",
                "-p",
                "11211",
                "-m",
                "64",
                "-c",
                "1024",
                "-I",
                "1048576",
                "-t",
                "1",
                "-R",
                "500",
                "-Y",
                "/lane/auth"
            ]),
        ),
        ("Config.ExposedPorts", Value::Null),
        ("HostConfig.PortBindings", Value::Null),
        ("HostConfig.PublishAllPorts", json!(false)),
        ("NetworkSettings.Ports", json!({})),
        ("HostConfig.Privileged", json!(false)),
        ("HostConfig.CapAdd", Value::Null),
        ("HostConfig.CapDrop", json!(["ALL"])),
        // Nothing about seccomp or AppArmor: Docker's default profiles apply.
        ("HostConfig.SecurityOpt", json!(["no-new-privileges:true"])),
        ("HostConfig.ReadonlyRootfs", json!(true)),
        ("HostConfig.Binds", Value::Null),
        ("HostConfig.VolumesFrom", Value::Null),
        ("HostConfig.Devices", Value::Null),
        ("HostConfig.PidMode", json!("")),
        ("HostConfig.IpcMode", json!("none")),
        ("HostConfig.UTSMode", json!("")),
        ("HostConfig.UsernsMode", json!("")),
        ("HostConfig.CgroupnsMode", json!("private")),
        ("HostConfig.PidsLimit", json!(32)),
        // 64 MiB, a quarter of it, 24 MiB, 1024 connections of 32 KiB, and four of the largest items.
        ("HostConfig.Memory", json!((64 + 16 + 24 + 32 + 4) << 20)),
        ("HostConfig.MemorySwap", json!((64 + 16 + 24 + 32 + 4) << 20)),
        ("HostConfig.OomScoreAdj", json!(500)),
        ("HostConfig.NanoCpus", json!(1_000_000_000)),
        ("HostConfig.Ulimits", ulimits()),
        ("HostConfig.Tmpfs", Value::Null),
        ("HostConfig.RestartPolicy.Name", json!("no")),
        ("HostConfig.LogConfig", json!({"Type": "json-file", "Config": {"max-file": "1", "max-size": "1m"}})),
        ("State.Running", json!(true)),
    ];
    for (field, expected) in fields {
        let pointer = format!("/{}", field.replace('.', "/"));
        assert_eq!(container.pointer(&pointer).unwrap_or(&Value::Null), &expected, "{field}");
    }
    let mounts: Vec<(&str, &str)> = container["Mounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mount| (mount["Type"].as_str().unwrap(), mount["Destination"].as_str().unwrap()))
        .collect();
    assert_eq!(mounts, [("volume", "/lane")]);
    let networks = container["NetworkSettings"]["Networks"].as_object().unwrap();
    let (network, endpoint) = networks.iter().next().unwrap();
    assert_eq!(networks.len(), 1);
    assert_eq!(endpoint["IPAddress"].as_str(), route.address.as_deref());
    check_network(&installation, network);
    check_inside(&container);
}

fn ulimits() -> Value {
    json!([
        {"Name": "nofile", "Hard": 1088, "Soft": 1088},
        {"Name": "core", "Hard": 0, "Soft": 0},
        {"Name": "msgqueue", "Hard": 0, "Soft": 0},
    ])
}

fn check_network(installation: &Installation, name: &str) {
    let network = inspect("network", name);
    assert_eq!(network["Internal"], json!(true));
    assert_eq!(network["EnableIPv6"], json!(false));
    assert_eq!(network["Options"]["com.docker.network.bridge.enable_icc"], json!("false"));
    // The number is above 0 if another installation took the first subnet at the same moment.
    let number = name.strip_prefix(&format!("memgate-{}-net-", installation.id)).unwrap();
    let bridge = format!("mg{}-{number}", installation.id);
    assert_eq!(network["Options"]["com.docker.network.bridge.name"], json!(bridge));
}

/// Checks the process in /proc, and its file system.
fn check_inside(container: &Value) {
    let pid = container["State"]["Pid"].to_string();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_start_matches(':').split_whitespace().collect::<Vec<_>>().join(" ")
    };
    for (name, expected) in [
        ("Uid", "11211 11211 11211 11211"),
        ("Gid", "11211 11211 11211 11211"),
        ("CapEff", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
    ] {
        assert_eq!(field(name), expected, "{name}");
    }
    //
    let secret = output("stat", &["-L", "-c", "%a %u %g", &format!("/proc/{pid}/root/lane/auth")]);
    assert_eq!(secret.trim(), "440 0 11211");
    for shell in ["bin/sh", "bin/bash", "usr/bin/perl", "bin/busybox"] {
        assert!(!std::path::Path::new(&format!("/proc/{pid}/root/{shell}")).exists(), "{shell}");
    }
}

/// What memcached's user may write in a container, as paths in it. Devices and its own entries in /proc, which
/// keep nothing, are left out.
fn writable(pid: &str) -> Vec<String> {
    let root = format!("/proc/{pid}/root");
    let find = ["find", &format!("{root}/"), "-writable", "(", "-type", "d", "-o", "-type", "f", ")"];
    let found = as_memcached(&find);
    let paths = String::from_utf8_lossy(&found.stdout).into_owned();
    let inside = paths.lines().filter_map(|path| path.strip_prefix(&root));
    inside.filter(|path| !path.starts_with("/proc/")).map(str::to_owned).collect()
}

/// Runs a command as memcached's user, with the limits of a container.
fn as_memcached(command: &[&str]) -> std::process::Output {
    std::process::Command::new("prlimit")
        .args(["--msgqueue=0", "setpriv", "--reuid=11211", "--regid=11211", "--clear-groups"])
        .args(command)
        .output()
        .unwrap()
}

//
#[tokio::test]
async fn a_container_writes_nothing_but_a_bounded_log() {
    let installation = Installation::start().await;
    let (instance, _) = installation.running_instance().await;
    let pid = inspect("container", &installation.container(&instance))["State"]["Pid"].to_string();
    let inside = |path: &str| format!("/proc/{pid}/root{path}");
    assert!(as_memcached(&["cat", &inside("/lane/auth")]).status.success(), "so the check works");
    for path in writable(&pid) {
        let file = format!("{}/file", inside(&path));
        assert!(!as_memcached(&["touch", &file]).status.success(), "{path} can be written");
    }
    let secret = inside("/lane/auth");
    for attempt in [
        vec!["chmod", "u+w", &secret],
        vec!["dd", "if=/dev/zero", &format!("of={secret}"), "bs=1", "count=1"],
        vec!["truncate", "-s", "1M", &secret],
        vec!["rm", "-f", &secret],
        vec!["touch", &inside("/lane/file")],
        vec!["touch", &inside("/file")],
        vec!["touch", &inside("/dev/file")],
        vec!["mkdir", &inside("/dev/shm")],
    ] {
        assert!(!as_memcached(&attempt).status.success(), "{attempt:?}");
    }
    let before = output("stat", &["-L", "-c", "%s", &secret]);
    assert!(before.trim().parse::<u64>().unwrap() < 256);
}

#[tokio::test]
async fn the_image_holds_memcached_and_its_libraries_only() {
    let installation = Installation::new().await;
    let tag = provisioner::build_image(&installation.config, &installation.id).await.unwrap();
    assert!(tag.starts_with(&format!("memgate-{}-memcached:1.", installation.id)), "{tag}");
    let image = inspect("image", &tag);
    assert_eq!(image["Config"]["User"], json!("11211:11211"));
    // containers inherit an image's labels, so it doesn't carry the one that claims resources.
    assert_eq!(image["Config"]["Labels"]["memgate"], Value::Null);
    assert_eq!(image["Config"]["Labels"]["memgate.image"], json!(installation.id));
    assert!(image["Size"].as_u64().unwrap() < 16 << 20, "{} bytes", image["Size"]);
    // A second build gives the same image.
    assert_eq!(provisioner::build_image(&installation.config, &installation.id).await.unwrap(), tag);
    let version = docker(&["run", "--rm", "--network", "none", &tag, "-V"]);
    assert!(version.starts_with("memcached 1."), "{version}");
}

#[tokio::test]
async fn an_item_size_of_any_plan_is_one_that_memcached_takes() {
    let installation = Installation::start().await;
    for item_size_max in [1 << 10, 128 << 10, 512 << 10, 1_500_000] {
        installation.store.update_plan("default", |plan| plan.item_size_max = item_size_max).await.unwrap();
        let (instance, route) = installation.running_instance().await;
        assert_eq!(instance.item_size_max, item_size_max);
        // The proxy enforces the exact limit: the largest item that it lets through fits.
        let value = "v".repeat(usize::try_from(item_size_max).unwrap() - 64);
        let stored = installation.request(&instance, &route, &format!("ms k {}\r\n{value}", value.len()));
        assert_eq!(stored.as_deref(), Some("HD"), "{item_size_max}");
    }
}

/// memory beyond `-m` fits into the container's limit, for any item size.
#[tokio::test]
async fn a_full_cache_is_not_killed_for_memory() {
    const LANES: usize = 16;
    let installation = Installation::start().await;
    let (instance, route) = installation.running_instance().await;
    for (size, count) in [(1, 1_200_000), (1 << 10, 120_000), (1_047_000, 120)] {
        std::thread::scope(|scope| {
            for lane in 0..LANES {
                let (installation, instance, route) = (&installation, &instance, &route);
                scope.spawn(move || installation.fill(instance, route, lane, (size, count / LANES)));
            }
        });
        let stats = installation.request(&instance, &route, "mn");
        assert_eq!(stats.as_deref(), Some("MN"), "{size}");
    }
    let container = inspect("container", &installation.container(&instance));
    assert_eq!(container["State"]["OOMKilled"], json!(false));
    assert_eq!(container["RestartCount"], json!(0));
    assert_eq!(installation.route(&instance).await, Some(route), "the instance was not restarted");
    let id = container["Id"].as_str().unwrap();
    let peak =
        std::fs::read_to_string(format!("/sys/fs/cgroup/memory/docker/{id}/memory.max_usage_in_bytes"));
    println!("peak memory in bytes: {peak:?}, of {}", container["HostConfig"]["Memory"]);
}
