//! Supervises the roles: each is a child process that is restarted when it exits and stopped at shutdown.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use daemon::Shutdown;
use rustix::process::{Pid, Signal};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::role_log::RoleLog;
use crate::health_check;
use crate::output::CliError;
use crate::role::Role;
use crate::settings::Settings;
use crate::system_users::SystemUsers;

/// From SIGTERM until a role is killed. Longer than the 30 s in which the proxy lets its clients read their replies.
const STOP_TIMEOUT: Duration = Duration::from_secs(35);
/// For networks, firewall and a first reconciliation of all caches.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const READY_POLL_INTERVAL: Duration = Duration::from_millis(50);
/// A role that isn't ready after this time is logged with the reason.
const SLOW_START_THRESHOLD: Duration = Duration::from_secs(3);
const RESTART_BACKOFF_MIN: Duration = Duration::from_millis(200);
const RESTART_BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A role that ran this long is restarted with the minimum back-off again.
const BACKOFF_RESET_AFTER: Duration = Duration::from_secs(60);

/// The supervised roles.
pub(crate) struct Supervisor {
    roles: JoinSet<Result<(), CliError>>,
    health: Vec<(Role, SocketAddr)>,
    /// Cancelled when all roles are ready for the first time.
    all_ready: CancellationToken,
    shutdown: Shutdown,
}

/// Starts and restarts one role.
struct RoleSupervisor {
    role: Role,
    data: PathBuf,
    settings: Settings,
    system_users: Option<SystemUsers>,
    /// Until this is cancelled, an exit means that the start failed.
    all_ready: CancellationToken,
    shutdown: Shutdown,
}

impl Supervisor {
    /// Starts all roles with the data directory `data`.
    pub(crate) fn start(
        settings: &Settings,
        data: &Path,
        system_users: Option<SystemUsers>,
        shutdown: &Shutdown,
    ) -> Self {
        let all_ready = CancellationToken::new();
        let mut roles = JoinSet::new();
        for role in Role::ALL {
            let supervisor = RoleSupervisor {
                role,
                data: data.to_path_buf(),
                settings: role.visible_settings(settings),
                system_users,
                all_ready: all_ready.clone(),
                shutdown: shutdown.clone(),
            };
            roles.spawn(supervisor.run());
        }
        let health = Role::ALL.map(|role| (role, role.health(settings))).into();
        Self { roles, health, all_ready, shutdown: shutdown.clone() }
    }

    /// Runs until the shutdown is complete. Calls `on_ready` once all roles are ready.
    ///
    /// # Errors
    /// If a role fails to start, or `on_ready` fails. All roles have stopped by then.
    pub(crate) async fn run(
        mut self,
        on_ready: impl FnOnce() -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let ready = tokio::select! {
            ready = wait_until_ready(&self.health) => ready.map(|()| true),
            () = self.shutdown.begun() => Ok(false),
            Some(Ok(Err(error))) = self.roles.join_next() => Err(error),
        };
        let mut result = match ready {
            Ok(true) => {
                self.all_ready.cancel();
                on_ready()
            }
            Ok(false) => Ok(()),
            Err(error) => Err(error),
        };
        if result.is_ok() {
            self.shutdown.begun().await;
        }
        self.shutdown.begin();
        while let Some(stopped) = self.roles.join_next().await {
            if let (Ok(Err(error)), Ok(())) = (stopped, &result) {
                result = Err(error);
            }
        }
        result
    }
}

/// Waits until all roles are ready; fails with the first that isn't in time.
async fn wait_until_ready(health: &[(Role, SocketAddr)]) -> Result<(), CliError> {
    let started = Instant::now();
    for (role, health) in health {
        let mut logged = String::new();
        while let Err(reason) = health_check::is_ready(*health).await {
            if started.elapsed() > READY_TIMEOUT {
                let what = format!("the {} isn't ready after {READY_TIMEOUT:?} ({reason})", role.name());
                return Err(CliError::new(what, "see its log lines above"));
            }
            if started.elapsed() > SLOW_START_THRESHOLD && logged != reason {
                tracing::info!(role = role.name(), reason, "waiting for the role to become ready");
                logged = reason;
            }
            tokio::time::sleep(READY_POLL_INTERVAL).await;
        }
    }
    Ok(())
}

impl RoleSupervisor {
    /// Runs the role, with restarts, until the shutdown.
    async fn run(self) -> Result<(), CliError> {
        let mut backoff = RESTART_BACKOFF_MIN;
        loop {
            let started = Instant::now();
            let (mut child, log) = self.spawn().await?;
            let exited = tokio::select! {
                exited = child.wait() => exited,
                () = self.shutdown.begun() => return self.stop(child, log).await,
            };
            log.finish().await;
            let status = exited.map_or_else(|error| error.to_string(), |status| status.to_string());
            if !self.all_ready.is_cancelled() {
                let what = format!("the {} exited during its start ({status})", self.role.name());
                return Err(CliError::new(what, "see its error above"));
            }
            if started.elapsed() > BACKOFF_RESET_AFTER {
                backoff = RESTART_BACKOFF_MIN;
            }
            tracing::error!(role = self.role.name(), status, ?backoff, "role exited: restarting");
            tokio::select! {
                () = tokio::time::sleep(backoff) => backoff = (backoff * 2).min(RESTART_BACKOFF_MAX),
                () = self.shutdown.begun() => return Ok(()),
            }
        }
    }

    /// Starts this same program, even if its file was replaced or the role's user can't access it.
    async fn spawn(&self) -> Result<(Child, RoleLog), CliError> {
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("memgate")
            .arg(self.role.name())
            .arg("--supervised")
            .arg("--data")
            .arg(&self.data)
            .stdin(Stdio::piped())
            // The supervisor's own stdout carries the lines that scripts wait for.
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .env_clear()
            .kill_on_drop(true);
        for name in self.role.inherited_variables() {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        if let Some(identity) = self.system_users.and_then(|users| self.role.identity(&users)) {
            // It becomes that user itself, because only root can give up what root has.
            command.arg("--run-as").arg(identity.to_string());
        }
        let failed = |error: std::io::Error| {
            let what = format!("can't start the {} ({error})", self.role.name());
            CliError::new(what, "check the system's limits, and that all users may execute this program")
        };
        let mut child = command.spawn().map_err(failed)?;
        let log = RoleLog::start(child.stderr.take());
        let settings = serde_json::to_vec(&self.settings).map_err(|error| failed(error.into()))?;
        if let Some(mut stdin) = child.stdin.take() {
            // If the role has already exited, the caller's wait reports it.
            let _ = stdin.write_all(&settings).await;
        }
        Ok((child, log))
    }

    async fn stop(&self, mut child: Child, log: RoleLog) -> Result<(), CliError> {
        if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            let _ = rustix::process::kill_process(pid, Signal::TERM);
        }
        if tokio::time::timeout(STOP_TIMEOUT, child.wait()).await.is_err() {
            tracing::warn!(role = self.role.name(), "role did not stop in time: killed it");
            let _ = child.kill().await;
        }
        log.finish().await;
        Ok(())
    }
}
