//! Supervises the roles: each is a child process that is restarted when it exits or hangs, and stopped at shutdown.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use daemon::{Reload, Shutdown};
use rustix::process::{Pid, Signal};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::listeners::{RoleListeners, RolePorts};
use super::role_group::{self, GroupFolders, RoleGroup};
use super::role_log::RoleLog;
use super::user_manager::RoleUser;
use super::watchdog::Watchdog;
use crate::data_dir::DataDir;
use crate::health_check;
use crate::output::CliError;
use crate::role::{Role, handover};
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
const RESTART_BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A role that ran this long is restarted with the minimum back-off again.
const BACKOFF_RESET_AFTER: Duration = Duration::from_secs(60);
/// A role that ran this long and was told to stop is restarted at once.
const NO_BACKOFF_AFTER: Duration = Duration::from_secs(1);

/// The supervised roles.
pub(crate) struct Supervisor {
    roles: JoinSet<Result<(), CliError>>,
    health: Vec<(Role, SocketAddr)>,
    installation: String,
    /// Cancelled when all roles are ready for the first time.
    all_ready: CancellationToken,
    shutdown: Shutdown,
}

/// What the supervisors of all roles share.
#[derive(Clone)]
pub(crate) struct Common {
    pub(crate) system_users: Option<SystemUsers>,
    pub(crate) group_folders: GroupFolders,
    pub(crate) shutdown: Shutdown,
    pub(crate) reload: Reload,
}

/// Starts and restarts one role.
struct RoleSupervisor {
    role: Role,
    data: DataDir,
    installation: String,
    settings: Settings,
    /// Kept while the role is away.
    ports: RolePorts,
    /// Until this is cancelled, an exit with an error means that the start failed.
    all_ready: CancellationToken,
    common: Common,
}

/// A role's process.
struct Running {
    child: Child,
    log: RoleLog,
    watchdog: Watchdog<ChildStdout>,
    /// Dropped last: whatever the role has started ends with it.
    _group: Option<RoleGroup>,
}

/// Why a role has to be started again, or not.
enum End {
    /// It was told to stop, and did.
    Stopped,
    Exited(String),
    /// It was killed, perhaps from outside.
    Killed(String),
    Hung(Duration),
    Shutdown,
}

