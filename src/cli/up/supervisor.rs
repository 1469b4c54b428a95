//! Keeps the roles running: each a child process, started again when it ends, stopped with us.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use daemon::Shutdown;
use rustix::process::{Pid, Signal};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::health_check;
use crate::output::CliError;
use crate::role::Role;
use crate::settings::Settings;
use crate::system_users::SystemUsers;

/// A role has this long to end after SIGTERM; then it is killed. All must be gone in 5 s.
const STOP_WITHIN: Duration = Duration::from_millis(4500);
/// Networks, firewall and a first look at every cache.
const READY_WITHIN: Duration = Duration::from_secs(60);
const PROBE_EVERY: Duration = Duration::from_millis(50);
/// When a wait is worth a line on stderr.
const PATIENCE: Duration = Duration::from_secs(3);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A role that ran this long has recovered: its next end is a first one again.
const RECOVERED: Duration = Duration::from_secs(60);

/// The running roles.
pub(crate) struct Supervisor {
    keepers: JoinSet<Result<(), CliError>>,
    health: Vec<(Role, std::net::SocketAddr)>,
    all_ready: CancellationToken,
    shutdown: Shutdown,
}

/// How to start one role.
struct RoleSupervisor {
    role: Role,
    data: PathBuf,
    settings: Settings,
    accounts: Option<SystemUsers>,
    /// Before this, a role that ends is a start that failed.
    all_ready: CancellationToken,
    shutdown: Shutdown,
}

impl Supervisor {
    /// Starts all roles with their data in `data`.
    pub(crate) fn start(
        settings: &Settings,
        data: &Path,
        accounts: Option<SystemUsers>,
        shutdown: &Shutdown,
    ) -> Self {
        let all_ready = CancellationToken::new();
        let mut keepers = JoinSet::new();
        for role in Role::ALL {
            let keeper = RoleSupervisor {
                role,
                data: data.to_path_buf(),
                settings: role.share(settings),
                accounts,
                all_ready: all_ready.clone(),
                shutdown: shutdown.clone(),
            };
            keepers.spawn(keeper.keep());
        }
        let health = Role::ALL.map(|role| (role, role.health(settings))).into();
        Self { keepers, health, all_ready, shutdown: shutdown.clone() }
    }

    /// Calls `announce` when all are ready; returns when all have ended after the stop, or one couldn't start.
    pub(crate) async fn until_stopped(
        mut self,
        announce: impl FnOnce() -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let ready = tokio::select! {
            ready = all_ready(&self.health) => ready,
            () = self.shutdown.begun() => Ok(false),
            Some(Ok(Err(failure))) = self.keepers.join_next() => Err(failure),
        };
        let mut result = match ready {
            Ok(true) => {
                self.all_ready.cancel();
                announce()
            }
            Ok(false) => Ok(()),
            Err(failure) => Err(failure),
        };
        if result.is_ok() {
            self.shutdown.begun().await;
        }
        self.shutdown.begin();
        while let Some(ended) = self.keepers.join_next().await {
            if let (Ok(Err(failure)), Ok(())) = (ended, &result) {
                result = Err(failure);
            }
        }
        result
    }
}

/// Whether they came up before anything else happened; an error names the one that didn't.
async fn all_ready(health: &[(Role, std::net::SocketAddr)]) -> Result<bool, CliError> {
    let began = Instant::now();
    for (role, health) in health {
        let mut told = String::new();
        while let Err(why) = health_check::is_ready(*health).await {
            if began.elapsed() > READY_WITHIN {
                let what = format!("the {} isn't ready after {READY_WITHIN:?} ({why})", role.name());
                return Err(CliError::new(what, "its log lines above say more"));
            }
            if began.elapsed() > PATIENCE && told != why {
                tracing::info!(role = role.name(), why, "waiting");
                told = why;
            }
            tokio::time::sleep(PROBE_EVERY).await;
        }
    }
    Ok(true)
}

impl RoleSupervisor {
    /// Runs the role, again and again, until the stop.
    async fn keep(self) -> Result<(), CliError> {
        let mut pause = FIRST_PAUSE;
        loop {
            let began = Instant::now();
            let mut child = self.spawn().await?;
            let ended = tokio::select! {
                ended = child.wait() => ended,
                () = self.shutdown.begun() => return self.stop(child).await,
            };
            let ended = ended.map_or_else(|error| error.to_string(), |status| describe(&status));
            if !self.all_ready.is_cancelled() {
                let what = format!("the {} has ended while starting ({ended})", self.role.name());
                return Err(CliError::new(what, "its line above says why"));
            }
            if began.elapsed() > RECOVERED {
                pause = FIRST_PAUSE;
            }
            tracing::error!(role = self.role.name(), ended, ?pause, "a role has ended, starting it again");
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
                () = self.shutdown.begun() => return Ok(()),
            }
        }
    }

    /// Starts this very program, also when its file has been replaced or lies where the role's user can't go.
    async fn spawn(&self) -> Result<Child, CliError> {
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("memgate")
            .arg(self.role.name())
            .arg("--supervised")
            .arg("--data")
            .arg(&self.data)
            .stdin(Stdio::piped())
            // Ours carries the three lines that scripts wait for.
            .stdout(Stdio::null())
            // Ctrl-C is for us; we pass it on.
            .process_group(0)
            .kill_on_drop(true);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("MEMGATE_") {
                command.env_remove(name);
            }
        }
        if let Some(accounts) = &self.accounts
            && let Some(user) = self.role.runs_as(accounts)
        {
            // Supplementary groups, Docker's among them, are dropped with it.
            command.uid(user.as_raw()).gid(accounts.group.as_raw());
        }
        let cannot = |error: std::io::Error| {
            let what = format!("can't start the {} ({error})", self.role.name());
            CliError::new(what, "check the system's limits and that this program may be run by all users")
        };
        let mut child = command.spawn().map_err(cannot)?;
        let settings = serde_json::to_vec(&self.settings).map_err(|error| cannot(error.into()))?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that has ended already is noticed by whoever waits for it.
            let _ = stdin.write_all(&settings).await;
        }
        Ok(child)
    }

    async fn stop(&self, mut child: Child) -> Result<(), CliError> {
        if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            let _ = rustix::process::kill_process(pid, Signal::TERM);
        }
        if tokio::time::timeout(STOP_WITHIN, child.wait()).await.is_err() {
            tracing::warn!(role = self.role.name(), "killed: it didn't stop in time");
            let _ = child.kill().await;
        }
        Ok(())
    }
}

fn describe(status: &ExitStatus) -> String {
    status.to_string()
}
