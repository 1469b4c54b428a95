//! The installation that faults are injected into, its users, and what is around it.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use super::certificate::{certificate_paths, issue};
use super::disk::Disk;
use super::fleet::Fleet;
use super::own_docker::OwnDocker;
use super::postgres::Postgres;
use super::relay::{DOCKER_SOCKET, Relay};
use super::watch::Watch;
use crate::account::{Account, account, log_in};
use crate::client::Form;
use crate::command::{self, docker};
use crate::error::LoadError;
use crate::installation::Installation;

/// A pool that neither the default nor tests nor floods use.
const SUBNETS: &str = "10.216.0.0/16";
/// Keys of each cache that are stored before a fault and counted after it.
pub(super) const KEPT_KEYS: usize = 100;

/// A cache's container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Instance {
    pub(super) id: String,
    pub(super) generation: i64,
    pub(super) address: String,
    pub(super) container: String,
}

/// What is around an installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Surroundings {
    /// One proxy, SQLite, the system's Docker Engine.
    Sqlite,
    /// PostgreSQL, and three proxies behind a load balancer.
    Fleet,
    /// SQLite, and a Docker Engine of its own.
    OwnDocker,
}

/// What is dropped first comes first.
pub(super) struct Testbed {
    pub(super) fleet: Option<Fleet>,
    pub(super) installation: Installation,
    pub(super) postgres: Option<Postgres>,
    pub(super) relay: Relay,
    /// An engine of its own, if it isn't the system's.
    pub(super) docker: Option<OwnDocker>,
    pub(super) disk: Disk,
    /// The first is the one that faults of one cache hit.
    pub(super) accounts: Vec<Account>,
    pub(super) folder: TempDir,
    pub(super) runtime: tokio::runtime::Runtime,
}

