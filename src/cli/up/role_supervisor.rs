//! Supervises one role: starts its process, restarts it, and replaces it in an upgrade.

use std::ffi::OsString;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::task::Poll;
use std::time::{Duration, Instant};

use daemon::{Reload, fd_passing};
use rustix::process::Signal;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::role_group::{self, RoleGroup};
use super::role_process::{self, Ended, Launch, RoleProcess};
use super::supervised::{Common, READY_TIMEOUT, RoleEnd, SupervisedRole, until_ready};
use super::user_manager::RoleUser;
use crate::data_dir::DataDir;
use crate::output::CliError;
use crate::role::Role;
use crate::role::handover::{self, Purpose};
use crate::settings::Settings;

/// From SIGTERM until a role is killed. Longer than the 30 s in which the proxy lets its clients read their replies.
const STOP_TIMEOUT: Duration = Duration::from_secs(35);
const RESTART_BACKOFF_MIN: Duration = Duration::from_millis(200);
const RESTART_BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A role that ran this long is restarted with the minimum back-off again.
const BACKOFF_RESET_AFTER: Duration = Duration::from_secs(60);
/// A role that ran this long and was told to stop is restarted at once.
const NO_BACKOFF_AFTER: Duration = Duration::from_secs(1);
/// From the readiness of a new process until the old one must have said that it accepts nothing any more.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(2);
/// Replaced processes that still serve connections; of more, the oldest is stopped.
const DRAINING_MAX: usize = 16;

/// Starts and restarts one role.
pub(super) struct RoleSupervisor {
    pub(super) data: DataDir,
    pub(super) installation: String,
    pub(super) settings: Settings,
    pub(super) supervised: SupervisedRole,
    /// The id of its process.
    pub(super) current: watch::Sender<u32>,
    /// Until this is cancelled, an exit with an error means that the start failed.
    pub(super) all_ready: CancellationToken,
    pub(super) common: Common,
    /// The arguments of a proxy that runs alone: nobody starts that again, and this process ends with it.
    pub(super) alone: Option<Vec<OsString>>,
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
    /// Another program goes on with it.
    Leaving,
}

impl End {
    fn of(ended: Ended) -> Self {
        match ended {
            Ended::Exited(Ok(status)) if status.success() => Self::Stopped,
            Ended::Exited(Ok(status)) if status.signal().is_some() => Self::Killed(status.to_string()),
            Ended::Exited(Ok(status)) => Self::Exited(status.to_string()),
            Ended::Exited(Err(error)) => Self::Exited(error.to_string()),
            Ended::Hung(silence) => Self::Hung(silence),
        }
    }
}

impl RoleSupervisor {
    fn role(&self) -> Role {
        self.supervised.role
    }

    /// Runs the role, with restarts, until the shutdown or until another program goes on with it.
    pub(super) async fn run(mut self) -> Result<RoleEnd, CliError> {
        let mut reload = self.common.reload.clone();
        if std::mem::take(&mut self.supervised.is_outdated)
            && let Some(old) = self.supervised.process.take()
        {
            self.replace(old).await;
        }
        let mut backoff = RESTART_BACKOFF_MIN;
        loop {
            let started = Instant::now();
            let process = match self.supervised.process.take() {
                Some(process) => Ok(process),
                None => self.start(None).await,
            };
            let end = match process {
                Ok(process) => match self.watch(process, &mut reload).await {
                    (End::Shutdown, process) => {
                        self.supervised.process = Some(process);
                        return Ok(RoleEnd::Stopped(stop_all(&mut self.supervised).await));
                    }
                    (End::Leaving, process) => {
                        self.supervised.process = Some(process);
                        return Ok(RoleEnd::Left(Box::new(self.supervised)));
                    }
                    (end, mut process) => {
                        process.kill().await;
                        if self.alone.is_some() {
                            stop_all(&mut self.supervised).await;
                            return Ok(RoleEnd::Stopped(process.status()));
                        }
                        self.renew_ports();
                        process.finish_log().await;
                        end
                    }
                },
                Err(error) if self.all_ready.is_cancelled() => End::Exited(error.to_string()),
                Err(error) => return Err(error),
            };
            if let (End::Exited(status), false) = (&end, self.all_ready.is_cancelled()) {
                let what = format!("the {} exited during its start ({status})", self.role().name());
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
                () = self.common.shutdown.begun() => return Ok(RoleEnd::Stopped(None)),
                () = self.common.leaving.cancelled() => return Ok(RoleEnd::Left(Box::new(self.supervised))),
            }
        }
    }

