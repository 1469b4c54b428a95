//! Runs one role in this process.

pub(crate) mod confinement;
pub(crate) mod handover;
mod hidden_sockets;
pub(crate) mod installation_source;
mod keepalive;
mod priority;
mod store_metrics;
mod store_writes;

use std::convert::Infallible;
use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use daemon::health::{self, Health, ProcessInfo, STORE};
use daemon::listener::Listeners;
use daemon::{Process, Reload, Shutdown, Takeover, fd_passing};
use rustix::process::{Resource, Rlimit};
use rustix::thread::CapabilitySet;
use store::DatabaseRole;
use tokio::runtime::Runtime;

use self::confinement::Identity;
use self::installation_source::InstallationSource;
use self::priority::Priority;
use crate::data_dir::DataDir;
use crate::global_args::GlobalArgs;
use crate::output::CliError;
use crate::settings::Settings;
use crate::system_users::{self, SystemUsers};
use crate::{changed_settings, readable_file, store_clock, store_outage};

/// Time that a role's tasks have to finish once the shutdown has begun.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Gives the web UI about a tenth of a CPU that the proxy could use whole.
const WEBUI_NICENESS: i32 = 10;
/// When memory runs out, the system ends the processes of a broken role, which may be many and small, before other programs.
/// Caches have 500 (`provisioner/src/docker/container.rs`), so the web UI ends before them, and the proxy after them.
const WEBUI_OOM_SCORE: u16 = 800;
const PROXY_OOM_SCORE: u16 = 300;

/// A process of an installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Role {
    Provisioner,
    Proxy,
    Webui,
}

/// Arguments of a role's subcommand.
#[derive(Debug, clap::Args)]
pub(crate) struct RoleArgs {
    /// Started by `memgate up`: receive settings and listening sockets on stdin, and stop when the supervisor dies
    #[arg(long, hide = true)]
    supervised: bool,
    /// Started by `memgate up` as root: the user and groups to become
    #[arg(long, hide = true, value_name = "USER:GROUP", requires = "supervised")]
    run_as: Option<Identity>,
}

impl Role {
    pub(crate) const ALL: [Self; 3] = [Self::Provisioner, Self::Proxy, Self::Webui];

