//! Runs one role in this process.

use std::io::Read as _;
use std::net::SocketAddr;
use std::time::Duration;

use daemon::Shutdown;
use rustix::process::{Resource, Rlimit, Signal, Uid};
use tokio::runtime::Runtime;

use crate::data_dir::DataDir;
use crate::global_args::GlobalArgs;
use crate::output::CliError;
use crate::settings::Settings;
use crate::system_users::SystemUsers;

/// Time that a role's tasks have to finish once the shutdown has begun.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// A process of an installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Provisioner,
    Proxy,
    Webui,
}

/// Arguments of a role's subcommand.
#[derive(Debug, clap::Args)]
pub(crate) struct RoleArgs {
    /// Started by `memgate up`: read the settings from stdin, and stop when the supervisor dies
    #[arg(long, hide = true)]
    supervised: bool,
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

    /// The address of its health endpoint.
    pub(crate) fn health(self, settings: &Settings) -> SocketAddr {
        match self {
            Self::Provisioner => settings.provisioner.health,
            Self::Proxy => settings.proxy.health,
            Self::Webui => settings.webui.health,
        }
    }

    /// The user that it runs as when root starts it; `None` for root.
    pub(crate) fn runs_as(self, system_users: &SystemUsers) -> Option<Uid> {
        match self {
            Self::Provisioner => None,
            Self::Proxy => Some(system_users.proxy),
            Self::Webui => Some(system_users.webui),
        }
    }

    /// The settings that it may see: its own section and the common ones.
    pub(crate) fn visible_settings(self, settings: &Settings) -> Settings {
        let mut visible =
            Settings { store: settings.store.clone(), log: settings.log.clone(), ..Settings::default() };
        match self {
            Self::Provisioner => visible.provisioner = settings.provisioner.clone(),
            Self::Proxy => visible.proxy = settings.proxy.clone(),
            Self::Webui => visible.webui = settings.webui.clone(),
        }
        visible
    }
}

/// Runs the role until SIGTERM or SIGINT.
pub(crate) fn run(role: Role, args: &RoleArgs, global: &GlobalArgs) -> Result<(), CliError> {
    let settings = if args.supervised { receive_settings()? } else { Settings::load(global)? };
    daemon::telemetry::init(&settings.log.filter, settings.log.format);
    raise_file_limit();
    runtime()?.block_on(serve(role, settings, &DataDir::of(global)))
}

/// A tokio runtime for a command or a role.
pub(crate) fn runtime() -> Result<Runtime, CliError> {
    Runtime::new().map_err(|error| {
        CliError::new(format!("can't start the runtime ({error})"), "check the system's limits")
    })
}

async fn serve(role: Role, settings: Settings, folder: &DataDir) -> Result<(), CliError> {
    let shutdown =
        Shutdown::on_signals().map_err(|error| CliError::new(error.to_string(), "report this bug"))?;
    let store = folder.open_store(&settings).await?;
    match role {
        Role::Provisioner => {
            let key = folder.lane_key()?;
            provisioner::run(settings.provisioner, store.clone(), key, shutdown.clone()).await?;
        }
        Role::Proxy => {
            let keys = (folder.token_key()?, folder.lane_key()?);
            proxy::run(settings.proxy, store.clone(), keys.0, keys.1, shutdown.clone()).await?;
        }
        Role::Webui => {
            let key = folder.token_key()?;
            webui::run(settings.webui, store.clone(), key, shutdown.clone()).await?;
        }
    }
    shutdown.begin();
    if !shutdown.finished(STOP_TIMEOUT).await {
        tracing::warn!(role = role.name(), "stopped with unfinished tasks");
    }
    store.close().await;
    Ok(())
}

/// Receives the settings from `memgate up` on stdin, so that a role neither reads the settings file nor sees
/// another role's section. Asks the kernel for SIGTERM should the supervisor be killed.
fn receive_settings() -> Result<Settings, CliError> {
    let fix = "start roles with `memgate up`, or without --supervised";
    // A process started as /proc/self/exe is listed as "exe".
    let _ = std::fs::write("/proc/self/comm", "memgate");
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(|error| CliError::new(format!("can't follow the supervisor ({error})"), fix))?;
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| CliError::new(format!("can't read the settings from stdin ({error})"), fix))?;
    serde_json::from_str(&text)
        .map_err(|error| CliError::new(format!("can't use the settings from stdin ({error})"), fix))
}

/// Raises the soft limit of open files, often 1,024, to the hard one: every connection is an open file.
fn raise_file_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "failed to raise the limit of open files");
    }
}
