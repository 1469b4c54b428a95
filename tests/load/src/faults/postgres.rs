//! A PostgreSQL server of the measurement's own, which can be killed and started again.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::child::{bound_to_parent, free_ports, stop};
use crate::command::{run, signal};
use crate::error::LoadError;

const USER: &str = "postgres";
const START_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// A running server. Stopped when dropped.
pub(super) struct Postgres {
    binaries: PathBuf,
    folder: PathBuf,
    port: u16,
    process: Option<Child>,
}

impl Postgres {
    /// Makes a cluster in `parent`, which others may pass through, and starts a server.
    pub(super) fn start(parent: &Path) -> Result<Self, LoadError> {
        let binaries = binaries()?;
        let folder = parent.join("postgres");
        fs::create_dir(&folder)?;
        let id = |flag: &str| -> Result<u32, LoadError> {
            let number = run("id", &[flag, USER])?;
            number.parse().map_err(|_| LoadError::invalid_run("the user postgres has no number"))
        };
        chown(&folder, Some(id("-u")?), Some(id("-g")?))?;
        let initdb = binaries.join("initdb").to_string_lossy().into_owned();
        let data = folder.to_string_lossy().into_owned();
        let options = ["-A", "trust", "-E", "UTF8", "--no-locale", "-N", "-U", USER, "-D", &data];
        run("runuser", &[&["-u", USER, "--", &initdb][..], &options].concat())?;
        let [address] = free_ports();
        let mut server = Self { binaries, folder, port: address.port(), process: None };
        server.start_again()?;
        Ok(server)
    }

    pub(super) fn url(&self) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{USER}", self.port)
    }

    /// Kills the server with all of its processes, as a crash of the machine would.
    pub(super) fn kill(&mut self) -> Result<(), LoadError> {
        let pid = fs::read_to_string(self.folder.join("postmaster.pid"))?;
        let pid = pid.lines().next().and_then(|line| line.parse().ok()).unwrap_or_default();
        // The others end with the first.
        signal(pid, Signal::KILL)?;
        if let Some(mut process) = self.process.take() {
            process.wait()?;
        }
        Ok(())
    }

    pub(super) fn start_again(&mut self) -> Result<(), LoadError> {
        let mut command = Command::new("runuser");
        command.args(["-u", USER, "--"]).arg(self.binaries.join("postgres"));
        command.arg("-D").arg(&self.folder).arg("-k").arg(&self.folder);
        command.args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
        let mut command = bound_to_parent(&command);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let deadline = Instant::now() + START_TIMEOUT;
        let port = self.port.to_string();
        let is_ready = self.binaries.join("pg_isready");
        loop {
            // Processes of the one that was killed may still be ending, which keeps it from starting.
            if self.process.is_none() {
                self.process = Some(command.spawn()?);
            }
            if Command::new(&is_ready)
                .args(["-q", "-h", "127.0.0.1", "-p", &port])
                .status()
                .is_ok_and(|status| status.success())
            {
                return Ok(());
            }
            if self.process.as_mut().is_some_and(|process| matches!(process.try_wait(), Ok(Some(_)))) {
                self.process = None;
            }
            if Instant::now() > deadline {
                return Err(LoadError::invalid_run("PostgreSQL doesn't start"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            stop(&mut process, "INT", STOP_TIMEOUT);
        }
    }
}

/// The newest version's folder of programs.
fn binaries() -> Result<PathBuf, LoadError> {
    let version = |path: &PathBuf| path.parent()?.file_name()?.to_str()?.parse::<u32>().ok();
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let installed = versions.map(|entry| entry.path().join("bin"));
    let installed =
        installed.filter(|bin| fs::metadata(bin.join("initdb")).is_ok_and(|file| file.size() > 0));
    installed.max_by_key(version).ok_or_else(|| {
        LoadError::new("there is no PostgreSQL", "install it with `apt-get install postgresql`")
    })
}
