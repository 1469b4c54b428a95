//! The process of a role: one that this program has started, or the one before it in the same process (`upgrade.rs`).

use std::ffi::OsString;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use daemon::fd_passing;
use daemon::telemetry::LogFormat;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use serde::{Deserialize, Serialize};
use store::{Timestamp, now};
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;

use super::role_group::RoleGroup;
use super::role_log::RoleLog;
use super::watchdog::Watchdog;
use crate::readable_file;
use crate::role::Role;
use crate::role::handover;

/// Where wait(2) has the exit code.
const EXIT_CODE_SHIFT: u32 = 8;

/// A role's process. Dropping it kills the process, and whatever that has started.
pub(super) struct RoleProcess {
    role: Role,
    pid: Pid,
    /// Names the process, also when it has ended and its id is another's.
    handle: AsyncFd<OwnedFd>,
    /// Through which it is told of its successor.
    control: AsyncFd<OwnedFd>,
    /// Its stdout and stderr, for the next program of this process.
    pipes: [OwnedFd; 2],
    watchdog: Watchdog<pipe::Receiver>,
    log: RoleLog,
    has_exited: bool,
    /// How it has exited, as far as the system says.
    status: Option<ExitStatus>,
    /// When a successor was started, in milliseconds since 1970.
    drains_since: Option<Timestamp>,
    /// Dropped last: whatever the role has started ends with it.
    group: Option<RoleGroup>,
}

/// What the next program of this process needs to know of a role's process, beside its files.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ProcessState {
    pid: i32,
    #[serde(default)]
    drains_since: Option<Timestamp>,
    group: Option<PathBuf>,
}

impl ProcessState {
    /// The folder of its control group.
    pub(super) fn group(&self) -> Option<PathBuf> {
        self.group.clone()
    }
}

/// What became of a process.
pub(super) enum Ended {
    Exited(io::Result<ExitStatus>),
    /// It has given no sign of life for this time.
    Hung(Duration),
}

/// How a role is started.
pub(super) struct Launch {
    /// Beginning with the subcommand.
    pub(super) arguments: Vec<OsString>,
    pub(super) group: Option<RoleGroup>,
    /// It is a proxy that runs alone: it gets this process's environment and stderr. Others get what [`Role::inherited_variables`]
    /// names, and their lines are copied.
    pub(super) is_alone: bool,
}

/// The ends of a role's channels that are its own.
pub(super) struct RoleEnds {
    control: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
    stdin: UnixStream,
}

/// The other ends.
pub(super) struct Channels {
    /// Takes what the role is handed first.
    pub(super) handover: UnixStream,
    control: OwnedFd,
    pipes: [OwnedFd; 2],
}

/// Makes the channels of a role that is about to be started.
///
/// # Errors
/// If the system refuses.
pub(super) fn channels() -> io::Result<(Channels, RoleEnds)> {
    let (handover, stdin) = UnixStream::pair()?;
    let (control, role_control) = fd_passing::message_pair()?;
    let ((signs, stdout), (lines, stderr)) = (io::pipe()?, io::pipe()?);
    let ours = Channels { handover, control, pipes: [signs.into(), lines.into()] };
    let its = RoleEnds { control: role_control, stdout: stdout.into(), stderr: stderr.into(), stdin };
    Ok((ours, its))
}

