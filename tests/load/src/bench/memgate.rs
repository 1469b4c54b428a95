//! The benchmark's installation of memgate, and users added by its command line.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use store::LaneKey;

use crate::error::LoadError;
use crate::installation::Installation;

const MEMCACHED_PORT: u16 = 11211;

pub(super) struct Memgate {
    installation: Installation,
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
        // A container limited by its CPU quota would make direct access look slow.
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let settings = vec![("PROVISIONER__CPUS", format!("{cpus}.0"))];
        let installation = Installation::start(memgate, folder, settings).await?;
        let mut memgate = Self { installation, users: Vec::new() };
        for index in 0..users.max(1) {
            let user = memgate.add_user(index)?;
            memgate.users.push(user);
        }
        Ok(memgate)
    }

    pub(super) fn endpoint(&self) -> SocketAddr {
        self.installation.endpoint()
    }

    pub(super) fn proxy_pid(&self) -> Option<u32> {
        self.installation.role_pid("proxy")
    }

    fn add_user(&self, index: usize) -> Result<User, LoadError> {
        let email = format!("bench-{index}@example.org");
        let added = self.installation.json(&["user", "add", &email])?;
        let instance = self.installation.json(&["instance", "show", &email])?;
        let unexpected = || LoadError::new("unexpected output of memgate", "report this");
        let text = |value: &Value, key: &str| value[key].as_str().map(str::to_owned).ok_or_else(unexpected);
        let key = LaneKey::load(&self.installation.data().join("lane.key"))
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
        self.installation.data().join("ca.pem")
    }

    /// Writes the proxy's certificate and key into one file, the format that peers read.
    pub(super) fn write_pem(&self, path: &Path) -> Result<(), LoadError> {
        let parts = ["server.pem", "server.key"].map(|name| fs::read(self.installation.data().join(name)));
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

fn container_pid(container: &str) -> Result<u32, LoadError> {
    let output = Command::new("docker").args(["inspect", "-f", "{{.State.Pid}}", container]).output()?;
    String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse()
        .map_err(|_| LoadError::invalid_run("Docker doesn't report the process of a container"))
}