    /// The name of its subcommand.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Provisioner => "provisioner",
            Self::Proxy => "proxy",
            Self::Webui => "webui",
        }
    }

    /// Its name in a sentence.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Provisioner => "the provisioner",
            Self::Proxy => "the proxy",
            Self::Webui => "the web UI",
        }
    }

    /// Whose user it is in a PostgreSQL database.
    pub(crate) fn database_role(self) -> DatabaseRole {
        match self {
            Self::Provisioner => DatabaseRole::Provisioner,
            Self::Proxy => DatabaseRole::Proxy,
            Self::Webui => DatabaseRole::Webui,
        }
    }

    /// Whether it decides what has expired: tokens, certificates, sessions.
    fn judges_expiry(self) -> bool {
        matches!(self, Self::Proxy | Self::Webui)
    }

    /// The address of its health endpoint.
    pub(crate) fn health(self, settings: &Settings) -> SocketAddr {
        match self {
            Self::Provisioner => settings.provisioner.health,
            Self::Proxy => settings.proxy.health,
            Self::Webui => settings.webui.health,
        }
    }

    /// Who it becomes when root starts it; `None` for root.
    pub(crate) fn identity(self, system_users: &SystemUsers) -> Option<Identity> {
        let SystemUsers { group, proxy_group, proxy, webui } = system_users;
        let (user, other_groups) = match self {
            Self::Provisioner => return None,
            Self::Proxy => (proxy, vec![proxy_group.as_raw()]),
            Self::Webui => (webui, Vec::new()),
        };
        Some(Identity { user: user.as_raw(), group: group.as_raw(), other_groups })
    }

    /// The name of that user; `None` for root.
    pub(crate) fn user_name(self) -> Option<&'static str> {
        match self {
            Self::Provisioner => None,
            Self::Proxy => Some(system_users::PROXY),
            Self::Webui => Some(system_users::WEBUI),
        }
    }

    /// The capabilities that it keeps when root starts it, and those that it can have only where it takes them: no program
    /// that it starts can have these.
    fn capabilities(self) -> (CapabilitySet, CapabilitySet) {
        let kept = match self {
            // The firewall; and what dpkg and apt-get need to build the image.
            Self::Provisioner => {
                CapabilitySet::NET_ADMIN
                    | CapabilitySet::CHOWN
                    | CapabilitySet::DAC_OVERRIDE
                    | CapabilitySet::FOWNER
                    | CapabilitySet::SETGID
                    | CapabilitySet::SETUID
            }
            Self::Proxy | Self::Webui => CapabilitySet::empty(),
        };
        match self {
            // A thread of the isolation check finds and enters containers' network namespaces.
            Self::Provisioner => (kept, CapabilitySet::SYS_ADMIN | CapabilitySet::SYS_PTRACE),
            Self::Proxy | Self::Webui => (kept, CapabilitySet::empty()),
        }
    }

    /// How far it stands back for the others, and for what else runs on the machine.
    fn priority(self) -> Priority {
        match self {
            Self::Webui => Priority { niceness: WEBUI_NICENESS, oom_score: Some(WEBUI_OOM_SCORE) },
            Self::Proxy => Priority { niceness: 0, oom_score: Some(PROXY_OOM_SCORE) },
            Self::Provisioner => Priority { niceness: 0, oom_score: None },
        }
    }

    /// Environment variables of `memgate up` that it inherits. Others may hold the operator's secrets; settings come by stdin.
    pub(crate) fn inherited_variables(self) -> &'static [&'static str] {
        match self {
            // Building the image downloads packages to a temporary folder, perhaps through a web proxy.
            Self::Provisioner => &[
                "PATH",
                "LANG",
                "LC_ALL",
                "TZ",
                "RUST_BACKTRACE",
                "TMPDIR",
                "http_proxy",
                "https_proxy",
                "no_proxy",
            ],
            Self::Proxy | Self::Webui => &["PATH", "LANG", "LC_ALL", "TZ", "RUST_BACKTRACE"],
        }
    }

    /// The settings that it may see: its own section and the common ones, with the database's user that it is to use.
    ///
    /// # Errors
    /// If the file with that user can't be read or trusted.
    pub(crate) fn visible_settings(self, settings: &Settings, data: &DataDir) -> Result<Settings, CliError> {
        let mut visible = self.own_settings(settings);
        visible.store.url = data.role_store_url(settings, self.database_role())?;
        Ok(visible)
    }

    /// Its own section of the settings and the common ones.
    pub(crate) fn own_settings(self, settings: &Settings) -> Settings {
        let mut own =
            Settings { store: settings.store.clone(), log: settings.log.clone(), ..Settings::default() };
        match self {
            Self::Provisioner => own.provisioner = settings.provisioner.clone(),
            Self::Proxy => {
                own.proxy = settings.proxy.clone();
                // It dials nothing outside of them.
                own.provisioner.subnets = settings.provisioner.subnets.clone();
            }
            Self::Webui => {
                own.webui = settings.webui.clone();
                own.limits = settings.limits.clone();
            }
        }
        own
    }
}

impl RoleArgs {
    /// Whether `memgate up` has started it.
    pub(crate) fn is_supervised(&self) -> bool {
        self.supervised
    }
}

/// Runs the role until SIGTERM or SIGINT.
pub(crate) fn run(role: Role, args: &RoleArgs, global: &GlobalArgs) -> Result<(), CliError> {
    if args.supervised {
        confinement::confine(args.run_as.as_ref(), role.capabilities(), role.priority())
            .map_err(|error| supervision_error("give up its privileges", &error))?;
        return run_supervised(role, &InstallationSource::DataDir(DataDir::of(global)));
    }
    let source = InstallationSource::find(None, global)?;
    let settings = source.settings(role.database_role(), global)?;
    start(role, &settings, &source, Listeners::default(), Supervision::Alone(global))
}

