//! A machine of its own with systemd and Docker Engine: a container whose first process is systemd. Its root file system is one
//! that debootstrap has made, so no registry is asked.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use crate::client_libraries::tool;
use crate::harness::{deadline_in, docker, wait_until};

const IMAGE: &str = "memgate-test-machine";
/// Control groups as on a real machine, for this container's own part of them.
const INIT: &str = r#"
mount -o remount,rw /sys
for group in /sys/fs/cgroup/*; do mountpoint -q "$group" && umount "$group"; done
umount /sys/fs/cgroup
if grep -q '^[1-9]' /proc/self/cgroup; then
    mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
    sed -n 's/^[0-9]*:\([^:]\+\):.*/\1/p' /proc/self/cgroup | while read -r group; do
        mkdir -p "/sys/fs/cgroup/${group#name=}"
        mount -t cgroup -o "$group" cgroup "/sys/fs/cgroup/${group#name=}"
    done
else
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi
: >/etc/machine-id
mount --make-rshared /
exec /lib/systemd/systemd
"#;

/// Removed with all that is in it when dropped.
pub(crate) struct Machine {
    container: String,
}

impl Machine {
    /// Starts it, and waits until Docker runs in it.
    pub(crate) fn start() -> Self {
        let mut run = Command::new("docker");
        run.args(["run", "--detach", "--name", &format!("memgate-test-machine-{}", std::process::id())]);
        // All capabilities that this machine has itself: `--privileged` fails where one is missing.
        run.args(["--cap-add", "ALL"]).args(missing_capabilities());
        for option in ["seccomp=unconfined", "apparmor=unconfined", "systempaths=unconfined"] {
            run.args(["--security-opt", option]);
        }
        run.args([
            "--device-cgroup-rule",
            "a *:* rwm",
            "--cgroupns",
            "private",
            "--stop-signal",
            "SIGRTMIN+3",
        ]);
        run.args([
            "--tmpfs",
            "/run",
            "--tmpfs",
            "/run/lock",
            "--tmpfs",
            "/tmp:exec",
            "--env",
            "container=docker",
        ]);
        // Docker in it needs a disk that isn't an overlay.
        run.args(["--volume", "/var/lib/docker", image(), "/bin/sh", "-c", INIT]);
        let output = run.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let machine = Self { container: String::from_utf8(output.stdout).unwrap().trim().to_owned() };
        wait_until(deadline_in(120), "Docker runs in the machine", || {
            machine.run("docker info").status.success()
        });
        machine
    }

    /// Runs a script of bash.
    pub(crate) fn run(&self, script: &str) -> Output {
        let script = format!("set -eo pipefail; {script}");
        Command::new("docker").args(["exec", &self.container, "bash", "-c", &script]).output().unwrap()
    }

    /// The same for one that must succeed. Returns what it prints.
    pub(crate) fn succeed(&self, script: &str) -> String {
        let output = self.run(script);
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{script}:\n{printed}\n{}\n{}",
            String::from_utf8_lossy(&output.stderr),
            String::from_utf8_lossy(&self.run("journalctl --unit memgate --lines 50 --no-pager").stdout)
        );
        printed
    }

    pub(crate) fn copy(&self, file: &Path, to: &str) {
        docker(&["cp", file.to_str().unwrap(), &format!("{}:{to}", self.container)]);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rm", "--force", "--volumes", &self.container]).output();
    }
}

/// The image of its root file system, which is made once.
fn image() -> &'static str {
    static MADE: OnceLock<()> = OnceLock::new();
    MADE.get_or_init(|| {
        let archive: PathBuf = tool("MEMGATE_TEST_MACHINE", "target/tools/machine.tar");
        docker(&["import", archive.to_str().unwrap(), IMAGE]);
    });
    IMAGE
}

/// Options that leave out the capabilities that this machine doesn't have.
fn missing_capabilities() -> Vec<String> {
    const CAPABILITIES: [&str; 41] = [
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "KILL",
        "SETGID",
        "SETUID",
        "SETPCAP",
        "LINUX_IMMUTABLE",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_ADMIN",
        "NET_RAW",
        "IPC_LOCK",
        "IPC_OWNER",
        "SYS_MODULE",
        "SYS_RAWIO",
        "SYS_CHROOT",
        "SYS_PTRACE",
        "SYS_PACCT",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_NICE",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "MKNOD",
        "LEASE",
        "AUDIT_WRITE",
        "AUDIT_CONTROL",
        "SETFCAP",
        "MAC_OVERRIDE",
        "MAC_ADMIN",
        "SYSLOG",
        "WAKE_ALARM",
        "BLOCK_SUSPEND",
        "AUDIT_READ",
        "PERFMON",
        "BPF",
        "CHECKPOINT_RESTORE",
    ];
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let held = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap().trim();
    let held = u64::from_str_radix(held, 16).unwrap();
    let missing = CAPABILITIES.iter().enumerate().filter(|(number, _)| held & (1 << number) == 0);
    missing.flat_map(|(_, name)| ["--cap-drop".to_owned(), (*name).to_owned()]).collect()
}
