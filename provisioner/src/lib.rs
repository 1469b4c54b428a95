//! The provisioner: reconciles containers with the desired state. The only holder of the Docker socket.
//!
//! It reads the desired state from the store, observes Docker, plans (`plan.rs`, pure), executes, and records
//! the observed state. It opens no port except its health endpoint, and never touches what doesn't carry its
//! installation's label and exact name. One provisioner of an installation leads; others wait for its lock in the store.

mod activity;
mod capacity;
mod cgroup;
mod conditions;
mod config;
mod desired;
mod docker;
mod docker_info;
mod error;
mod events;
mod execute;
mod firewall;
mod followers;
mod health_check;
mod history;
mod image;
mod image_status;
mod isolation;
mod isolation_check;
mod known_instances;
mod leadership;
mod limits;
mod liveness;
mod memcached;
mod memcached_version;
mod memory_archive;
mod metering;
mod metrics;
mod names;
mod neighbour_table;
mod networks;
mod pages;
mod plan;
mod reconcile;
mod resync;
mod rootfs;
mod sampler;
mod secrets;
mod spec;
pub mod statistics;
mod subnet;
mod teardown;
mod upgrade;
mod work_queue;

pub use capacity::PromisedMemory;
pub use config::Config;
pub use docker_info::{ContainerInfo, DockerInfo};
pub use error::Error;
pub use image_status::ImageStatus;
pub use teardown::Removed;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use daemon::health::{Health, STORE};
use daemon::{Process, Shutdown};
use prometheus_client::registry::Registry;
use store::{LaneKey, LeaderLock, Store};

use activity::Activity;
use capacity::Capacity;
use docker::Docker;
use execute::{Concurrency, Executor, Observations, Pool};
use firewall::Firewall;
use history::History;
use image::{Image, ImageCache, ImageChoice};
use known_instances::KnownInstances;
use metrics::Metrics;
use names::Names;
use networks::Networks;
use reconcile::Ended;
use secrets::SecretChecks;

/// Interval at which a waiting provisioner tries to become the leader.
const LEADER_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Runs the role of the installation with this id until the shutdown begins. The id comes from the data directory, because
/// the store's may have been changed by a less privileged role.
///
/// # Errors
/// At start: if a setting is invalid. Later failures are retried, logged and shown by the health endpoint, which the
/// caller serves.
pub async fn run(
    config: Config,
    store: Store,
    installation_id: &str,
    lane_key: LaneKey,
    process: Process,
) -> Result<(), Error> {
    let Process { shutdown, health, .. } = process;
    let settings = config.check()?;
    let names = Names::new(installation_id)?;
    let choice = ImageChoice::of(&config);
    let firewall = Firewall::new(names.clone(), config.proxy_user.clone());
    firewall.check_proxy_user().await?;
    neighbour_table::make_room();
    let mut registry = Registry::default();
    let docker = Arc::new(Docker::new(names.clone(), &config.docker_socket));
    let metrics = Metrics::new(&mut registry, docker.timeouts.clone());
    health.publish_metrics(registry);
    let executor = Arc::new(Executor {
        images: ImageCache::new(Arc::clone(&docker), choice),
        networks: Networks::new(names.clone(), Arc::clone(&docker), store.clone(), &settings),
        firewall,
        names,
        docker,
        store,
        lane_key,
        address_cooldown: settings.address_cooldown,
        cpus: config.cpus,
        isolation_interval: settings.isolation_interval,
        threads: config.threads(),
        concurrency: Concurrency::default(),
        capacity: Capacity::new(&config, metrics.capacity.clone()),
        history: History::new(metrics.repairs.clone()),
        known: KnownInstances::new(settings.resync_interval, settings.address_cooldown),
        usage_kept: settings.usage_kept,
        activity: Activity::default(),
        secrets: SecretChecks::new(settings.resync_interval),
        observations: Observations::default(),
        pool: Pool::new(config.ready_instances),
        metrics,
    });
    loop {
        let lock = wait_for_leadership(&executor, &health, &shutdown).await;
        let Some(lock) = lock else { return Ok(()) };
        executor.metrics.leader.set(1);
        tracing::info!(installation = executor.names.id(), "leading");
        let interval = settings.resync_interval;
        let ended = reconcile::lead(Arc::clone(&executor), interval, lock, health.clone(), &shutdown).await;
        executor.metrics.leader.set(0);
        if ended == Ended::Shutdown {
            return Ok(());
        }
        tokio::time::sleep(LEADER_RETRY_INTERVAL).await;
    }
}

/// `None` if the shutdown begins first.
async fn wait_for_leadership(
    executor: &Executor,
    health: &Health,
    shutdown: &Shutdown,
) -> Option<LeaderLock> {
    let mut logged = false;
    let mut ticks = shutdown.every(LEADER_RETRY_INTERVAL);
    while ticks.next().await {
        let acquired = executor.store.try_acquire_leader_lock();
        match executor.metrics.store.observe("leader_lock", acquired).await {
            Ok(Some(lock)) => return Some(lock),
            Ok(None) => {
                let reason = why_not_leading(&executor.store).await;
                if !logged {
                    tracing::info!("{reason}");
                }
                health.set_problem(STORE, None);
                health.waiting(reason);
            }
            Err(error) => {
                if !logged {
                    tracing::error!("{}", error::chain(&error));
                }
                health.set_problem(STORE, Some(error.to_string()));
                health.waiting(error.to_string());
            }
        }
        logged = true;
    }
    None
}