/// Runs a proxy that runs alone, in the child of the process that the operator has started, until SIGTERM or SIGINT.
pub(crate) fn run_lone_proxy(keys: Option<&Path>, global: &GlobalArgs) -> Result<(), CliError> {
    confinement::end_with_parent().map_err(|error| supervision_error("end with its parent", &error))?;
    run_supervised(Role::Proxy, &InstallationSource::find(keys, global)?)
}

/// Runs the role with what its parent hands to it.
fn run_supervised(role: Role, source: &InstallationSource) -> Result<(), CliError> {
    let pipe = keepalive::take_stdout().map_err(|error| supervision_error("show that it runs", &error))?;
    let handed = handover::receive(rustix::stdio::stdin())
        .and_then(|handed| confinement::close_stdin().map(|()| handed))
        .map_err(|error| supervision_error("receive its settings on stdin", &error))?;
    let settings = serde_json::from_slice(&handed.settings)
        .map_err(|error| supervision_error("read its settings", &error.into()))?;
    let takeover = Takeover::from_predecessor(handed.predecessor);
    let supervision = Supervision::Supervised { pipe, control: handed.control, takeover };
    start(role, &settings, source, handed.listeners.into(), supervision)
}

fn start(
    role: Role,
    settings: &Settings,
    source: &InstallationSource,
    listeners: Listeners,
    supervision: Supervision<'_>,
) -> Result<(), CliError> {
    daemon::telemetry::init(&settings.log.filter, settings.log.format);
    raise_file_limit();
    runtime()?.block_on(serve(role, settings, source, listeners, supervision))
}

/// A tokio runtime for a command or a role.
pub(crate) fn runtime() -> Result<Runtime, CliError> {
    Runtime::new().map_err(|error| {
        CliError::new(format!("can't start the runtime ({error})"), "check the system's limits")
    })
}

/// Who started the role.
enum Supervision<'a> {
    /// `memgate up`, or `memgate proxy` for a proxy that runs alone: it is sent signs of life, and tells of a successor.
    Supervised { pipe: File, control: Option<OwnedFd>, takeover: Takeover },
    /// Somebody else: the role reads the settings itself.
    Alone(&'a GlobalArgs),
}

/// Learns from the process that has started this one which is about to take over.
async fn follow_control(control: Option<OwnedFd>, takeover: &Takeover) -> Infallible {
    let Some(control) = control.and_then(|control| readable_file::register(control).ok()) else {
        return std::future::pending().await;
    };
    loop {
        let ready = tokio::select! {
            ready = control.readable() => ready,
            () = takeover.begun() => {
                // It is waited for.
                let _ = fd_passing::send(&control, handover::TAKEN_OVER, None);
                break;
            }
        };
        let Ok(mut ready) = ready else { break };
        match fd_passing::receive_now(&control, &mut [0; 1]) {
            Ok(Some(message)) if message.length == 0 => break,
            Ok(Some(message)) => {
                if let Some(successor) = message.file {
                    takeover.announce_successor(successor);
                }
            }
            Ok(None) => ready.clear_ready(),
            Err(_) => break,
        }
    }
    std::future::pending().await
}

/// Begins the shutdown when the process has ended that has started this one.
async fn end_with_supervisor(pipe: File, process: &Process) -> Infallible {
    keepalive::send(pipe, process.health.clone()).await;
    tracing::warn!("the process that has started this role has ended: stopping");
    process.shutdown.begin();
    std::future::pending().await
}

