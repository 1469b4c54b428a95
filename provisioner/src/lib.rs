//! The provisioner: makes what is match what is wanted. The only holder of the Docker socket.
//!
//! It reads what is wanted from the store, looks at Docker, plans (`plan.rs`, pure), acts, and records what
//! is so. It listens on nothing but its health port, and never touches what doesn't carry its
//! installation's label. One provisioner of an installation leads; any others wait for its lock in the store.

mod engine;
mod error;
mod firewall;
mod image;
mod metrics;
mod names;
mod pass;
mod plan;
mod probe;
mod queue;
mod reconcile;
mod spec;
mod subnet;
mod teardown;
mod troubles;
mod watch;
mod worker;

pub use error::Error;
pub use teardown::Removed;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use daemon::Shutdown;
use daemon::health::{self, Readiness};
use prometheus_client::registry::Registry;
use store::{LaneKey, LeaderLock, Store};

use engine::Engine;
use metrics::Metrics;
use names::Names;
use reconcile::Ended;
use subnet::Subnet;
use worker::{Settings, Worker};

/// How often a provisioner that waits asks for the lead.
const ASK_FOR_LEAD: Duration = Duration::from_secs(1);
const DOCKER_SOCKET: &str = "/var/run/docker.sock";

/// The section `[provisioner]` of `memgate.toml`.
#[derive(Debug, Clone, PartialEq, serde::Deserialize, serde::Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where health and metrics are served.
    pub health: SocketAddr,
    /// Pulled, when set (`memcached:1.6@sha256:...`); else made from the distribution's package.
    pub image: Option<String>,
    /// How long an address rests before another instance may have it.
    pub address_rest_seconds: u64,
    /// The pool that networks (each a /22) are carved from: private addresses that nothing else here uses.
    pub subnets: String,
    /// How often everything is looked at, whatever happens.
    pub reconcile_seconds: u64,
    /// CPUs that one instance may use at most.
    pub cpus: f64,
    /// Docker's socket.
    pub docker_socket: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            health: SocketAddr::from((Ipv4Addr::LOCALHOST, 9152)),
            image: None,
            address_rest_seconds: 600,
            subnets: "10.213.0.0/16".into(),
            reconcile_seconds: 30,
            cpus: 1.0,
            docker_socket: DOCKER_SOCKET.into(),
        }
    }
}

impl Config {
    fn settings(&self) -> Result<Settings, Error> {
        let setting = |setting, fix: &str| Error::Setting { setting, fix: fix.into() };
        let pool: Option<Subnet> = self.subnets.parse().ok();
        let pool = pool.filter(Subnet::is_pool).ok_or_else(|| {
            setting("provisioner.subnets", "give an IPv4 network of /8 to /22, such as 10.213.0.0/16")
        })?;
        if !(0.01..=1024.0).contains(&self.cpus) {
            return Err(setting("provisioner.cpus", "give a number from 0.01 to 1024"));
        }
        if !(1..=3_600).contains(&self.reconcile_seconds) {
            return Err(setting("provisioner.reconcile_seconds", "give 1 to 3600"));
        }
        let address_rest = Duration::from_secs(self.address_rest_seconds);
        Ok(Settings { image: self.image.clone(), address_rest, pool, cpus: self.cpus })
    }
}

/// Runs the role until the stop begins. Fails at once if its settings or its port can't be used.
pub async fn run(config: Config, store: Store, lane_key: LaneKey, shutdown: Shutdown) -> Result<(), Error> {
    let settings = config.settings()?;
    let names = Names::new(&store.installation_id().await?)?;
    let readiness = Readiness::default();
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    health::serve(config.health, readiness.clone(), registry, &shutdown)
        .await
        .map_err(|source| Error::Bind { address: config.health, source })?;
    let engine = Engine::new(names.clone(), &config.docker_socket);
    let shared = worker::Shared::default();
    let worker = Arc::new(Worker { names, engine, store, lane_key, metrics, settings, shared });
    let every = Duration::from_secs(config.reconcile_seconds);
    loop {
        let Some(lead) = wait_for_lead(&worker.store, &readiness, &shutdown).await else { return Ok(()) };
        tracing::info!(installation = worker.names.id(), "leading");
        let ended = reconcile::lead(Arc::clone(&worker), every, lead, readiness.clone(), &shutdown).await;
        if ended == Ended::Shutdown {
            return Ok(());
        }
        tokio::time::sleep(ASK_FOR_LEAD).await;
    }
}

/// `None` if the stop begins first.
async fn wait_for_lead(store: &Store, readiness: &Readiness, shutdown: &Shutdown) -> Option<LeaderLock> {
    let mut said = false;
    loop {
        match store.try_acquire_leader_lock().await {
            Ok(Some(lead)) => return Some(lead),
            Ok(None) => {
                if !said {
                    tracing::info!("another provisioner of this installation leads: waiting");
                }
                readiness.not_ready("another provisioner of this installation leads: this one waits");
            }
            Err(error) => {
                if !said {
                    tracing::error!("{}", error::chain(&error));
                }
                readiness.not_ready(error.to_string());
            }
        }
        said = true;
        tokio::select! {
            () = shutdown.begun() => return None,
            () = tokio::time::sleep(ASK_FOR_LEAD) => {}
        }
    }
}

/// Sees to it that there is an image to make caches from; its name. Quick when there is.
pub async fn ensure_image(config: &Config, installation_id: &str) -> Result<String, Error> {
    let engine = Engine::new(Names::new(installation_id)?, &config.docker_socket);
    engine.ping().await?;
    Ok(image::Image::ready(&engine, config.image.as_deref()).await?.name)
}

/// Makes the memcached image anew from the distribution's package, for one installation; its tag.
/// With a configured image, sees to it that that is there.
pub async fn build_image(config: &Config, installation_id: &str) -> Result<String, Error> {
    let engine = Engine::new(Names::new(installation_id)?, &config.docker_socket);
    engine.ping().await?;
    match &config.image {
        Some(name) => Ok(image::Image::ready(&engine, Some(name)).await?.name),
        None => image::build(&engine).await,
    }
}

/// Removes every container, volume, network, image and firewall rule of one installation, by label: works
/// without its store, and again is fine. Stop its provisioner first, it would bring all back.
pub async fn teardown(config: &Config, installation_id: &str) -> Result<Removed, Error> {
    teardown::teardown(Names::new(installation_id)?, &config.docker_socket).await
}

/// The version of the Docker Engine that answers.
pub async fn docker_version(config: &Config) -> Result<String, Error> {
    Engine::version(&config.docker_socket).await
}