impl RoleProcess {
    /// Starts this same program as a role, even if its file was replaced or the role's user can't access it. Returns also what takes
    /// what the role is handed first, and its end of the control channel, which is a part of that.
    ///
    /// # Errors
    /// If the system refuses.
    pub(super) fn start(
        role: Role,
        launch: Launch,
        (channels, ends): (Channels, RoleEnds),
        format: LogFormat,
    ) -> io::Result<(Self, UnixStream, OwnedFd)> {
        let Channels { handover, control, pipes } = channels;
        let mut command = Command::new("/proc/self/exe");
        std::os::unix::process::CommandExt::arg0(&mut command, "memgate")
            .args(launch.arguments)
            .stdin(OwnedFd::from(ends.stdin))
            // For signs of life: the supervisor's own stdout carries the lines that scripts wait for.
            .stdout(Stdio::from(ends.stdout));
        if launch.is_alone {
            // Only this process speaks to the service manager.
            command.env_remove("NOTIFY_SOCKET");
        } else {
            command.stderr(Stdio::from(ends.stderr)).env_clear();
            for name in role.inherited_variables() {
                command.envs(std::env::var_os(name).map(|value| (name, value)));
            }
        }
        let child = command.spawn()?;
        // With its copies of the role's ends, so that a role that has ended is noticed.
        drop(command);
        let pid = Pid::from_child(&child);
        let process = Self::watch((role, pid), control, pipes, launch.group, format)?;
        if let Some(group) = &process.group {
            // Before it gets its settings, which it waits for.
            group.add(pid.as_raw_nonzero().get().unsigned_abs())?;
        }
        Ok((process, handover, ends.control))
    }

    /// Goes on watching the process that an earlier program of this process has started.
    ///
    /// # Errors
    /// If it is gone, or a file is missing.
    pub(super) fn resume(
        role: Role,
        state: &ProcessState,
        files: &mut impl Iterator<Item = OwnedFd>,
        group: Option<RoleGroup>,
        format: LogFormat,
    ) -> io::Result<Self> {
        let mut next = || files.next().ok_or(io::Error::from(io::ErrorKind::UnexpectedEof));
        let (control, pipes) = (next()?, [next()?, next()?]);
        let pid = Pid::from_raw(state.pid).ok_or(io::ErrorKind::InvalidData)?;
        let mut process = Self::watch((role, pid), control, pipes, group, format)?;
        process.watchdog.has_started();
        process.drains_since = state.drains_since;
        Ok(process)
    }

    fn watch(
        (role, pid): (Role, Pid),
        control: OwnedFd,
        pipes: [OwnedFd; 2],
        group: Option<RoleGroup>,
        format: LogFormat,
    ) -> io::Result<Self> {
        let handle = pidfd_open(pid, PidfdFlags::empty())?;
        let read = |pipe: &OwnedFd| pipe::Receiver::from_owned_fd(pipe.try_clone()?);
        let watchdog = Watchdog::new(Some(read(&pipes[0])?));
        let log = RoleLog::start(role.name(), format, read(&pipes[1])?);
        let (handle, control) = (readable_file::register(handle)?, readable_file::register(control)?);
        Ok(Self {
            role,
            pid,
            handle,
            control,
            pipes,
            watchdog,
            log,
            has_exited: false,
            status: None,
            drains_since: None,
            group,
        })
    }