    /// Runs until the process ends or hangs, the shutdown begins or another program is to go on. Passes SIGHUP on.
    async fn watch(&mut self, mut process: RoleProcess, reload: &mut Reload) -> (End, RoleProcess) {
        self.current.send_replace(process.pid());
        loop {
            tokio::select! {
                ended = process.ended_or_hung() => return (End::of(ended), process),
                () = reload.requested() => {
                    // One that is starting reads everything anyway, and may not handle the signal yet.
                    if process.has_seen_sign() {
                        process.signal(Signal::HUP);
                    }
                }
                () = watch_draining(&mut self.supervised.draining, self.settings.proxy.drain) => {}
                () = self.common.shutdown.begun() => return (End::Shutdown, process),
                () = self.common.leaving.cancelled() => return (End::Leaving, process),
            }
        }
    }

    /// Replaces the process of an earlier program. The proxy's connections go on: a new process takes over from the old one. Other
    /// roles are stopped first; their clients wait.
    async fn replace(&mut self, mut old: RoleProcess) {
        if self.role() != Role::Proxy {
            old.signal(Signal::TERM);
            stop(old).await;
            return self.renew_ports();
        }
        // Already here, so that the start of the new process leaves it alone.
        old.begin_drain();
        self.supervised.draining.push(old);
        match self.start_successor().await {
            Ok(new) => {
                self.supervised.process = Some(new);
                if self.supervised.draining.len() > DRAINING_MAX
                    && let Some(oldest) = self.supervised.draining.first_mut()
                {
                    oldest.signal(Signal::TERM);
                    oldest.end_drain(Duration::from_secs(self.settings.proxy.drain));
                }
            }
            Err(error) => {
                tracing::error!(%error, "the new proxy can't take over: the old one goes on");
                self.supervised.process = self.supervised.draining.pop();
                self.common.problems.add(error);
            }
        }
    }

    /// Starts a process that takes over from the newest of those that drain; returns once it works.
    async fn start_successor(&mut self) -> Result<RoleProcess, CliError> {
        let failed = |what: String| CliError::new(what, "see the log lines above");
        let (predecessor, successor) =
            fd_passing::message_pair().map_err(|error| failed(error.to_string()))?;
        self.supervised.ports.begin_takeover().map_err(|error| failed(error.to_string()))?;
        let started = self.start(Some(predecessor)).await;
        let mut new = started.inspect_err(|_| self.supervised.ports.cancel_takeover())?;
        if let Some(old) = self.supervised.draining.last() {
            // One that has ended meanwhile has nothing to hand over.
            let _ = old.announce_successor(&successor);
        }
        drop(successor);
        let pid = new.pid();
        let reason = tokio::select! {
            biased;
            () = self.until_taken_over(pid) => None,
            () = self.common.shutdown.begun() => Some("memgate stops".to_owned()),
            ended = new.ended_or_hung() => Some(match ended {
                Ended::Exited(Ok(status)) => status.to_string(),
                Ended::Exited(Err(error)) => error.to_string(),
                Ended::Hung(silence) => format!("no sign of life for {silence:?}"),
            }),
            () = tokio::time::sleep(READY_TIMEOUT) => Some(format!("not ready after {READY_TIMEOUT:?}")),
        };
        match reason {
            None => {
                self.supervised.ports.finish_takeover();
                Ok(new)
            }
            Some(reason) => {
                new.kill().await;
                new.finish_log().await;
                if self.has_begun_to_leave().await {
                    // The old one accepts nothing any more: the next process has to.
                    self.supervised.ports.finish_takeover();
                    return self.start(None).await;
                }
                self.supervised.ports.cancel_takeover();
                Err(failed(format!("the new {} didn't get ready ({reason})", self.role().name())))
            }
        }
    }

