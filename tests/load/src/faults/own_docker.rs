//! A Docker Engine of the measurement's own, which can be stopped and started again.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::fleet::Process;
use crate::child::stop;
use crate::command::run;
use crate::error::LoadError;

const START_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Of a network that is for documentation.
const BRIDGE_ADDRESS: &str = "192.0.2.1/29";
const OPTIONS: [&str; 5] = [
    "--iptables=false",
    "--containerd-namespace",
    "memgate-faults",
    "--containerd-plugins-namespace",
    "memgate-faults-plugins",
];

/// A running engine. Stopped when dropped.
pub(super) struct OwnDocker {
    folder: PathBuf,
    /// Its default bridge, on which it has no container. Without one, an engine removes docker0, which is another's.
    bridge: String,
    process: Option<Process>,
}

impl OwnDocker {
    pub(super) fn start(parent: &Path) -> Result<Self, LoadError> {
        let folder = parent.join("docker");
        std::fs::create_dir(&folder)?;
        let bridge = format!("mgf{}", std::process::id());
        run("ip", &["link", "add", &bridge, "type", "bridge"])?;
        run("ip", &["address", "add", BRIDGE_ADDRESS, "dev", &bridge])?;
        let mut engine = Self { folder, bridge, process: None };
        engine.start_again(false)?;
        Ok(engine)
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.folder.join("docker.sock")
    }

    /// Starts it, and waits until it answers. With `live_restore` containers go on without it.
    pub(super) fn start_again(&mut self, live_restore: bool) -> Result<(), LoadError> {
        let path = |name: &str| self.folder.join(name).to_string_lossy().into_owned();
        let host = format!("unix://{}", self.socket().display());
        let mut command = Command::new("dockerd");
        command.args(["--data-root", &path("root"), "--exec-root", &path("exec")]);
        command.args(["--pidfile", &path("pid"), "-H", &host]).args(OPTIONS);
        command.args([format!("--bridge={}", self.bridge), format!("--live-restore={live_restore}")]);
        self.process = Some(Process::start(&command, &self.folder.join("log"))?);
        let deadline = Instant::now() + START_TIMEOUT;
        let mut version = Command::new("docker");
        version.args(["-H", &host, "version"]).stdout(Stdio::null()).stderr(Stdio::null());
        while !version.status().is_ok_and(|status| status.success()) {
            if Instant::now() > deadline {
                return Err(LoadError::invalid_run("a second Docker Engine doesn't start"));
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    /// Stops it as the system does.
    pub(super) fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            stop(&mut process.0, "TERM", STOP_TIMEOUT);
        }
    }
}

impl Drop for OwnDocker {
    fn drop(&mut self) {
        self.stop();
        // An engine whose containers may go on leaves its folder mounted on itself.
        let root = self.folder.join("root");
        let _ = Command::new("umount").arg(root).stderr(Stdio::null()).status();
        let _ = run("ip", &["link", "del", &self.bridge]);
    }
}