async fn serve(
    role: Role,
    settings: &Settings,
    source: &InstallationSource,
    listeners: Listeners,
    supervision: Supervision<'_>,
) -> Result<(), CliError> {
    let bug = |error: std::io::Error| CliError::new(error.to_string(), "report this bug");
    let shutdown = Shutdown::on_signals(role.title()).map_err(bug)?;
    let reload = Reload::on_hangup(&shutdown).map_err(bug)?;
    let info = ProcessInfo::new(&source.installation_id()?, role.name(), env!("BUILD_VERSION"));
    let health = Health::new(info);
    let listener = listeners.take_or_bind_one(role.health(settings)).map_err(|error| {
        let (name, address) = (role.name(), role.health(settings));
        let what = format!("can't listen on {address} for health and metrics ({error})");
        CliError::new(what, format!("stop what uses it, or set {name}.health to another address"))
    })?;
    let takeover = match &supervision {
        Supervision::Supervised { takeover, .. } => takeover.clone(),
        Supervision::Alone(_) => Takeover::default(),
    };
    // From then on the successor answers.
    let answering = Shutdown::new();
    let (until, stop) = (answering.clone(), (shutdown.clone(), takeover.clone()));
    shutdown.spawn(async move {
        tokio::select! {
            () = stop.0.begun() => {}
            () = stop.1.begun() => {}
        }
        until.begin();
    });
    health::serve_on(listener, &health, &answering);
    let process = Process { shutdown, reload, health, listeners, takeover };
    let run = run_with_store(role, settings, source, &process);
    match supervision {
        Supervision::Supervised { pipe, control, takeover } => tokio::select! {
            result = run => result,
            never = follow_control(control, &takeover) => match never {},
            never = end_with_supervisor(pipe, &process) => match never {},
        },
        Supervision::Alone(global) => tokio::select! {
            result = run => result,
            never = changed_settings::report(global, settings, process.reload.clone()) => match never {},
        },
    }
}

/// Waits for the store, then runs the role until the shutdown, and stops its tasks.
async fn run_with_store(
    role: Role,
    settings: &Settings,
    source: &InstallationSource,
    process: &Process,
) -> Result<(), CliError> {
    let Process { shutdown, health, .. } = process;
    let away = |error: String| {
        health.set_problem(STORE, Some(format!("the store is unavailable ({error})")));
        health.waiting(format!("waiting for the store ({error})"));
    };
    let open = async || {
        let store = source.open_store(settings, role.name()).await?;
        store_clock::require(&store, role.judges_expiry()).await?;
        Ok(store)
    };
    let opened = store_outage::until_open(shutdown, open, away).await?;
    let Some(store) = opened else { return Ok(()) };
    health.set_problem(STORE, None);
    health.publish_metrics(store_metrics::of(store.clone()));
    shutdown.spawn(store_writes::report(store.clone(), health.clone(), shutdown.clone()));
    match role {
        Role::Provisioner => {
            let folder = source.data_dir()?;
            let (key, id) = (folder.lane_key(&store).await?, folder.installation_id()?);
            let config = folder.provisioner_config(settings);
            provisioner::run(config, store.clone(), &id, key, process.clone()).await?;
        }
        Role::Proxy => {
            let keys = source.proxy_keys(&store).await?;
            let networks = settings.provisioner.subnets.parse::<store::InstanceNetworks>();
            let networks = networks.map_err(|error| CliError::from_error(&error))?;
            let config = proxy::Config { instance_networks: Some(networks), ..settings.proxy.clone() };
            proxy::run(config, store.clone(), keys.0, keys.1, process.clone()).await?;
        }
        Role::Webui => {
            let key = source.data_dir()?.token_key(&store).await?;
            let caches_per_user = settings.limits.caches_per_user;
            let config = webui::Config { caches_per_user, ..settings.webui.clone() };
            webui::run(config, store.clone(), key, process.clone()).await?;
        }
    }
    shutdown.begin();
    if !shutdown.finished(STOP_TIMEOUT).await {
        tracing::warn!(role = role.name(), "stopped with unfinished tasks");
    }
    source.close_store(settings, &store).await;
    Ok(())
}

fn supervision_error(what: &str, error: &std::io::Error) -> CliError {
    let fix = "start roles with `memgate up`, or without --supervised";
    CliError::new(format!("the role can't {what} ({error})"), fix)
}

/// Raises the soft limit of open files, often 1,024, to the hard one: every connection is an open file. Roles divide what
/// they find (`proxy/src/descriptors.rs`).
fn raise_file_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "failed to raise the limit of open files");
    }
}