    /// Waits until the newest of the processes that drain says that it has a successor. If it doesn't say so, it's enough that the new
    /// process is ready: an old one that was broken into can't stop an upgrade.
    async fn until_taken_over(&self, pid: u32) {
        let health = self.role().health(&self.settings);
        let is_ready = async {
            until_ready(self.role(), health, &self.installation, pid).await;
            tokio::time::sleep(HANDOVER_TIMEOUT).await;
        };
        let taken_over = async {
            match self.supervised.draining.last() {
                Some(old) if old.taken_over().await.is_ok() => {}
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            () = taken_over => {}
            () = is_ready => {}
        }
    }

    /// Whether the newest of the processes that drain has stopped accepting, for a successor that is gone.
    async fn has_begun_to_leave(&self) -> bool {
        let Some(old) = self.supervised.draining.last() else { return false };
        matches!(tokio::time::timeout(HANDOVER_TIMEOUT, old.taken_over()).await, Ok(Ok(())))
    }

    /// At once, because clients that connect from now on wait for the next process.
    fn renew_ports(&mut self) {
        if let Err(error) = self.supervised.ports.renew() {
            tracing::error!(role = self.role().name(), %error, "failed to bind ports again: they are closed");
        }
    }

    fn log_restart(&self, end: &End, wait: Duration) {
        let role = self.role().name();
        match end {
            End::Stopped => tracing::info!(role, "role stopped: starting it again"),
            End::Exited(status) | End::Killed(status) => {
                tracing::error!(role, status, backoff = ?wait, "role exited: restarting");
            }
            End::Hung(silence) => {
                let seconds = silence.as_secs();
                tracing::error!(role, seconds, backoff = ?wait, "role hung, with no sign of life: killed, restarting");
            }
            End::Shutdown | End::Leaving => {}
        }
    }

    /// Sends a role its end of the control channel, its listening sockets, the socket to the process that it takes over from, and its settings.
    async fn hand_over(
        &mut self,
        to: UnixStream,
        control: OwnedFd,
        predecessor: Option<OwnedFd>,
    ) -> io::Result<()> {
        handover::send(&to, Purpose::Control, control)?;
        for listener in self.supervised.ports.listeners() {
            handover::send(&to, Purpose::Listener, listener)?;
        }
        if let Some(predecessor) = predecessor {
            handover::send(&to, Purpose::Predecessor, predecessor)?;
        }
        to.set_nonblocking(true)?;
        let settings = serde_json::to_vec(&self.settings)?;
        tokio::net::UnixStream::from_std(to)?.write_all(&settings).await
    }

    /// Ends what an earlier process has left, on another thread: that may take seconds.
    async fn create_group(&self, user: RoleUser, kept: Vec<PathBuf>) -> io::Result<Option<RoleGroup>> {
        let (folders, installation) = (self.common.group_folders.clone(), self.installation.clone());
        let role = self.role().name();
        let create = move || RoleGroup::create(&folders, (&installation, role), user, &kept);
        tokio::task::spawn_blocking(create).await?
    }

    /// Starts a process, which takes over from the one at the other end of a socket perhaps.
    async fn start(&mut self, predecessor: Option<OwnedFd>) -> Result<RoleProcess, CliError> {
        let role = self.role();
        let failed = |error: io::Error| {
            let what = format!("can't start the {} ({error})", role.name());
            CliError::new(what, "check the system's limits, and that all users may execute this program")
        };
        let channels = role_process::channels().map_err(failed)?;
        let launch = match &self.alone {
            Some(arguments) => Launch { arguments: arguments.clone(), group: None, is_alone: true },
            None => self.prepare_launch().await?,
        };
        if predecessor.is_none() {
            // Here once more, because an earlier process may have been alive until now.
            self.supervised.ports.renew()?;
        }
        let format = self.settings.log.format;
        let (process, handover, control) =
            RoleProcess::start(role, launch, channels, format).map_err(failed)?;
        match self.hand_over(handover, control, predecessor).await {
            // If the role has already exited, the caller's wait reports it.
            Err(error) if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                Err(failed(error))
            }
            _ => Ok(process),
        }
    }

