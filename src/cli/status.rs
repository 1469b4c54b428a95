//! `memgate status`: status of every role, the store, Docker and all caches. Exits 1 unless everything is ready. It asks all
//! of them at once and waits for none longer than two seconds.

mod describe;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use daemon::health::ProcessInfo;
use provisioner::{ImageStatus, PromisedMemory};
use serde::Serialize;
use store::{Instance, InstanceMemory, InstanceState, IsolationSummary, Plan, Proxy, now};
use tokio::time::timeout;

use crate::cli::up;
use crate::data_dir::DataDir;
use crate::global_args::GlobalArgs;
use crate::health_check;
use crate::output::{self, CliError};
use crate::role::{Role, runtime};
use crate::settings::Settings;

/// Time limit of a question to Docker or the store.
const TIMEOUT: Duration = Duration::from_millis(1500);

/// Arguments of the command.
#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {
    /// Ask only this role whether it is ready
    #[arg(long, value_name = "ROLE")]
    role: Option<Role>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Status {
    ready: bool,
    installation: Option<String>,
    /// The process of `memgate up`, if it runs.
    up: Option<i32>,
    roles: BTreeMap<&'static str, RoleHealth>,
    store: Health,
    docker: Health,
    /// The image that new containers get.
    image: Option<ImageStatus>,
    /// Why nothing is known of it.
    image_problem: Option<String>,
    /// Whether it is older than provisioner.image_age_days.
    image_is_old: bool,
    /// Number of instances in each state.
    instances: BTreeMap<&'static str, u64>,
    /// The newest isolation checks of those that run.
    isolation: IsolationSummary,
    /// What their containers may use, and what they may use in sum.
    memory: Room,
    /// Proxies on all machines, but those that are gone.
    proxies: Vec<Proxy>,
    /// Names of proxies that were killed, or can't write the store: their heartbeats have stopped.
    silent_proxies: Vec<String>,
    /// What claims to be the installation's in Docker and isn't: never touched.
    foreign: Vec<String>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Health {
    pub(super) ready: bool,
    /// Why it isn't ready; for Docker, its version.
    pub(super) message: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct RoleHealth {
    #[serde(flatten)]
    pub(super) health: Health,
    /// Where it was asked.
    address: SocketAddr,
    /// Who answered, also if that isn't this installation's role.
    pub(super) process: Option<ProcessInfo>,
    /// What the operator should see to in time.
    pub(super) notices: Vec<String>,
}

impl Health {
    fn of(result: Result<Option<String>, String>) -> Self {
        match result {
            Ok(message) => Self { ready: true, message },
            Err(why) => Self { ready: false, message: Some(why) },
        }
    }
}

/// The memory that the machine has for caches.
#[derive(Debug, Default, Serialize)]
struct Room {
    #[serde(flatten)]
    promised: PromisedMemory,
    /// What isn't promised.
    free_bytes: i64,
    /// The plan of new users, and how many more caches of it fit.
    plan: String,
    caches_that_fit: Option<i64>,
    /// Instances that run already and wait for a sign-up.
    ready_instances: usize,
}

impl Room {
    fn new(promised: PromisedMemory, plan_name: &str, plan: Option<&Plan>, ready: usize) -> Self {
        let free_bytes = promised.budget_bytes.saturating_sub(promised.promised_bytes).max(0);
        let needed = plan
            .map(|plan| InstanceMemory::new(plan.memory_mb, plan.connections, plan.item_size_max).limit());
        let caches_that_fit = needed.map(|needed| free_bytes / needed.max(1));
        let plan = plan_name.to_owned();
        Self { promised, free_bytes, plan, caches_that_fit, ready_instances: ready }
    }
}

/// What the store says.
struct StoreContents {
    instances: Vec<Instance>,
    isolation: IsolationSummary,
    proxies: Vec<Proxy>,
    /// The plan of new users.
    plan: Option<Plan>,
    /// How many instances were made ahead and may be taken.
    ready: usize,
}

impl StatusArgs {
    pub(crate) fn run(&self, global: &GlobalArgs) -> Result<(), CliError> {
        let settings = Settings::load(global)?;
        let runtime = runtime()?;
        if let Some(role) = self.role {
            return runtime.block_on(print_role(role, &settings, global.json));
        }
        let status = runtime.block_on(read_status(&settings, &DataDir::of(global)));
        // What hangs is left behind.
        runtime.shutdown_background();
        output::print(global.json, &status, || status.describe())?;
        if status.ready {
            return Ok(());
        }
        Err(CliError::new("not everything is ready", "the lines with `not ready` name the reasons"))
    }
}

/// Asks one role on this machine, of whichever installation it is.
async fn print_role(role: Role, settings: &Settings, json: bool) -> Result<(), CliError> {
    let failed = |why: String| CliError::new(format!("{} isn't ready ({why})", role.title()), "see its log");
    let report = health_check::ask(role.health(settings)).await.map_err(failed)?;
    if let Some(other) = health_check::foreign(&report, role, &report.process.installation) {
        return Err(failed(other));
    }
    output::print(json, &report, || if report.ready { "ready".to_owned() } else { "not ready".to_owned() })?;
    if report.ready { Ok(()) } else { Err(failed(report.message.unwrap_or_default())) }
}

pub(super) async fn read_status(settings: &Settings, data_dir: &DataDir) -> Status {
    let installation = data_dir.installation_id();
    let id = installation.as_deref().unwrap_or_default();
    // Who may not look at the lock is told so by the store.
    let up = up::lock_holder(data_dir).ok().flatten();
    let address = |role| up::health_address(up.as_ref(), role, settings);
    let [provisioner, proxy, webui] = Role::ALL.map(|role| ask_role(role, address(role), id));
    let (provisioner, proxy, webui, docker, store) = tokio::join!(
        provisioner,
        proxy,
        webui,
        ask_docker(settings, data_dir, id),
        ask_store(settings, data_dir)
    );
    let (docker, foreign, image) = docker;
    let (image, image_problem) = match image {
        Ok(image) => (image, None),
        // Docker's own line says the rest.
        Err(why) => (None, Some(why).filter(|_| docker.ready)),
    };
    let image_is_old =
        image.as_ref().is_some_and(|image| image.is_older_than(settings.provisioner.image_age_days));
    let roles = Role::ALL.into_iter().map(Role::name).zip([provisioner, proxy, webui]).collect();
    let mut status = Status {
        installation: installation.as_ref().ok().cloned(),
        up: up.map(|up| up.pid),
        roles,
        docker,
        foreign,
        image,
        image_problem,
        image_is_old,
        ..Status::default()
    };
    match (installation, store) {
        (Ok(_), Ok(contents)) => {
            status.store = Health::of(Ok(None));
            status.instances = count(&contents.instances);
            status.isolation = contents.isolation;
            let promised = PromisedMemory::of(&settings.provisioner, &contents.instances);
            status.memory = Room::new(promised, &settings.webui.plan, contents.plan.as_ref(), contents.ready);
            status.add_proxies(&contents.proxies);
        }
        (Err(error), _) => status.store = Health::of(Err(error.to_string())),
        (_, Err(error)) => status.store = Health::of(Err(error)),
    }
    status.ready = status.is_ready();
    status
}

/// Asks the process at `address`. Ready means: it is this installation's role, it is ready, and it has no problem.
pub(super) async fn ask_role(role: Role, address: SocketAddr, installation: &str) -> RoleHealth {
    let report = match health_check::ask(address).await {
        Ok(report) => report,
        Err(why) => {
            let health = Health::of(Err(why));
            return RoleHealth { health, address, process: None, notices: Vec::new() };
        }
    };
    let problems = || report.problems.values().cloned().collect::<Vec<_>>().join("; ");
    let failure = health_check::foreign(&report, role, installation)
        .or_else(|| report.message.clone().filter(|_| !report.ready))
        .or_else(|| Some(problems()).filter(|problems| !problems.is_empty()));
    let notices: Vec<String> = report.notices.into_values().collect();
    let message = Some(notices.join("; ")).filter(|text| !text.is_empty());
    let health = Health::of(failure.map_or(Ok(message), Err));
    RoleHealth { health, address, process: Some(report.process), notices }
}

/// Docker's health, what claims in it to be the installation's, and the image.
async fn ask_docker(
    settings: &Settings,
    data_dir: &DataDir,
    installation: &str,
) -> (Health, Vec<String>, Result<Option<ImageStatus>, String>) {
    let silent =
        || format!("Docker doesn't answer within {TIMEOUT:?}: it hangs, or this machine is very busy");
    let version = timeout(TIMEOUT, provisioner::docker_version(&settings.provisioner));
    let foreign = timeout(TIMEOUT, provisioner::foreign_resources(&settings.provisioner, installation));
    let config = data_dir.provisioner_config(settings);
    let image = timeout(TIMEOUT, provisioner::image_status(&config, installation));
    let (version, foreign, image) = tokio::join!(version, foreign, image);
    let health = match version {
        Ok(Ok(version)) => Ok(Some(version)),
        Ok(Err(error)) => Err(CliError::from_error(&error).to_string()),
        Err(_) => Err(silent()),
    };
    let foreign = foreign.ok().and_then(Result::ok).unwrap_or_default();
    let image = image.map_err(|_| silent());
    let image = image.and_then(|image| image.map_err(|error| CliError::from_error(&error).to_string()));
    (Health::of(health), foreign, image)
}

async fn ask_store(settings: &Settings, data_dir: &DataDir) -> Result<StoreContents, String> {
    let read = async {
        let store = data_dir.open_store(settings).await?;
        let instances = store.instances().await;
        let isolation = store.isolation_summary().await;
        let (proxies, plan) = (store.proxies().await, store.plan(&settings.webui.plan).await);
        let ready = store.ready_instances().await;
        data_dir.close_store(settings, &store).await;
        Ok::<_, CliError>(StoreContents {
            instances: instances?,
            isolation: isolation?,
            proxies: proxies?,
            plan: plan?,
            ready: ready?.iter().filter(|ready| ready.ready_at.is_some()).count(),
        })
    };
    match timeout(TIMEOUT, read).await {
        Ok(read) => read.map_err(|error| error.to_string()),
        Err(_) => Err(format!(
            "the database doesn't answer within {TIMEOUT:?}: check that it runs, and how busy it is"
        )),
    }
}

fn count(instances: &[Instance]) -> BTreeMap<&'static str, u64> {
    let mut counts = BTreeMap::new();
    for instance in instances.iter().filter(|instance| !instance.is_gone()) {
        *counts.entry(instance.state().as_str()).or_default() += 1;
    }
    counts
}

impl Status {
    fn add_proxies(&mut self, proxies: &[Proxy]) {
        let now = now();
        self.proxies = Proxy::current(proxies, now);
        let silent = self.proxies.iter().filter(|proxy| proxy.is_silent(now));
        self.silent_proxies = silent.map(|proxy| proxy.name.clone()).collect();
    }

    /// Whether every role, the store and Docker are ready, no instance has failed, or failed its isolation check, and no proxy
    /// is silent.
    fn is_ready(&self) -> bool {
        let roles_ready = self.roles.values().all(|role| role.health.ready);
        let parts_ready = self.store.ready && self.docker.ready;
        let instances_ready = !self.has_failed_instance() && self.isolation.failed == 0;
        roles_ready && parts_ready && instances_ready && self.silent_proxies.is_empty()
    }

    fn has_failed_instance(&self) -> bool {
        self.instances.contains_key(InstanceState::Failed.as_str())
    }
}

#[cfg(test)]
mod tests;
