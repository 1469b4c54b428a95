//! One role, as a process of its own.

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

/// How long a role's tasks have to end after the stop has begun.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// The processes that memgate is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Provisioner,
    Proxy,
    Webui,
}

/// What the subcommand of a role takes.
#[derive(Debug, clap::Args)]
pub(crate) struct RoleArgs {
    /// Started by `memgate up`: settings come on stdin, and its end is ours.
    #[arg(long, hide = true)]
    supervised: bool,
}

impl Role {
    pub(crate) const ALL: [Self; 3] = [Self::Provisioner, Self::Proxy, Self::Webui];

    /// Its subcommand.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Provisioner => "provisioner",
            Self::Proxy => "proxy",
            Self::Webui => "webui",
        }
    }

    /// Where it says how it is.
    pub(crate) fn health(self, settings: &Settings) -> SocketAddr {
        match self {
            Self::Provisioner => settings.provisioner.health,
            Self::Proxy => settings.proxy.health,
            Self::Webui => settings.webui.health,
        }
    }

    /// Who it runs as when root starts it; `None` is root.
    pub(crate) fn runs_as(self, accounts: &SystemUsers) -> Option<Uid> {
        match self {
            Self::Provisioner => None,
            Self::Proxy => Some(accounts.proxy),
            Self::Webui => Some(accounts.webui),
        }
    }

    /// What it must know: its own section, and not the others'.
    pub(crate) fn share(self, settings: &Settings) -> Settings {
        let mut share =
            Settings { store: settings.store.clone(), log: settings.log.clone(), ..Settings::default() };
        match self {
            Self::Provisioner => share.provisioner = settings.provisioner.clone(),
            Self::Proxy => share.proxy = settings.proxy.clone(),
            Self::Webui => share.webui = settings.webui.clone(),
        }
        share
    }
}

/// Runs the role until SIGTERM or SIGINT.
pub(crate) fn run(role: Role, args: &RoleArgs, global: &GlobalArgs) -> Result<(), CliError> {
    let settings = if args.supervised { inherit()? } else { Settings::load(global)? };
    daemon::telemetry::init(&settings.log.filter, settings.log.format);
    raise_file_limit();
    runtime()?.block_on(serve(role, settings, &DataDir::of(global)))
}

/// A runtime for a command or a role.
pub(crate) fn runtime() -> Result<Runtime, CliError> {
    Runtime::new()
        .map_err(|error| CliError::new(format!("can't start ({error})"), "check the system's limits"))
}

async fn serve(role: Role, settings: Settings, folder: &DataDir) -> Result<(), CliError> {
    let shutdown = Shutdown::on_signals().map_err(|error| CliError::new(error.to_string(), "report this"))?;
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
    if !shutdown.finished(STOP_WITHIN).await {
        tracing::warn!(role = role.name(), "some work was cut off at the end");
    }
    store.close().await;
    Ok(())
}

/// What `memgate up` hands to a role: settings on stdin, so that a role needs no right to read the
/// file and sees no other role's; and a signal should `memgate up` be killed.
fn inherit() -> Result<Settings, CliError> {
    let fix = "start roles with `memgate up`, or without --supervised";
    // Started as /proc/self/exe, it would be called "exe" in lists of processes.
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

/// Every connection is an open file; the soft limit is often 1,024.
fn raise_file_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "can't raise the limit of open files");
    }
}