    /// What [`RoleProcess::resume`] needs: this, and the files in this order.
    pub(super) fn state(&self) -> (ProcessState, [BorrowedFd<'_>; 3]) {
        let group = self.group.as_ref().map(|group| group.folder().to_path_buf());
        let state =
            ProcessState { pid: self.pid.as_raw_nonzero().get(), drains_since: self.drains_since, group };
        (state, [self.control.get_ref().as_fd(), self.pipes[0].as_fd(), self.pipes[1].as_fd()])
    }

    /// It drains from now on.
    pub(super) fn begin_drain(&mut self) {
        self.drains_since = Some(now());
    }

    /// It has drained for long enough.
    pub(super) fn end_drain(&mut self, drain: Duration) {
        self.drains_since = Some(now().saturating_sub(drain));
    }

    /// For how long it has drained.
    pub(super) fn drains_for(&self) -> Duration {
        self.drains_since.map_or(Duration::ZERO, |since| now().since(since))
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    pub(super) fn group(&self) -> Option<&RoleGroup> {
        self.group.as_ref()
    }

    /// Waits until it has ended or hangs. Cancel-safe.
    pub(super) async fn ended_or_hung(&mut self) -> Ended {
        let ended = tokio::select! {
            exited = poll_fn(|context| poll_wait(&self.handle, context)) => Ended::Exited(exited),
            silence = self.watchdog.hung() => Ended::Hung(silence),
        };
        if let Ended::Exited(exited) = &ended {
            self.has_exited = true;
            self.status = exited.as_ref().ok().copied();
        }
        ended
    }

    /// How it has ended; `None` if it hasn't, or the system doesn't say.
    pub(super) fn status(&self) -> Option<ExitStatus> {
        self.status
    }

    /// Whether it has ended; if not, the task is woken when it does.
    pub(super) fn poll_exited(&mut self, context: &mut Context<'_>) -> bool {
        self.has_exited |= poll_wait(&self.handle, context).is_ready();
        self.has_exited
    }

    /// Whether it has shown that it runs.
    pub(super) fn has_seen_sign(&self) -> bool {
        self.watchdog.has_seen_sign()
    }

    pub(super) fn signal(&self, signal: Signal) {
        if !self.has_exited {
            let _ = pidfd_send_signal(self.handle.as_fd(), signal);
        }
    }

    /// Kills it and waits for its end.
    pub(super) async fn kill(&mut self) {
        if !self.has_exited {
            // A stopped process obeys no other signal.
            self.signal(Signal::KILL);
            self.status = poll_fn(|context| poll_wait(&self.handle, context)).await.ok();
            self.has_exited = true;
        }
    }

    /// Tells it that a successor is about to take over, which is at the other end of a socket.
    ///
    /// # Errors
    /// If it has ended.
    pub(super) fn announce_successor(&self, socket: &OwnedFd) -> io::Result<()> {
        fd_passing::send(&self.control, handover::SUCCESSOR, Some(socket.as_fd()))
    }

    /// Waits until its successor has taken over.
    ///
    /// # Errors
    /// If it has ended before.
    pub(super) async fn taken_over(&self) -> io::Result<()> {
        loop {
            let mut ready = self.control.readable().await?;
            let mut message = [0; handover::TAKEN_OVER.len()];
            match fd_passing::receive_now(&self.control, &mut message)? {
                Some(received) if received.length == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                Some(_) if message == handover::TAKEN_OVER => return Ok(()),
                Some(_) => return Err(io::ErrorKind::InvalidData.into()),
                None => ready.clear_ready(),
            }
        }
    }

    /// Copies its last lines, once it has ended.
    pub(super) async fn finish_log(&mut self) {
        self.log.finish().await;
    }

    pub(super) fn role(&self) -> Role {
        self.role
    }
}

/// The status of a process once it has ended. One task waits for it.
fn poll_wait(handle: &AsyncFd<OwnedFd>, context: &mut Context<'_>) -> Poll<io::Result<ExitStatus>> {
    loop {
        let mut ready = ready!(handle.poll_read_ready(context))?;
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let Some(status) = waitid(WaitId::PidFd(handle.as_fd()), options)? else {
            ready.clear_ready();
            continue;
        };
        let exited = status.exit_status().map(|code| code << EXIT_CODE_SHIFT);
        let status = exited.or(status.terminating_signal()).unwrap_or_default();
        return Poll::Ready(Ok(ExitStatus::from_raw(status)));
    }
}

impl Drop for RoleProcess {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn end_of_a_process_is_told_as_it_was() {
        for (script, expected) in [("exit 3", "exit status: 3"), ("kill -9 $$", "signal: 9 (SIGKILL)")] {
            #[expect(clippy::zombie_processes, reason = "it is waited for by its descriptor")]
            let child = Command::new("sh").args(["-c", script]).spawn().unwrap();
            let ((ours, _ends), pid) = (channels().unwrap(), Pid::from_child(&child));
            let Channels { control, pipes, .. } = ours;
            let mut process =
                RoleProcess::watch((Role::Proxy, pid), control, pipes, None, LogFormat::Text).unwrap();
            let Ended::Exited(status) = process.ended_or_hung().await else { panic!("it hangs") };
            assert_eq!(status.unwrap().to_string(), expected);
        }
    }

    #[tokio::test]
    async fn process_that_is_dropped_is_killed() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let ((ours, _ends), pid) = (channels().unwrap(), Pid::from_child(&child));
        let Channels { control, pipes, .. } = ours;
        drop(RoleProcess::watch((Role::Proxy, pid), control, pipes, None, LogFormat::Text).unwrap());
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }
}
