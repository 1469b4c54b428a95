//! `memgate up` with its own data directory and ports, and users added by its command line.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use store::LaneKey;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::peer::{bound_to_parent, children, free_ports, stop};
use crate::error::LoadError;

/// The first start builds the image.
const START_TIMEOUT: Duration = Duration::from_secs(180);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
const MEMCACHED_PORT: u16 = 11211;

pub(super) struct Memgate {
    up: Option<Child>,
    memgate: PathBuf,
    data: PathBuf,
    ports: [SocketAddr; 5],
    pub(super) users: Vec<User>,
}

/// A user's cache: the container's address and process, and the credentials of its token and its lane.
pub(super) struct User {
    pub(super) backend: SocketAddr,
    pub(super) memcached_pid: u32,
    token: String,
    lane: String,
}

impl Memgate {
    pub(super) async fn start(memgate: &Path, folder: &Path, users: usize) -> Result<Self, LoadError> {
        let memgate = fs::canonicalize(memgate).map_err(|error| {
            LoadError::new(format!("no {} ({error})", memgate.display()), "cargo build --release")
        })?;
        let mut memgate =
            Self { up: None, memgate, data: folder.join("data"), ports: free_ports(), users: Vec::new() };
        memgate.up(folder).await?;
        for index in 0..users.max(1) {
            let user = memgate.add_user(index)?;
            memgate.users.push(user);
        }
        Ok(memgate)
    }

    pub(super) fn endpoint(&self) -> SocketAddr {
        self.ports[0]
    }

    pub(super) fn proxy_pid(&self) -> Option<u32> {
        let is_proxy = |pid: &u32| {
            let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command.split('\0').nth(1) == Some("proxy")
        };
        children(self.up.as_ref()?.id()).into_iter().find(is_proxy)
    }

    fn memgate(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.memgate);
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MEMGATE_"))
        {
            command.env_remove(name);
        }
        let keys =
            ["PROXY__LISTEN", "PROXY__HEALTH", "PROVISIONER__HEALTH", "WEBUI__LISTEN", "WEBUI__HEALTH"];
        for (key, port) in keys.iter().zip(self.ports) {
            command.env(format!("MEMGATE_{key}"), port.to_string());
        }
        // A container limited by its CPU quota would make direct access look slow.
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        command.env("MEMGATE_PROVISIONER__CPUS", format!("{cpus}.0"));
        command.env("MEMGATE_DATA", &self.data).args(arguments).stdin(Stdio::null());
        command
    }

    async fn up(&mut self, folder: &Path) -> Result<(), LoadError> {
        let log_path = folder.join("memgate.log");
        let mut command = bound_to_parent(&self.memgate(&["up"]));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&log_path)?);
        let mut up = command.spawn()?;
        let stdout = up.stdout.take();
        self.up = Some(up);
        let stdout = stdout.ok_or_else(|| LoadError::invalid_run("no output of memgate"))?;
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

    fn json(&self, arguments: &[&str]) -> Result<Value, LoadError> {
        let output = self.memgate(arguments).arg("--json").output()?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(LoadError::new(format!("memgate {}: {words}", arguments.join(" ")), "see above"));
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    fn add_user(&self, index: usize) -> Result<User, LoadError> {
        let email = format!("bench-{index}@example.org");
        let added = self.json(&["user", "add", &email])?;
        let instance = self.json(&["instance", "show", &email])?;
        let unexpected = || LoadError::new("unexpected output of memgate", "report this");
        let text = |value: &Value, key: &str| value[key].as_str().map(str::to_owned).ok_or_else(unexpected);
        let key = LaneKey::load(&self.data.join("lane.key"))
            .map_err(|error| LoadError::new(error.to_string(), "run this as root"))?;
        let generation = instance["generation"].as_i64().ok_or_else(unexpected)?;
        let address = text(&instance, "address")?.parse().map_err(|_| unexpected())?;
        Ok(User {
            backend: SocketAddr::new(address, MEMCACHED_PORT),
            memcached_pid: container_pid(&text(&instance, "container")?)?,
            token: format!("{} {}", text(&added, "username")?, text(&added, "password")?),
            lane: key.credential(&text(&instance, "id")?, generation).login_value(),
        })
    }

    /// The certificate authority of the proxy's certificate.
    pub(super) fn ca(&self) -> PathBuf {
        self.data.join("ca.pem")
    }

    /// Writes the proxy's certificate and key into one file, the format that peers read.
    pub(super) fn write_pem(&self, path: &Path) -> Result<(), LoadError> {
        let parts = ["server.pem", "server.key"].map(|name| fs::read(self.data.join(name)));
        let [certificate, key] = parts;
        Ok(fs::write(path, [certificate?, key?].concat())?)
    }

    /// Writes credentials, one per line.
    pub(super) fn write_logins(&self, path: &Path, kind: Logins) -> Result<(), LoadError> {
        let users = self.users.iter();
        let lines: Vec<String> = match kind {
            Logins::Token => users.take(1).map(|user| user.token.clone()).collect(),
            Logins::Tokens => users.map(|user| user.token.clone()).collect(),
            Logins::Lane => users.take(1).map(|user| user.lane.clone()).collect(),
            Logins::Lanes => users.map(|user| format!("{} {}", user.lane, user.backend)).collect(),
            Logins::LanesThroughPeer(listen) => users
                .enumerate()
                .map(|(n, user)| format!("{} {}", user.lane, listener_of(listen, n)))
                .collect(),
        };
        let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
        file.write_all((lines.join("\n") + "\n").as_bytes())?;
        file.persist(path).map_err(|error| LoadError::from(error.error))?;
        Ok(())
    }
}

/// Which credentials, and for which address.
#[derive(Debug, Clone, Copy)]
pub(super) enum Logins {
    /// The first user's token, for the proxy.
    Token,
    /// All users' tokens, for the proxy.
    Tokens,
    /// The lane of the first user's cache.
    Lane,
    /// The lanes of all caches, each with its address.
    Lanes,
    /// The lanes of all caches through a peer, see [`listener_of`].
    LanesThroughPeer(SocketAddr),
}

/// The address on which a peer listens for the `n`-th user: the same port, another loopback address.
pub(super) fn listener_of(listen: SocketAddr, n: usize) -> SocketAddr {
    let [high, low] = u16::try_from(n + 1).unwrap_or(u16::MAX).to_be_bytes();
    SocketAddr::from(([127, 1, high, low], listen.port()))
}

impl Drop for Memgate {
    fn drop(&mut self) {
        if let Some(mut up) = self.up.take() {
            stop(&mut up, "INT", STOP_TIMEOUT);
        }
        let down = self.memgate(&["down", "--purge"]).output();
        match down {
            Ok(down) if down.status.success() => {}
            Ok(down) => eprintln!("memgate down: {}", String::from_utf8_lossy(&down.stderr).trim()),
            Err(error) => eprintln!("memgate down: {error}"),
        }
    }
}

fn container_pid(container: &str) -> Result<u32, LoadError> {
    let output = Command::new("docker").args(["inspect", "-f", "{{.State.Pid}}", container]).output()?;
    String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse()
        .map_err(|_| LoadError::invalid_run("Docker doesn't report the process of a container"))
}
