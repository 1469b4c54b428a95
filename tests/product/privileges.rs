//! R-19, read from /proc: the users of the roles and the files that they may open. R-18, read from Docker.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::process::Command;

use serde_json::Value;

use crate::harness::{Installation, Product, is_root};

/// The numbers of a line in /proc/PID/status.
fn ids(pid: u32, name: &str) -> Vec<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().map(|id| id.parse().unwrap()).collect()
}

/// Whether this user and group may access a file or socket.
fn may(user: u32, group: u32, access: &str, path: &str) -> bool {
    Command::new("setpriv")
        .args([format!("--reuid={user}"), format!("--regid={group}"), "--clear-groups".to_owned()])
        .args(["test", access, path])
        .status()
        .unwrap()
        .success()
}

// R-19, R-16, R-28.
#[test]
fn roles_have_the_least_privileges() {
    if !is_root() {
        return;
    }
    let product = Product::start();
    // The proxy and the web UI have written by then: they share SQLite's files with root.
    product.add_user("ada@example.org");
    let socket = "/var/run/docker.sock";
    assert!(fs::metadata(socket).unwrap().file_type().is_socket());
    let mut users = Vec::new();
    for name in ["proxy", "webui"] {
        let pid = product.role(name).unwrap();
        let (user, group) = (ids(pid, "Uid:")[0], ids(pid, "Gid:")[0]);
        assert!(ids(pid, "Uid:").iter().all(|id| *id == user && *id != 0), "{name}");
        assert!(ids(pid, "Gid:").iter().all(|id| *id == group && *id != 0), "{name}");
        // Only the proxy has one: for its keys.
        assert_eq!(ids(pid, "Groups:").len(), usize::from(name == "proxy"), "{name}");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        for capabilities in ["CapPrm:", "CapEff:", "CapInh:", "CapBnd:", "CapAmb:"] {
            let held = status.lines().find_map(|line| line.strip_prefix(capabilities)).unwrap().trim();
            assert_eq!(u64::from_str_radix(held, 16), Ok(0), "{name} {capabilities}");
        }
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        for limit in ["Max processes             4096", "Max core file size        0 "] {
            assert!(limits.contains(limit), "{name}: {limits}");
        }
        assert!(!may(user, group, "-r", socket) && !may(user, group, "-w", socket), "{name}");
        assert!(!has_open(pid, "docker"), "{name}");
        users.push(user);
    }
    assert_ne!(users[0], users[1]);
    // R-32: a flood of sign-ins leaves the CPU to the proxy.
    for (name, niceness) in [("proxy", 0), ("webui", 10)] {
        let pid = product.role(name).unwrap();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let of_process = stat.rsplit(')').next().unwrap().split_whitespace().nth(16).unwrap();
        assert_eq!(of_process.parse(), Ok(niceness), "{name}");
        // Kernels that schedule by session only.
        if let Ok(session) = fs::read_to_string(format!("/proc/{pid}/autogroup")) {
            assert!(session.trim().ends_with(&format!(" nice {niceness}")), "{name}: {session}");
        }
    }
    // R-28: a role that uses up the memory ends before others.
    for (name, score) in [("proxy", "300"), ("webui", "800")] {
        let pid = product.role(name).unwrap();
        assert_eq!(fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim(), score, "{name}");
    }
    let provisioner = product.role("provisioner").unwrap();
    assert_eq!(ids(provisioner, "Uid:")[0], 0);
    let status = fs::read_to_string(format!("/proc/{provisioner}/status")).unwrap();
    // chown, dac_override, fowner, setgid, setuid, net_admin; and sys_ptrace and sys_admin, which only a thread of the
    // isolation check takes.
    for (line, capabilities) in
        [("CapBnd:", 0x10cb_u64), ("CapEff:", 0x10cb), ("CapPrm:", 0x28_10cb), ("CapInh:", 0), ("CapAmb:", 0)]
    {
        let held = status.lines().find_map(|found| found.strip_prefix(line)).unwrap().trim();
        assert_eq!(u64::from_str_radix(held, 16), Ok(capabilities), "{line}");
    }
}

/// Whether a process is connected to a socket whose path contains this word.
fn has_open(pid: u32, word: &str) -> bool {
    let sockets = fs::read_to_string(format!("/proc/{pid}/net/unix")).unwrap();
    let inodes: Vec<String> = sockets
        .lines()
        .filter(|line| line.contains(word))
        .filter_map(|line| Some(format!("socket:[{}]", line.split_whitespace().nth(6)?)))
        .collect();
    fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .flatten()
        .filter_map(|fd| fs::read_link(fd.path()).ok())
        .any(|link| inodes.iter().any(|inode| link.as_os_str() == inode.as_str()))
}