/// Who holds the leader lock. A role that was broken into may do so with its own user of the database, to keep repairs away.
async fn why_not_leading(store: &Store) -> String {
    match store.other_leader_lock_holder().await {
        Ok(Some(user)) => format!(
            "the database user {user} holds the leader lock, and this provisioner waits: end that user's connections"
        ),
        _ => "another provisioner of this installation leads: this one waits".to_owned(),
    }
}

/// Makes sure that there is a memcached image to create containers from, and returns its name. Returns at
/// once if there is.
///
/// # Errors
/// If Docker doesn't answer, or the image can't be pulled or built.
pub async fn ensure_image(config: &Config, installation_id: &str) -> Result<String, Error> {
    let docker = connect(config, installation_id).await?;
    Ok(Image::ensure(&docker, &ImageChoice::of(config)).await?.name)
}

/// Rebuilds an installation's memcached image from the distribution's package, and returns its tag: new containers get it.
/// With a configured image, pulls that if it is missing.
///
/// # Errors
/// If Docker doesn't answer, or the image can't be pulled or built.
pub async fn build_image(config: &Config, installation_id: &str) -> Result<String, Error> {
    let docker = connect(config, installation_id).await?;
    let choice = ImageChoice::of(config);
    if choice.configured().is_some() {
        return Ok(Image::ensure(&docker, &choice).await?.name);
    }
    let built = image::build(&docker).await?;
    choice.choose(&built.id)?;
    Ok(built.name)
}

/// Builds an installation's memcached image from a memcached that the operator has built, and returns its tag: new
/// containers get it.
///
/// # Errors
/// If another image is configured, the binary can't be used, or Docker doesn't answer.
pub async fn build_image_from(
    config: &Config,
    installation_id: &str,
    binary: &Path,
) -> Result<String, Error> {
    let choice = ImageChoice::of(config);
    if choice.configured().is_some() {
        let fix = "remove it, so that new containers get the image that is built here".into();
        return Err(Error::Setting { name: "provisioner.image", fix });
    }
    let docker = connect(config, installation_id).await?;
    let built = image::build_from(&docker, binary).await?;
    choice.choose(&built.id)?;
    Ok(built.name)
}

/// What is known of the image that new containers get, and how many containers have it; `None` if there is none yet. Builds
/// and pulls nothing.
///
/// # Errors
/// If Docker doesn't answer.
pub async fn image_status(config: &Config, installation_id: &str) -> Result<Option<ImageStatus>, Error> {
    image_status::read(&connect(config, installation_id).await?, &ImageChoice::of(config)).await
}

async fn connect(config: &Config, installation_id: &str) -> Result<Docker, Error> {
    let docker = Docker::new(Names::new(installation_id)?, &config.docker_socket);
    docker.ping().await?;
    Ok(docker)
}

/// Removes every container, volume, network, image and firewall rule of one installation, by label and exact name. Needs
/// no store, and may be repeated. Stop the provisioner first: it would create everything again.
///
/// # Errors
/// If Docker doesn't answer; or the first failure to remove something, after everything else was removed.
pub async fn teardown(config: &Config, installation_id: &str) -> Result<Removed, Error> {
    teardown::teardown(Names::new(installation_id)?, &config.docker_socket).await
}

/// Counts what [`teardown`] would remove.
///
/// # Errors
/// If Docker doesn't answer, or the firewall can't be read.
pub async fn survey(config: &Config, installation_id: &str) -> Result<Removed, Error> {
    teardown::survey(&Names::new(installation_id)?, &config.docker_socket).await
}

/// Lists what has an installation's label, or a name with its prefix, and isn't its own, as `KIND NAME`. It is
/// never touched.
///
/// # Errors
/// If Docker doesn't answer.
pub async fn foreign_resources(config: &Config, installation_id: &str) -> Result<Vec<String>, Error> {
    let docker = Docker::new(Names::new(installation_id)?, &config.docker_socket);
    Ok(docker.foreign().await?.into_iter().map(|foreign| foreign.to_string()).collect())
}

/// Returns the version of the Docker Engine.
///
/// # Errors
/// If Docker doesn't answer.
pub async fn docker_version(config: &Config) -> Result<String, Error> {
    Docker::version(&config.docker_socket).await
}

/// Asks Docker how it is.
///
/// # Errors
/// If it doesn't answer.
pub async fn docker_info(config: &Config) -> Result<DockerInfo, Error> {
    Docker::info(&config.docker_socket).await
}

/// Lists the containers of an installation.
///
/// # Errors
/// If Docker doesn't answer.
pub async fn containers(config: &Config, installation_id: &str) -> Result<Vec<ContainerInfo>, Error> {
    let docker = Docker::new(Names::new(installation_id)?, &config.docker_socket);
    Ok(docker.containers().await?.into_iter().map(ContainerInfo::from).collect())
}
