//! The installation that is flooded, and its users.

use std::fs::Permissions;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;

use super::Floods;
use super::job::Job;
use super::kind::{Account, Kind, Role};
use super::victim::Victim;
use crate::error::LoadError;
use crate::installation::Installation;

const VICTIM: &str = "victim@example.org";
const ATTACKER: &str = "attacker@example.org";
const LIMITED: &str = "limited@example.org";
const LIMITED_PLAN: &str = "floods-limited";
const LIMITED_RATE: &str = "10";
/// A sign-in each second by 15 users is four a minute for each: below the limit for one user and source.
const WEB_USERS: usize = 15;
const WEB_PASSWORD: &str = "a password for the web UI";
/// A pool that neither the default nor the tests use.
const SUBNETS: &str = "10.215.0.0/16";
const MEMCACHED_PORT: u16 = 11211;

pub(super) struct Testbed {
    pub(super) installation: Installation,
    pub(super) victim: Arc<Victim>,
    attacker: Token,
    limited: Token,
    /// After `installation`, which is removed first.
    _folder: TempDir,
}

struct Token {
    username: String,
    password: String,
}

impl Testbed {
    pub(super) async fn start(floods: &Floods) -> Result<Self, LoadError> {
        eprintln!("starting memgate with {} users ...", WEB_USERS + 3);
        let folder = tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir()?;
        let settings = vec![("PROVISIONER__SUBNETS", SUBNETS.to_owned())];
        let memgate: &Path = &floods.memgate;
        let installation = Installation::start(memgate, folder.path(), settings).await?;
        let web_users: Vec<String> = (0..WEB_USERS).map(|n| format!("web-{n}@example.org")).collect();
        for email in &web_users {
            let arguments = ["user", "add", email, "--password-stdin", "--no-wait"];
            installation.json_with_input(&arguments, WEB_PASSWORD)?;
        }
        let rate = ["--operations-per-second", LIMITED_RATE];
        installation.json(&[&["plan", "create", LIMITED_PLAN], &rate[..]].concat())?;
        let add = |arguments: &[&str]| token(&installation.json(&[&["user", "add"], arguments].concat())?);
        let own = add(&[VICTIM])?;
        let attacker = add(&[ATTACKER])?;
        let limited = add(&[LIMITED, "--plan", LIMITED_PLAN])?;
        let victim = Arc::new(Victim {
            proxy: installation.endpoint(),
            web: installation.web(),
            username: own.username,
            password: own.password,
            web_users,
            web_password: WEB_PASSWORD.into(),
            logins_per_second: floods.logins,
            requests_per_second: floods.requests,
        });
        Ok(Self { installation, victim, attacker, limited, _folder: folder })
    }

    /// The work of a flood, on any core.
    pub(super) fn job(&self, kind: Kind, floods: &Floods) -> Result<Job, LoadError> {
        let target = match kind {
            Kind::WebUnread | Kind::SignInSpray | Kind::SignInSpraySources | Kind::SignInsAtOnce => {
                self.installation.web()
            }
            Kind::HealthProxy => self.installation.proxy_health(),
            Kind::HealthProvisioner => self.installation.provisioner_health(),
            Kind::HealthWebui => self.installation.web_health(),
            Kind::ContainerPort => self.container()?,
            _ => self.installation.endpoint(),
        };
        let (username, password) = match kind.account() {
            Account::Attacker => (&self.attacker.username, &self.attacker.password),
            Account::Limited => (&self.limited.username, &self.limited.password),
            Account::Victim => (&self.victim.username, &self.attacker.password),
        };
        Ok(Job {
            kind,
            target,
            username: username.clone(),
            password: password.clone(),
            shard: 0,
            shards: 1,
            scale: floods.scale,
            cpu_share: 0.0,
            seconds_max: floods.seconds.max(kind.duration_min().as_secs_f64()) + 60.0,
            core: None,
        })
    }

    /// The roles' processes.
    pub(super) fn pids(&self) -> Vec<(Role, u32)> {
        Role::ALL
            .into_iter()
            .filter_map(|role| Some((role, self.installation.role_pid(role.name())?)))
            .collect()
    }

    /// The generation of the victim's container, which a new container increases.
    pub(super) fn generation(&self) -> Result<i64, LoadError> {
        let generation = self.instance()?["generation"].as_i64();
        generation.ok_or_else(|| LoadError::new("unexpected output of memgate", "report this"))
    }

    fn container(&self) -> Result<SocketAddr, LoadError> {
        let instance = self.instance()?;
        let address: Option<IpAddr> = instance["address"].as_str().and_then(|address| address.parse().ok());
        let address = address.ok_or_else(|| LoadError::invalid_run("the victim has no container"))?;
        Ok(SocketAddr::new(address, MEMCACHED_PORT))
    }

    fn instance(&self) -> Result<Value, LoadError> {
        self.installation.json(&["instance", "show", VICTIM])
    }
}

fn token(added: &Value) -> Result<Token, LoadError> {
    let text = |key: &str| added[key].as_str().map(str::to_owned);
    let (username, password) = (text("username"), text("password"));
    let token = username.zip(password).map(|(username, password)| Token { username, password });
    token.ok_or_else(|| LoadError::new("unexpected output of memgate", "report this"))
}