impl Supervisor {
    /// Starts all roles of an installation with the data directory `data`.
    ///
    /// # Errors
    /// If a role's settings can't be read.
    pub(crate) fn start(
        settings: &Settings,
        data: &DataDir,
        installation: &str,
        mut listeners: RoleListeners,
        common: &Common,
    ) -> Result<Self, CliError> {
        let all_ready = CancellationToken::new();
        let mut roles = JoinSet::new();
        for role in Role::ALL {
            let supervisor = RoleSupervisor {
                role,
                data: data.clone(),
                installation: installation.to_owned(),
                settings: role.visible_settings(settings, data)?,
                ports: listeners.take(role),
                all_ready: all_ready.clone(),
                common: common.clone(),
            };
            roles.spawn(supervisor.run());
        }
        Ok(Self {
            roles,
            health: Role::ALL.map(|role| (role, role.health(settings))).into(),
            installation: installation.to_owned(),
            all_ready,
            shutdown: common.shutdown.clone(),
        })
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
            ready = wait_until_ready(&self.health, &self.installation) => ready.map(|()| true),
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

/// Waits until all roles are ready; fails with the first that isn't in time. A role that waits for something outside, such
/// as Docker or the store, is in time.
async fn wait_until_ready(health: &[(Role, SocketAddr)], installation: &str) -> Result<(), CliError> {
    let started = Instant::now();
    let mut late_at = started + READY_TIMEOUT;
    for (role, health) in health {
        let mut logged = String::new();
        while let Err((reason, is_waiting)) = is_ready(*role, *health, installation).await {
            if is_waiting {
                late_at = Instant::now() + READY_TIMEOUT;
            }
            if Instant::now() > late_at {
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

/// If the role isn't ready: why, and whether it waits for something outside.
async fn is_ready(role: Role, health: SocketAddr, installation: &str) -> Result<(), (String, bool)> {
    let report = health_check::ask(health).await.map_err(|reason| (reason, false))?;
    if let Some(reason) = health_check::foreign(&report, role, installation) {
        return Err((reason, false));
    }
    let reason = || report.message.clone().unwrap_or_default();
    if report.ready { Ok(()) } else { Err((reason(), report.waiting)) }
}

impl End {
    fn of(exited: std::io::Result<ExitStatus>) -> Self {
        match exited {
            Ok(status) if status.success() => Self::Stopped,
            Ok(status) if status.signal().is_some() => Self::Killed(status.to_string()),
            Ok(status) => Self::Exited(status.to_string()),
            Err(error) => Self::Exited(error.to_string()),
        }
    }
}

impl Running {
    /// Runs until the role ends or hangs, or the shutdown begins. Passes SIGHUP on.
    async fn watch(&mut self, shutdown: &Shutdown, reload: &mut Reload) -> End {
        loop {
            tokio::select! {
                exited = self.child.wait() => return End::of(exited),
                silence = self.watchdog.hung() => return End::Hung(silence),
                () = reload.requested() => {
                    // One that is starting reads everything anyway, and may not handle the signal yet.
                    if self.watchdog.has_seen_sign() {
                        self.signal(Signal::HUP);
                    }
                }
                () = shutdown.begun() => return End::Shutdown,
            }
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    async fn stop(mut self, role: Role) {
        self.signal(Signal::TERM);
        let has_stopped = tokio::select! {
            _ = self.child.wait() => true,
            _ = self.watchdog.hung() => false,
            () = tokio::time::sleep(STOP_TIMEOUT) => false,
        };
        if !has_stopped {
            tracing::warn!(role = role.name(), "role did not stop in time: killed it");
            let _ = self.child.kill().await;
        }
        self.log.finish().await;
    }
}

impl RoleSupervisor {
    /// Runs the role, with restarts, until the shutdown.
    async fn run(mut self) -> Result<(), CliError> {
        let mut reload = self.common.reload.clone();
        let mut backoff = RESTART_BACKOFF_MIN;
        loop {
            let started = Instant::now();
            let end = match self.spawn().await {
                Ok(mut running) => match running.watch(&self.common.shutdown, &mut reload).await {
                    End::Shutdown => {
                        // Clients are refused from now on, and don't wait.
                        self.ports.close();
                        running.stop(self.role).await;
                        return Ok(());
                    }
                    end => {
                        // A stopped process obeys no other signal.
                        let _ = running.child.kill().await;
                        self.renew_ports();
                        running.log.finish().await;
                        end
                    }
                },
                Err(error) if self.all_ready.is_cancelled() => End::Exited(error.to_string()),
                Err(error) => return Err(error),
            };
            if let (End::Exited(status), false) = (&end, self.all_ready.is_cancelled()) {
                let what = format!("the {} exited during its start ({status})", self.role.name());
                return Err(CliError::new(what, "see its error above"));
            }
            if started.elapsed() > BACKOFF_RESET_AFTER {
                backoff = RESTART_BACKOFF_MIN;
            }
            let wait = match end {
                End::Stopped if started.elapsed() > NO_BACKOFF_AFTER => Duration::ZERO,
                _ => {
                    let next = (backoff * 2).min(RESTART_BACKOFF_MAX);
                    std::mem::replace(&mut backoff, next)
                }
            };
            self.log_restart(&end, wait);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.common.shutdown.begun() => return Ok(()),
            }
        }
    }

    /// At once, because clients that connect from now on wait for the next process.
    fn renew_ports(&mut self) {
        if let Err(error) = self.ports.renew() {
            tracing::error!(role = self.role.name(), %error, "failed to bind ports again: they are closed");
        }
    }

    fn log_restart(&self, end: &End, wait: Duration) {
        let role = self.role.name();
        match end {
            End::Stopped => tracing::info!(role, "role stopped: starting it again"),
            End::Exited(status) | End::Killed(status) => {
                tracing::error!(role, status, backoff = ?wait, "role exited: restarting");
            }
            End::Hung(silence) => {
                let seconds = silence.as_secs();
                tracing::error!(role, seconds, backoff = ?wait, "role hung, with no sign of life: killed, restarting");
            }
            End::Shutdown => {}
        }
    }

    /// Sends a role its listening sockets and its settings.
    async fn hand_over(&mut self, to: UnixStream) -> std::io::Result<()> {
        for listener in self.ports.listeners() {
            handover::send(&to, listener)?;
        }
        to.set_nonblocking(true)?;
        let settings = serde_json::to_vec(&self.settings)?;
        tokio::net::UnixStream::from_std(to)?.write_all(&settings).await
    }

    /// Ends what an earlier process has left, on another thread: that may take seconds.
    async fn create_group(&self, user: RoleUser) -> std::io::Result<Option<RoleGroup>> {
        let (folders, installation) = (self.common.group_folders.clone(), self.installation.clone());
        let role = self.role.name();
        tokio::task::spawn_blocking(move || RoleGroup::create(&folders, (&installation, role), user)).await?
    }

    /// Starts this same program, even if its file was replaced or the role's user can't access it.
    async fn spawn(&mut self) -> Result<Running, CliError> {
        // SQLite's last user may have removed them, and an unprivileged role can't make them.
        self.data.restore_log_files(&self.settings);
        let role = self.role;
        let failed = |error: std::io::Error| {
            let what = format!("can't start the {} ({error})", role.name());
            CliError::new(what, "check the system's limits, and that all users may execute this program")
        };
        let (near, far) = UnixStream::pair().map_err(failed)?;
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("memgate")
            .arg(self.role.name())
            .arg("--supervised")
            .arg("--data")
            .arg(self.data.path())
            .stdin(OwnedFd::from(far))
            // For signs of life: the supervisor's own stdout carries the lines that scripts wait for.
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .env_clear()
            .kill_on_drop(true);
        for name in self.role.inherited_variables() {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        let mut group = None;
        let users = self.common.system_users;
        let identity = users.and_then(|users| self.role.identity(&users));
        let user = users.and_then(|users| RoleUser::of(self.role, &users));
        if let (Some(identity), Some(user)) = (identity, user) {
            // It becomes that user itself, because only root can give up what root has.
            command.arg("--run-as").arg(identity.to_string());
            let created = self.create_group(user).await;
            group = created.map_err(|error| role_group::not_ended(self.role, &error))?;
        }
        // Here once more, because an earlier process may have been alive until now.
        self.ports.renew()?;
        let mut child = command.spawn().map_err(failed)?;
        // With its copy of the role's end, so that a role that has ended is noticed.
        drop(command);
        if let (Some(group), Some(process)) = (&group, child.id()) {
            // Before it gets its settings, which it waits for.
            group.add(process).map_err(failed)?;
        }
        let log = RoleLog::start(self.role.name(), self.settings.log.format, child.stderr.take());
        let watchdog = Watchdog::new(child.stdout.take());
        match self.hand_over(near).await {
            // If the role has already exited, the caller's wait reports it.
            Err(error) if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                return Err(failed(error));
            }
            _ => {}
        }
        Ok(Running { child, log, watchdog, _group: group })
    }
}
