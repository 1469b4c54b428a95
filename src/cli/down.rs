//! `memgate down`: takes away what memgate made on this machine, and with `--purge` its data too.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde::Serialize;

use super::up;
use crate::data_dir::DataDir;
use crate::global_args::GlobalArgs;
use crate::output::{self, CliError};
use crate::role::runtime;
use crate::settings::Settings;

const STOP_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Remove the containers, networks, volumes and firewall rules of this installation
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A running `memgate up` with the same data is stopped first. SystemUsers and tokens stay, and `memgate up`
brings the caches back, empty; with --purge nothing stays. Where `store.url` names a PostgreSQL, --purge is
refused: its database is yours to drop. Other installations are never touched.")]
pub(crate) struct Down {
    /// Remove the data too: accounts, tokens, keys
    #[arg(long)]
    purge: bool,
}

#[derive(Debug, Serialize)]
struct Removed {
    installation: Option<String>,
    stopped: bool,
    #[serde(flatten)]
    docker: Option<provisioner::Removed>,
    files: Vec<PathBuf>,
}

impl Down {
    pub(crate) fn run(&self, global: &GlobalArgs) -> Result<(), CliError> {
        let settings = Settings::load(global)?;
        let folder = DataDir::of(global);
        if self.purge && settings.store.url.is_some() {
            let fix = "drop the database yourself, run `memgate down`, then remove the data folder";
            return Err(CliError::new("--purge doesn't empty PostgreSQL", fix));
        }
        let mut removed = Removed { installation: None, stopped: false, docker: None, files: Vec::new() };
        if folder.is_in_use() {
            removed.stopped = stop(&folder)?;
            runtime()?.block_on(Self::tear_down(&settings, &folder, &mut removed))?;
            if self.purge {
                removed.files = folder.purge(&settings)?;
            }
        }
        output::print(global.json, &removed, || self.describe(&removed, &folder))
    }

    async fn tear_down(settings: &Settings, folder: &DataDir, removed: &mut Removed) -> Result<(), CliError> {
        let store = folder.open_store(settings).await?;
        let id = store.installation_id().await?;
        store.close().await;
        removed.docker = Some(provisioner::teardown(&settings.provisioner, &id).await?);
        removed.installation = Some(id);
        Ok(())
    }

    fn describe(&self, removed: &Removed, folder: &DataDir) -> String {
        let Some(docker) = &removed.docker else {
            return format!("nothing to do: {} holds no memgate data", folder.path().display());
        };
        let data = if self.purge { "the data is gone too" } else { "accounts and tokens are kept" };
        format!(
            "removed {} containers, {} volumes, {} networks and the firewall rules; {data}",
            docker.containers, docker.volumes, docker.networks
        )
    }
}

/// Stops the `memgate up` that uses this folder: it would bring everything back. Whether one ran.
fn stop(folder: &DataDir) -> Result<bool, CliError> {
    let lock = folder.lock_path();
    let Some(pid) = up::running(&lock) else { return Ok(false) };
    let fix = || format!("stop process {pid} yourself, then try again");
    let process = Pid::from_raw(pid).ok_or_else(|| CliError::new("the lock file makes no sense", fix()))?;
    rustix::process::kill_process(process, Signal::TERM)
        .map_err(|error| CliError::new(format!("can't stop the running memgate ({error})"), fix()))?;
    let began = Instant::now();
    while up::running(&lock).is_some() {
        if began.elapsed() > STOP_WITHIN {
            return Err(CliError::new("the running memgate doesn't stop", fix()));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(true)
}
