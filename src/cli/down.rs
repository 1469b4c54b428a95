//! `memgate down`: removes what memgate created on this machine; with `--purge` its data too.

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

const STOP_TIMEOUT: Duration = Duration::from_secs(40);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Remove the containers, networks, volumes and firewall rules of this installation
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A running `memgate up` with the same data is stopped first. Users and tokens are kept, and `memgate up`
creates their caches again, empty; with --purge nothing is kept. With PostgreSQL (`store.url`) --purge is refused:
drop that database yourself. Other installations are never touched.")]
pub(crate) struct Down {
    /// Remove the data too: users, tokens, keys
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
        let data_dir = DataDir::of(global);
        if self.purge && settings.store.url.is_some() {
            let fix = "drop the database yourself, run `memgate down`, then remove the data directory";
            return Err(CliError::new("--purge doesn't empty PostgreSQL", fix));
        }
        let mut removed = Removed { installation: None, stopped: false, docker: None, files: Vec::new() };
        if data_dir.is_initialized() {
            removed.stopped = stop(&data_dir)?;
            runtime()?.block_on(Self::tear_down(&settings, &data_dir, &mut removed))?;
            if self.purge {
                removed.files = data_dir.purge(&settings)?;
            }
        }
        output::print(global.json, &removed, || self.describe(&removed, &data_dir))
    }

    async fn tear_down(
        settings: &Settings,
        data_dir: &DataDir,
        removed: &mut Removed,
    ) -> Result<(), CliError> {
        // Only to compare: what is removed is decided by the data directory's id.
        let store = data_dir.open_store(settings).await?;
        data_dir.close_store(settings, &store).await;
        let id = data_dir.installation_id()?;
        removed.docker = Some(provisioner::teardown(&settings.provisioner, &id).await?);
        removed.installation = Some(id);
        Ok(())
    }

    fn describe(&self, removed: &Removed, data_dir: &DataDir) -> String {
        let Some(docker) = &removed.docker else {
            return format!("nothing to do: {} contains no memgate data", data_dir.path().display());
        };
        let data = if self.purge { "the data is removed too" } else { "users and tokens are kept" };
        let kept = match docker.kept.as_slice() {
            [] => String::new(),
            kept => format!("\nkept, because memgate didn't create it or others use it: {}", kept.join(", ")),
        };
        format!(
            "removed {} containers, {} volumes, {} networks and the firewall rules; {data}{kept}",
            docker.containers, docker.volumes, docker.networks
        )
    }
}

/// Stops the `memgate up` of this data directory, which would create everything again. Returns whether one ran.
fn stop(data_dir: &DataDir) -> Result<bool, CliError> {
    let lock = data_dir.lock_path();
    let Some(pid) = up::lock_holder(&lock) else { return Ok(false) };
    let fix = || format!("stop process {pid} yourself, then retry");
    let process = Pid::from_raw(pid)
        .ok_or_else(|| CliError::new("the lock file contains an invalid process id", fix()))?;
    rustix::process::kill_process(process, Signal::TERM)
        .map_err(|error| CliError::new(format!("can't stop the running memgate ({error})"), fix()))?;
    let started = Instant::now();
    while up::lock_holder(&lock).is_some() {
        if started.elapsed() > STOP_TIMEOUT {
            return Err(CliError::new("the running memgate did not stop in time", fix()));
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    Ok(true)
}