// R-27.
#[test]
fn data_directory_is_readable_only_by_its_roles() {
    if !is_root() {
        return;
    }
    let product = Product::start_at(Installation::with_sqlite());
    let group = ids(product.role("webui").unwrap(), "Gid:")[0];
    let proxy_group = ids(product.role("proxy").unwrap(), "Groups:")[0];
    // As the roles see it: they may not enter the parent directory.
    let view = format!("/proc/{}/root/run/memgate", product.role("provisioner").unwrap());
    let data = product.data();
    for (file, mode, group) in [
        ("", 0o711, 0),
        ("installation.id", 0o644, 0),
        ("token.key", 0o640, group),
        ("lane.key", 0o640, proxy_group),
        ("ca.pem", 0o444, 0),
        ("ca.key", 0o600, 0),
        ("server.pem", 0o444, 0),
        ("server.key", 0o440, proxy_group),
        ("up.lock", 0o600, 0),
        ("db", 0o750, group),
        ("db/memgate.db", 0o660, group),
        ("db/memgate.db-wal", 0o660, group),
        ("db/memgate.db-shm", 0o660, group),
        ("db/memgate.leader", 0o600, 0),
    ] {
        let meta = fs::metadata(data.join(file)).unwrap();
        assert_eq!(meta.permissions().mode() & 0o7777, mode, "{file}");
        assert_eq!((meta.uid(), meta.gid()), (0, group), "{file}");
        assert_eq!(fs::metadata(format!("{view}/{file}")).unwrap().ino(), meta.ino());
    }
    assert_eq!(
        fs::read_dir(data.join("db")).unwrap().count(),
        4,
        "only SQLite's files and the provisioner's lock"
    );
    assert_eq!(fs::read_dir("/run/memgate").unwrap().count(), 0, "other processes don't see the mount");
}

/// R-18 and R-3, for every container of the installation.
#[test]
fn containers_are_sandboxed() {
    let product = Product::start();
    product.add_user("ada@example.org");
    product.add_user("bob@example.org");
    let label = format!("label=memgate={}", product.id());
    let containers = crate::harness::docker(&["ps", "-q", "--filter", &label]);
    assert_eq!(containers.len(), 2);
    let output = Command::new("docker").arg("inspect").args(&containers).output().unwrap();
    let inspected: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    for container in inspected {
        let host = &container["HostConfig"];
        let name = container["Name"].as_str().unwrap();
        assert!(name.starts_with(&format!("/memgate-{}-", product.id())), "{name}");
        assert_eq!(host["ReadonlyRootfs"], true);
        assert_eq!(host["CapDrop"], serde_json::json!(["ALL"]));
        assert!(host["CapAdd"].is_null());
        assert_eq!(host["Privileged"], false);
        assert_eq!(host["SecurityOpt"], serde_json::json!(["no-new-privileges:true"]));
        assert!(host["PidsLimit"].as_i64().is_some_and(|limit| (1..=64).contains(&limit)));
        assert!(host["Memory"].as_i64().is_some_and(|limit| limit >= 64 << 20));
        assert_eq!(host["Memory"], host["MemorySwap"]);
        assert!(host["NanoCpus"].as_i64().is_some_and(|limit| limit > 0));
        assert!(host["PortBindings"].as_object().is_none_or(serde_json::Map::is_empty));
        assert_eq!(host["PublishAllPorts"], false);
        assert!(host["Binds"].is_null());
        assert!(host["Devices"].as_array().is_none_or(Vec::is_empty));
        assert!(["", "private"].contains(&host["PidMode"].as_str().unwrap()));
        assert!(["", "none", "private"].contains(&host["IpcMode"].as_str().unwrap()));
        let mounts = container["Mounts"].as_array().unwrap();
        assert!(mounts.iter().all(|mount| mount["Type"] == "volume"), "{mounts:?}");
        let user = container["Config"]["User"].as_str().unwrap();
        assert!(!["", "0", "root", "0:0"].contains(&user), "runs as {user:?}");
        let ports = &container["NetworkSettings"]["Ports"];
        assert!(ports.as_object().unwrap().values().all(Value::is_null), "{ports}");
    }
}

// R-28.
#[test]
fn sudo_passes_settings_on_without_showing_them() {
    let dir = tempfile::tempdir().unwrap();
    let script = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/up")).unwrap();
    // The last part of the script, for a user who isn't root, with a sudo that prints its arguments.
    let (_, last) = script.split_once("# The provisioner needs root").unwrap();
    fs::write(dir.path().join("sudo"), "#!/bin/sh\nprintf '%s\\n' \"$@\"\n").unwrap();
    fs::write(dir.path().join("id"), "#!/bin/sh\necho 1000\n").unwrap();
    for name in ["sudo", "id"] {
        fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut script = Command::new("bash");
    script.args([
        "-c",
        &format!("set -euo pipefail; say() {{ :; }}; memgate=/opt/memgate\n#{last}"),
        "up",
        "-v",
    ]);
    script.env("PATH", format!("{}:/usr/bin:/bin", dir.path().display()));
    script
        .env("MEMGATE_STORE__URL", "postgres://memgate:hunter2@db/memgate")
        .env("MEMGATE_DATA", "/var/lib/a b");
    let output = script.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(!printed.contains("hunter2"), "{printed}");
    let arguments: Vec<&str> = printed.lines().collect();
    let kept = arguments[0].strip_prefix("--preserve-env=").unwrap();
    let mut kept: Vec<&str> = kept.split(',').filter(|name| name.starts_with("MEMGATE_")).collect();
    kept.sort_unstable();
    assert!(kept.contains(&"MEMGATE_DATA") && kept.contains(&"MEMGATE_STORE__URL"), "{kept:?}");
    assert_eq!(arguments[1..], ["--", "/opt/memgate", "up", "-v"]);
}
