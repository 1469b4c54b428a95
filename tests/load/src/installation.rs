//! An installation of memgate for one measurement: `memgate up` with its own data directory and ports, removed on drop.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use store::{Database, LaneKey, Store, StoreOptions, TokenKey};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::child::{bound_to_parent, children, free_ports, stop};
use crate::error::LoadError;

/// The first start builds the image.
const START_TIMEOUT: Duration = Duration::from_secs(180);
/// A slow reader may hold the proxy for 30 s.
const STOP_TIMEOUT: Duration = Duration::from_secs(40);
/// The settings of [`Installation::ports`].
const ADDRESS_SETTINGS: [&str; 5] =
    ["PROXY__LISTEN", "PROXY__HEALTH", "PROVISIONER__HEALTH", "WEBUI__LISTEN", "WEBUI__HEALTH"];

pub(crate) struct Installation {
    up: Option<Child>,
    memgate: PathBuf,
    /// Of the log.
    folder: PathBuf,
    data: PathBuf,
    ports: [SocketAddr; 5],
    /// Further settings, as the names of variables without `MEMGATE_`, and their values.
    settings: Vec<(&'static str, String)>,
}

impl Installation {
    pub(crate) async fn start(
        memgate: &Path,
        folder: &Path,
        settings: Vec<(&'static str, String)>,
    ) -> Result<Self, LoadError> {
        let mut installation = Self::without_up(memgate, folder, settings)?;
        installation.up().await?;
        Ok(installation)
    }

    /// One that nothing has been started of.
    pub(crate) fn without_up(
        memgate: &Path,
        folder: &Path,
        settings: Vec<(&'static str, String)>,
    ) -> Result<Self, LoadError> {
        let memgate = fs::canonicalize(memgate).map_err(|error| {
            LoadError::new(format!("no {} ({error})", memgate.display()), "cargo build --release")
        })?;
        let (folder, data) = (folder.to_owned(), folder.join("data"));
        Ok(Self { up: None, memgate, folder, data, ports: free_ports(), settings })
    }

    /// The memgate binary.
    pub(crate) fn program(&self) -> &Path {
        &self.memgate
    }

    /// Starts `memgate up` again after [`Installation::end_up`], and waits until it is ready.
    pub(crate) async fn up(&mut self) -> Result<(), LoadError> {
        let stdout = self.spawn_up()?;
        let log_path = self.log_path();
        let mut lines = BufReader::new(tokio::process::ChildStdout::from_std(stdout)?).lines();
        let ready = async {
            while let Some(line) = lines.next_line().await? {
                if line == "memgate is ready" {
                    return Ok(());
                }
            }
            let log = fs::read_to_string(&log_path).unwrap_or_default();
            Err(LoadError::new(
                format!("memgate doesn't start ({})", log.lines().last().unwrap_or("no message")),
                "see that Docker runs, and that deploy/up works",
            ))
        };
        tokio::time::timeout(START_TIMEOUT, ready).await.unwrap_or_else(|_| {
            Err(LoadError::new("memgate isn't ready in time", "see that deploy/up works"))
        })
    }

    /// Starts `memgate up` and doesn't wait. Returns its output.
    pub(crate) fn spawn_up(&mut self) -> Result<ChildStdout, LoadError> {
        let mut command = bound_to_parent(&self.memgate(&["up"]));
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut up = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn()?;
        let stdout = up.stdout.take();
        self.up = Some(up);
        stdout.ok_or_else(|| LoadError::invalid_run("no output of memgate"))
    }

    /// Sends a signal to `memgate up` and waits for its end. Returns whether it ended in time.
    pub(crate) fn end_up(&mut self, signal: &str) -> bool {
        self.up.take().is_none_or(|mut up| stop(&mut up, signal, STOP_TIMEOUT))
    }

    /// The process of `memgate up`.
    pub(crate) fn up_pid(&self) -> Option<u32> {
        self.up.as_ref().map(Child::id)
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.folder.join("memgate.log")
    }

    /// The data directory.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// Its store, which `memgate up` has made.
    pub(crate) async fn open_store(&self) -> Result<Store, LoadError> {
        let database = Database::Sqlite(self.data.join("db/memgate.db"));
        Store::open_existing(&database, &StoreOptions::default()).await.map_err(LoadError::unexpected)
    }

    pub(crate) fn token_key(&self) -> Result<TokenKey, LoadError> {
        TokenKey::load(&self.data.join("token.key")).map_err(LoadError::unexpected)
    }

    pub(crate) fn lane_key(&self) -> Result<LaneKey, LoadError> {
        LaneKey::load(&self.data.join("lane.key")).map_err(LoadError::unexpected)
    }

    /// The address that applications connect to.
    pub(crate) fn endpoint(&self) -> SocketAddr {
        self.ports[0]
    }

    pub(crate) fn proxy_health(&self) -> SocketAddr {
        self.ports[1]
    }

    pub(crate) fn provisioner_health(&self) -> SocketAddr {
        self.ports[2]
    }

    pub(crate) fn web(&self) -> SocketAddr {
        self.ports[3]
    }

    pub(crate) fn web_health(&self) -> SocketAddr {
        self.ports[4]
    }

    /// The process of a role: `proxy`, `provisioner` or `webui`.
    pub(crate) fn role_pid(&self, role: &str) -> Option<u32> {
        let is_role = |pid: &u32| {
            let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command.split('\0').nth(1) == Some(role)
        };
        children(self.up.as_ref()?.id()).into_iter().find(is_role)
    }

    /// Runs a command of memgate and returns its JSON output.
    pub(crate) fn json(&self, arguments: &[&str]) -> Result<Value, LoadError> {
        self.json_with_input(arguments, "")
    }

    /// The same, with text for its stdin.
    pub(crate) fn json_with_input(&self, arguments: &[&str], input: &str) -> Result<Value, LoadError> {
        let mut command = self.memgate(arguments);
        command.arg("--json").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(LoadError::new(format!("memgate {}: {words}", arguments.join(" ")), "see above"));
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// A command of memgate with this installation's settings.
    pub(crate) fn memgate(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.memgate);
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MEMGATE_"))
        {
            command.env_remove(name);
        }
        for (key, port) in ADDRESS_SETTINGS.iter().zip(self.ports) {
            command.env(format!("MEMGATE_{key}"), port.to_string());
        }
        // They would be made while something else is measured.
        command.env("MEMGATE_PROVISIONER__READY_INSTANCES", "0");
        for (key, value) in &self.settings {
            command.env(format!("MEMGATE_{key}"), value);
        }
        command.env("MEMGATE_DATA", &self.data).args(arguments).stdin(Stdio::null());
        command
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        if let Some(mut up) = self.up.take() {
            stop(&mut up, "INT", STOP_TIMEOUT);
        }
        // A database of PostgreSQL isn't memgate's to remove.
        let purges = !self.settings.iter().any(|(key, _)| *key == "STORE__URL");
        let down: &[&str] = if purges { &["down", "--purge"] } else { &["down"] };
        let down = self.memgate(down).output();
        match down {
            Ok(down) if down.status.success() => {}
            Ok(down) => eprintln!("memgate down: {}", String::from_utf8_lossy(&down.stderr).trim()),
            Err(error) => eprintln!("memgate down: {error}"),
        }
    }
}
