//! Checks of this machine: ports, open files, settings of the kernel, disks, the firewall.

use std::fs;
use std::path::Path;
use std::str::FromStr;

use rustix::process::{Resource, getrlimit};

use super::report::Report;
use crate::cli::up::{LockHolder, port_check};
use crate::settings::Settings;

/// Bytes of free space below which there is a warning, and a problem.
const FREE_WARNING: u64 = 2 << 30;
const FREE_MIN: u64 = 128 << 20;
/// Settings of the kernel: the file below /proc/sys, the least that is good, and what less of it means.
const KERNEL: [(&str, u64, &str); 4] = [
    ("net/core/somaxconn", 1_024, "bursts of new connections are reset"),
    ("net/ipv4/tcp_migrate_req", 1, "clients that wait while a role restarts have to connect again"),
    ("net/ipv4/neigh/default/gc_thresh3", 4_096, "with hundreds of caches, connections to some of them fail"),
    (
        "net/bridge/bridge-nf-call-iptables",
        1,
        "containers of a network reach each other: restart Docker, which sets it",
    ),
];

/// Whether the ports of all roles are free, or held by `memgate up`, or by roles that run one by one.
pub(super) fn ports(settings: &Settings, up: Option<&LockHolder>, runs: bool, report: &mut Report) {
    if let Some(up) = up {
        return report.ok("ports", format!("`memgate up` (process {}) holds them", up.pid));
    }
    if runs {
        return report.ok("ports", "roles hold them");
    }
    let conflicts = port_check::conflicts(settings);
    if conflicts.is_empty() {
        report.ok("ports", "all are free");
    }
    for (found, fix) in conflicts {
        report.warning("ports", found, fix);
    }
}

/// Whether the proxy may open as many files as its connections need.
pub(super) fn open_files(settings: &Settings, up: Option<&LockHolder>, report: &mut Report) {
    let limit = match up {
        Some(up) => limit_of(up.pid),
        None => Some(getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)),
    };
    let wanted = u64::try_from(proxy::wanted_files(&settings.proxy)).unwrap_or(u64::MAX);
    let connections = settings.proxy.connections;
    match limit {
        None => report.warning("open files", "the limit of `memgate up` can't be read", "run this as root"),
        Some(limit) if limit < wanted => report.warning(
            "open files",
            format!("a process may open {limit}, and {connections} connections need {wanted}"),
            "raise LimitNOFILE= of the service or `ulimit -Hn`, or lower proxy.connections",
        ),
        Some(_) => report.ok("open files", format!("enough for {connections} connections")),
    }
}

/// The hard limit of a process.
fn limit_of(pid: i32) -> Option<u64> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let hard = line.split_whitespace().nth(1)?;
    if hard == "unlimited" { Some(u64::MAX) } else { hard.parse().ok() }
}

/// Whether the kernel's settings fit.
pub(super) fn kernel(report: &mut Report) {
    let mut all_fit = true;
    for (name, least, meaning) in KERNEL {
        // A container, or a kernel without that option, doesn't have the file.
        let Some(value) = read_number::<u64>(&Path::new("/proc/sys").join(name)) else { continue };
        if value < least {
            all_fit = false;
            let name = name.replace('/', ".");
            report.warning(
                "kernel",
                format!("{name} is {value}: {meaning}"),
                format!("sysctl -w {name}={least}"),
            );
        }
    }
    if all_fit {
        report.ok("kernel", "its network settings fit");
    }
}

fn read_number<T: FromStr>(file: &Path) -> Option<T> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// Whether a disk has room.
pub(super) fn disk(check: &'static str, folder: &Path, report: &mut Report) {
    // A data directory that is made later is on its parent's disk.
    let existing = folder.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("."));
    let shown = folder.display();
    let Ok(disk) = rustix::fs::statvfs(existing) else {
        return report.warning(check, format!("{shown} can't be looked at"), "run this as root");
    };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let found = format!("{} MB are free under {shown}", free >> 20);
    if free < FREE_MIN {
        report.problem(check, found, "free some space: nothing can be written soon");
    } else if free < FREE_WARNING {
        report.warning(check, found, "free some space");
    } else {
        report.ok(check, found);
    }
}

/// Whether the installation's table of nft is there. `has_instances` says whether it should be.
pub(super) fn firewall(installation: &str, has_instances: bool, report: &mut Report) {
    const CHECK: &str = "firewall";
    let output = match daemon::host_tool("nft").args(["list", "tables"]).output() {
        Ok(output) if output.status.success() => output,
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return report.warning(
                CHECK,
                format!("nft can't list its tables ({})", said.trim()),
                "run this as root",
            );
        }
        Err(error) => {
            return report.problem(CHECK, format!("can't run nft ({error})"), "install nftables");
        }
    };
    let tables = String::from_utf8_lossy(&output.stdout);
    let table = format!("memgate_{installation}");
    let is_there = tables.lines().any(|line| line.split(' ').any(|word| word == table));
    if is_there {
        report.ok(CHECK, format!("nft has the table {table}"));
    } else if has_instances {
        let fix = "start `memgate up`, or see the provisioner's log: it installs the table before it starts containers";
        report.problem(CHECK, format!("nft has no table {table}"), fix);
    } else {
        report.ok(CHECK, "nft works; the table comes with the first cache");
    }
}