impl Testbed {
    pub(super) fn start(
        memgate: &Path,
        caches: usize,
        surroundings: Surroundings,
    ) -> Result<Self, LoadError> {
        eprintln!("starting memgate with {caches} caches ...");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let folder = tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir()?;
        let disk = Disk::mount(folder.path())?;
        let socket = folder.path().join("docker.sock");
        let own = surroundings == Surroundings::OwnDocker;
        let docker = if own { Some(OwnDocker::start(folder.path())?) } else { None };
        command::use_docker(docker.as_ref().map(OwnDocker::socket));
        let engine = docker.as_ref().map_or(DOCKER_SOCKET.into(), OwnDocker::socket);
        let relay = Relay::start(&socket, engine)?;
        let with_fleet = surroundings == Surroundings::Fleet;
        let (certificate, key) = certificate_paths(folder.path());
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        issue(folder.path(), 365)?;
        let mut settings = vec![
            ("PROVISIONER__SUBNETS", SUBNETS.to_owned()),
            ("PROVISIONER__DOCKER_SOCKET", text(socket)),
            ("PROXY__TLS_CERTIFICATE", text(certificate)),
            ("PROXY__TLS_KEY", text(key)),
        ];
        let postgres = if with_fleet { Some(Postgres::start(folder.path())?) } else { None };
        if let Some(postgres) = &postgres {
            settings.push(("STORE__URL", postgres.url()));
            settings.push(("PROXY__PROXY_PROTOCOL_FROM", r#"["127.0.0.1/32"]"#.to_owned()));
        }
        let installation = runtime.block_on(Installation::start(memgate, folder.path(), settings))?;
        let fleet = if with_fleet { Some(Fleet::start(&installation, folder.path())?) } else { None };
        let accounts = Vec::new();
        let mut testbed =
            Self { fleet, installation, postgres, relay, docker, disk, accounts, folder, runtime };
        for number in 0..caches {
            let account = testbed.add_user(&format!("cache-{number}@example.org"))?;
            testbed.accounts.push(account);
        }
        Ok(testbed)
    }

    /// Adds a user whose cache runs.
    pub(super) fn add_user(&self, email: &str) -> Result<Account, LoadError> {
        account(&self.installation.json(&["user", "add", email])?)
    }

    /// The address that clients connect to.
    pub(super) fn endpoint(&self) -> SocketAddr {
        self.fleet.as_ref().map_or(self.installation.endpoint(), |fleet| fleet.endpoint)
    }

    /// The id in Docker's names.
    pub(super) fn id(&self) -> Result<String, LoadError> {
        let file = self.installation.data().join("installation.id");
        Ok(std::fs::read_to_string(file)?.trim().to_owned())
    }

    pub(super) fn database(&self) -> PathBuf {
        self.installation.data().join("db/memgate.db")
    }

    /// The caches' instances, in the order of the accounts, with the containers that Docker has now: the store may learn of
    /// a new one later.
    pub(super) fn instances(&self) -> Result<Vec<Instance>, LoadError> {
        let list = self.installation.json(&["instance", "list"])?;
        let instances = list["instances"].as_array().cloned().unwrap_or_default();
        let id = self.id()?;
        let find = |account: &Account| {
            let found = instances.iter().find(|instance| instance["email"] == account.email.as_str());
            let missing = || LoadError::invalid_run("a cache has no container");
            let mut found = found.and_then(instance).ok_or_else(missing)?;
            found.container = docker(&["inspect", "-f", "{{.Id}}", &format!("memgate-{id}-{}", found.id)])?;
            Ok(found)
        };
        self.accounts.iter().map(find).collect()
    }

    /// The instance of the first cache.
    pub(super) fn victim(&self) -> Result<Instance, LoadError> {
        let mut instances = self.instances()?;
        Ok(instances.swap_remove(0))
    }

    pub(super) fn network_of(&self, instance: &Instance) -> Result<String, LoadError> {
        docker(&["inspect", "-f", "{{.HostConfig.NetworkMode}}", &instance.container])
    }

    pub(super) fn watch(&self) -> Watch {
        let installation = &self.installation;
        let health =
            [installation.proxy_health(), installation.provisioner_health(), installation.web_health()];
        let status = installation.memgate(&["status"]);
        let command = move || {
            let mut command = std::process::Command::new(status.get_program());
            command.args(status.get_args());
            for (key, value) in status.get_envs() {
                match value {
                    Some(value) => command.env(key, value),
                    None => command.env_remove(key),
                };
            }
            command
        };
        Watch::start(command, health)
    }

    /// Stores the keys of the caches that must keep them.
    pub(super) fn store_kept(&self) -> Result<(), LoadError> {
        let endpoint = self.endpoint();
        self.runtime.block_on(async {
            for account in &self.accounts {
                let opened = log_in(endpoint, account, Form::Text).await;
                let mut client = opened.map_err(|failure| failed(&failure))?;
                for n in 0..KEPT_KEYS {
                    let value = kept_value(account, n);
                    let stored = client.set(&format!("kept:{n}"), value.as_bytes()).await;
                    stored.map_err(|failure| failed(&failure))?;
                }
            }
            Ok(())
        })
    }

    /// How many keys each cache has kept.
    pub(super) fn count_kept(&self) -> Result<Vec<usize>, LoadError> {
        let endpoint = self.endpoint();
        self.runtime.block_on(async {
            let mut all = Vec::new();
            for account in &self.accounts {
                let opened = log_in(endpoint, account, Form::Sasl).await;
                let mut client = opened.map_err(|failure| failed(&failure))?;
                let mut kept = 0;
                for n in 0..KEPT_KEYS {
                    let value = client.get(&format!("kept:{n}")).await.map_err(|failure| failed(&failure))?;
                    kept += usize::from(value.as_deref() == Some(kept_value(account, n).as_bytes()));
                }
                all.push(kept);
            }
            Ok(all)
        })
    }
}

fn instance(value: &Value) -> Option<Instance> {
    let text = |key: &str| value[key].as_str().map(str::to_owned);
    Some(Instance {
        id: text("id")?,
        generation: value["generation"].as_i64()?,
        address: text("address")?,
        container: String::new(),
    })
}

fn kept_value(account: &Account, n: usize) -> String {
    format!("{n} of {}", account.email)
}

fn failed(failure: &crate::client::Failure) -> LoadError {
    LoadError::invalid_run(format!("a kept key: {failure}"))
}