    /// Prepares what the process of a role of `memgate up` needs.
    async fn prepare_launch(&self) -> Result<Launch, CliError> {
        // SQLite's last user may have removed them, and an unprivileged role can't make them.
        self.data.restore_log_files(&self.settings);
        let role = self.role();
        let mut arguments: Vec<OsString> =
            vec![role.name().into(), "--supervised".into(), "--data".into(), self.data.path().into()];
        let mut group = None;
        let users = self.common.system_users;
        let identity = users.and_then(|users| role.identity(&users));
        let user = users.and_then(|users| RoleUser::of(role, &users));
        if let (Some(identity), Some(user)) = (identity, user) {
            // It becomes that user itself, because only root can give up what root has.
            arguments.extend(["--run-as".into(), identity.to_string().into()]);
            let running = self.supervised.draining.iter().chain(&self.supervised.process);
            let kept = running.filter_map(|process| Some(process.group()?.folder().to_path_buf())).collect();
            let created = self.create_group(user, kept).await;
            group = created.map_err(|error| role_group::not_ended(role, &error))?;
        }
        Ok(Launch { arguments, group, is_alone: false })
    }
}

/// Stops all processes of a role, at the same time. Returns how the newest has ended, unless it drains.
pub(super) async fn stop_all(supervised: &mut SupervisedRole) -> Option<ExitStatus> {
    let (draining, newest) = (std::mem::take(&mut supervised.draining), supervised.process.take());
    draining.iter().chain(&newest).for_each(|process| process.signal(Signal::TERM));
    // Clients are refused from now on, and don't wait.
    supervised.ports.close();
    let stopping: JoinSet<Option<ExitStatus>> = draining.into_iter().map(stop).collect();
    let newest = async { stop(newest?).await };
    tokio::join!(newest, stopping.join_all()).0
}

/// Waits until a process ends that is told to stop, and kills it if it doesn't in time. Returns how it has ended.
async fn stop(mut process: RoleProcess) -> Option<ExitStatus> {
    let has_stopped = tokio::select! {
        ended = process.ended_or_hung() => matches!(ended, Ended::Exited(_)),
        () = tokio::time::sleep(STOP_TIMEOUT) => false,
    };
    if !has_stopped {
        tracing::warn!(role = process.role().name(), "role did not stop in time: killed it");
        process.kill().await;
    }
    process.finish_log().await;
    process.status()
}

/// Removes one of the draining processes once it has ended, and ends one that goes on for too long. Waits for ever if there is none.
async fn watch_draining(draining: &mut Vec<RoleProcess>, drain_seconds: u64) {
    let longest = Duration::from_secs(drain_seconds).saturating_add(STOP_TIMEOUT);
    // The oldest has drained for longest.
    let overdue = draining.first().map(|oldest| longest.saturating_sub(oldest.drains_for()));
    let ended = poll_fn(|context| {
        let ended = draining.iter_mut().position(|process| process.poll_exited(context));
        ended.map_or(Poll::Pending, Poll::Ready)
    });
    let at = tokio::select! {
        at = ended => at,
        () = tokio::time::sleep(overdue.unwrap_or(Duration::MAX)), if overdue.is_some() => 0,
    };
    let mut process = draining.remove(at);
    process.kill().await;
    tracing::info!(role = process.role().name(), pid = process.pid(), "a replaced process has ended");
    process.finish_log().await;
}
