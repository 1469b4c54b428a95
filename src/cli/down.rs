//! `memgate down`: removes what memgate created on this machine; with `--purge` its data too.

mod roles;

pub(super) use self::roles::running as running_role;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde::Serialize;

use super::{confirmation, up};
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
Examples:
  memgate down --data /var/lib/memgate
  memgate down --purge --dry-run

A running `memgate up` with the same data is stopped first, and so are roles that run on this machine without it.
Users and tokens are kept, and `memgate up`
creates their caches again, empty; with --purge nothing is kept. With PostgreSQL (`store.url`) --purge is refused:
drop that database yourself. Other installations are never touched.")]
pub(crate) struct Down {
    /// Remove the data too: users, tokens, keys. Asks for confirmation on a terminal
    #[arg(long)]
    purge: bool,
    /// Don't ask for confirmation
    #[arg(long)]
    yes: bool,
    /// Only show what would be removed
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
}

#[derive(Debug, Default, Serialize)]
struct Removed {
    installation: Option<String>,
    /// Whether nothing was removed, only counted.
    dry_run: bool,
    stopped: bool,
    /// Roles that ran without `memgate up` and were stopped.
    stopped_roles: Vec<String>,
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
        let mut removed = Removed { dry_run: self.dry_run, ..Removed::default() };
        if data_dir.is_initialized()? {
            if self.dry_run {
                self.survey(&settings, &data_dir, &mut removed)?;
            } else {
                self.confirm(&data_dir)?;
                removed.stopped = stop(&data_dir)?;
                runtime()?.block_on(Self::tear_down(&settings, &data_dir, &mut removed))?;
                if self.purge {
                    removed.files = data_dir.purge(&settings)?;
                }
            }
        }
        output::print(global.json, &removed, || self.describe(&removed, &data_dir))
    }

    fn confirm(&self, data_dir: &DataDir) -> Result<(), CliError> {
        if !self.purge || self.yes {
            return Ok(());
        }
        let data = data_dir.path().display();
        confirmation::ask_on_terminal(&format!(
            "Remove all caches with their contents, and all users, tokens and keys in {data}?"
        ))
    }

    fn survey(&self, settings: &Settings, data_dir: &DataDir, removed: &mut Removed) -> Result<(), CliError> {
        removed.stopped = up::lock_holder(data_dir)?.is_some();
        let (id, _) = runtime()?.block_on(Self::compared_id(settings, data_dir))?;
        removed.docker = Some(runtime()?.block_on(provisioner::survey(&settings.provisioner, &id))?);
        removed.installation = Some(id);
        if self.purge {
            removed.files = data_dir.own_files(settings)?;
        }
        Ok(())
    }

    async fn tear_down(
        settings: &Settings,
        data_dir: &DataDir,
        removed: &mut Removed,
    ) -> Result<(), CliError> {
        let (id, problem) = Self::compared_id(settings, data_dir).await?;
        removed.stopped_roles = roles::stop(settings, &id).await?;
        let lock = roles::keep_provisioners_away(settings, data_dir, problem.as_ref()).await?;
        removed.docker = Some(provisioner::teardown(&settings.provisioner, &id).await?);
        drop(lock);
        data_dir.restore_log_files(settings);
        removed.installation = Some(id);
        Ok(())
    }

    /// The data directory's id, which decides what is removed. The store's is only compared: also returned is why it can't
    /// be.
    async fn compared_id(
        settings: &Settings,
        data_dir: &DataDir,
    ) -> Result<(String, Option<CliError>), CliError> {
        let id = data_dir.installation_id()?;
        let problem = data_dir.store_problem(settings).await?;
        if let Some(problem) = &problem {
            let warning = format!(
                "the store can't be compared with the installation {id} ({problem}): going by its id alone"
            );
            eprintln!("warning: {}", output::escape_controls(&warning));
        }
        Ok((id, problem))
    }

    fn describe(&self, removed: &Removed, data_dir: &DataDir) -> String {
        let Some(docker) = &removed.docker else {
            return format!("nothing to do: {} contains no memgate data", data_dir.path().display());
        };
        let data = match (self.purge, self.dry_run) {
            (false, _) => "users and tokens are kept".to_owned(),
            (true, false) => "the data is removed too".to_owned(),
            (true, true) => format!("and {} files in {}", removed.files.len(), data_dir.path().display()),
        };
        let verb = if self.dry_run { "would remove" } else { "removed" };
        let kept = match docker.kept.as_slice() {
            [] => String::new(),
            kept => format!("\nkept, because memgate didn't create it or others use it: {}", kept.join(", ")),
        };
        let stopped = match removed.stopped_roles.as_slice() {
            [] => String::new(),
            roles => format!("stopped {}\n", roles.join(", ")),
        };
        format!(
            "{stopped}{verb} {} containers, {} volumes, {} networks and the firewall rules; {data}{kept}",
            docker.containers, docker.volumes, docker.networks
        )
    }
}

/// Stops the `memgate up` of this data directory, which would create everything again. Returns whether one ran.
fn stop(data_dir: &DataDir) -> Result<bool, CliError> {
    let Some(up::LockHolder { pid, .. }) = up::lock_holder(data_dir)? else { return Ok(false) };
    let fix = || format!("stop process {pid} yourself, then retry");
    let failed =
        |error: std::io::Error| CliError::new(format!("can't stop the running memgate ({error})"), fix());
    // The id of a `memgate up` that was killed may be another process's by now. What is opened here stays the same one.
    let process = roles::open_process(pid, &[rustix::process::geteuid().as_raw()]);
    if up::lock_holder(data_dir)?.is_some_and(|holder| holder.pid == pid) {
        let process = process.map_err(failed)?;
        rustix::process::pidfd_send_signal(&process, Signal::TERM).map_err(|error| failed(error.into()))?;
    }
    let started = Instant::now();
    while up::lock_holder(data_dir)?.is_some() {
        if started.elapsed() > STOP_TIMEOUT {
            return Err(CliError::new("the running memgate did not stop in time", fix()));
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    Ok(true)
}
