//! An upgrade: the program on disk goes on in the place of this one, in the same process (execve), so that the service manager
//! and the lock still know it, and the roles' processes stay its children. It gets open files through a socket in the place of
//! stdin: the lock, the ports and the channels of the roles. Then it replaces the roles, one by one. A proxy that runs alone
//! does the same (`lone_proxy.rs`), without a lock.
//!
//! The program is first asked whether it could work with the settings and the store as they are (`--check`). If it fails all the
//! same before it replaces the roles, the program before it goes on again.

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use daemon::fd_passing;
use daemon::telemetry::LogFormat;
use nix::sys::signal::{SigSet, Signal};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::listeners::{PortScope, RoleListeners, RolePortState};
use super::role_group::RoleGroup;
use super::role_process::{ProcessState, RoleProcess};
use super::supervised::SupervisedRole;
use super::user_manager::RoleUser;
use crate::output::{CliError, escape_controls};
use crate::role::Role;
use crate::settings::Settings;
use crate::system_users::SystemUsers;

/// The option with which the program goes on.
const RESUME: &str = "--resume";
/// The option with which it is asked whether it could.
const CHECK: &str = "--check";
/// How long its answer may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(60);
const CHUNK: usize = 8 << 10;
/// Bytes of the state at most: a few hundred for each process.
const STATE_MAX: usize = 128 << 10;
const OTHERS_MAY_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// The program that runs, and how it was started.
pub(super) struct Program {
    /// Where its successor is found.
    path: PathBuf,
    /// Its own file, which may have been replaced since.
    file: File,
    /// The directory in which it was started: its arguments may name files there.
    directory: File,
    arguments: Vec<OsString>,
}

/// What the program before this one in the process has left.
pub(super) struct Inherited {
    state: State,
    files: std::vec::IntoIter<OwnedFd>,
    /// `memgate up` has one.
    lock: Option<File>,
    /// The file of that program.
    previous: File,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct State {
    /// The version of the program before.
    version: String,
    program: PathBuf,
    installation: String,
    has_lock: bool,
    /// Why the program after this one has given up, if it has.
    failure: Option<String>,
    /// The settings of the program before, which it takes back if the next one gives up: the file may be another by then.
    settings: Value,
    ports: Vec<RolePortState>,
    roles: Vec<RoleState>,
}

#[derive(Debug, Serialize, Deserialize)]
struct RoleState {
    role: String,
    is_draining: bool,
    process: ProcessState,
}

/// Starts a program, or with `resume` goes on where the one before it in the same process has left off. If it can't before it has
/// taken anything over, that one goes on again.
///
/// # Errors
/// If `start` fails, or there is nothing to go on with.
pub(super) fn start_or_resume<T>(
    resume: bool,
    start: impl FnOnce(Rc<Program>, &mut Option<Inherited>) -> Result<T, CliError>,
) -> Result<T, CliError> {
    let failed = |error: io::Error| CliError::new(error.to_string(), "check the system's limits");
    block_signals().map_err(failed)?;
    let mut inherited = resume.then(Inherited::receive).transpose()?;
    let program = Rc::new(Program::current(inherited.as_ref()).map_err(failed)?);
    let result = start(program.clone(), &mut inherited);
    match (result, inherited) {
        (Err(error), Some(inherited)) if inherited.failure().is_none() => {
            Err(program.restore(inherited, &error))
        }
        (result, _) => result,
    }
}

impl Program {
    /// The program that runs in this process. Call it before the current directory changes.
    ///
    /// # Errors
    /// If the system can't tell.
    fn current(inherited: Option<&Inherited>) -> io::Result<Self> {
        let path = match inherited {
            Some(inherited) => inherited.state.program.clone(),
            None => std::env::current_exe()?,
        };
        let arguments = std::env::args_os().filter(|argument| argument != RESUME).collect();
        Ok(Self { path, file: File::open("/proc/self/exe")?, directory: File::open(".")?, arguments })
    }

    /// How it was started, without its own name.
    pub(super) fn arguments(&self) -> &[OsString] {
        self.arguments.get(1..).unwrap_or_default()
    }

    /// Checks that the program on disk may be trusted, and could go on. Returns its version.
    ///
    /// # Errors
    /// Why not. Nothing has changed.
    pub(super) async fn check(&self) -> Result<String, CliError> {
        self.require_trusted()?;
        let mut command = Command::new(&self.path);
        command.args(self.arguments()).arg(CHECK);
        command.current_dir(self.directory_path()).stdin(Stdio::null());
        let mut command = tokio::process::Command::from(command);
        let output = tokio::time::timeout(CHECK_TIMEOUT, command.kill_on_drop(true).output()).await;
        let fix = "mend that, then try again: nothing has changed";
        let failed =
            |what: String| CliError::new(format!("{} can't take over ({what})", self.path.display()), fix);
        let output = match output {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Err(_) => return Err(failed(format!("no answer within {CHECK_TIMEOUT:?}"))),
        };
        let text = |bytes: &[u8]| escape_controls(String::from_utf8_lossy(bytes).trim()).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(failed(text(&output.stderr))) }
    }

    /// Whether the file on disk is still the program that runs.
    pub(super) fn is_on_disk(&self) -> bool {
        let on_disk = std::fs::metadata(&self.path).map(|meta| (meta.dev(), meta.ino()));
        let own = self.file.metadata().map(|meta| (meta.dev(), meta.ino()));
        on_disk.is_ok_and(|on_disk| own.is_ok_and(|own| own == on_disk))
    }

    /// Refuses a program that others than this user and root may change, or put another in the place of.
    fn require_trusted(&self) -> Result<(), CliError> {
        let path = std::fs::canonicalize(&self.path).map_err(|error| {
            let what = format!("can't find the new program {} ({error})", self.path.display());
            CliError::new(what, "install it there")
        })?;
        let user = rustix::process::geteuid().as_raw();
        for (level, part) in path.ancestors().enumerate() {
            let meta = std::fs::metadata(part)
                .map_err(|error| CliError::new(error.to_string(), "check that folder"))?;
            // Nobody removes others' files there.
            let is_sticky = level > 1 && meta.mode() & STICKY != 0;
            let may_write = meta.mode() & OTHERS_MAY_WRITE != 0 && !is_sticky;
            if may_write || ![0, user].contains(&meta.uid()) {
                let what = format!("can't trust {}, because others may change it", part.display());
                return Err(CliError::new(
                    what,
                    "install the program where only root may write, as in /usr/local/bin",
                ));
            }
        }
        Ok(())
    }

    fn directory_path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.directory.as_raw_fd()).into()
    }

    /// Lets the program on disk go on in this process. Returns only if that fails.
    pub(super) fn replace(
        &self,
        lock: Option<&File>,
        installation: &str,
        settings: &Settings,
        supervised: &[SupervisedRole],
    ) -> CliError {
        match State::of(self, settings, supervised) {
            Ok(state) => {
                let state =
                    State { installation: installation.to_owned(), has_lock: lock.is_some(), ..state };
                self.exec(&self.path, &state, lock, files_of(supervised))
            }
            Err(error) => CliError::new(error.to_string(), "report this bug"),
        }
    }

    /// Lets the program before this one go on again, because this one can't. Returns only if that fails.
    fn restore(&self, inherited: Inherited, failure: &CliError) -> CliError {
        let Inherited { state, files, lock, previous } = inherited;
        let state = State { failure: Some(failure.to_string()), ..state };
        let path = PathBuf::from(format!("/proc/self/fd/{}", previous.as_raw_fd()));
        self.exec(&path, &state, lock.as_ref(), files.as_slice().iter().map(AsFd::as_fd))
    }

    fn exec<'a>(
        &'a self,
        path: &Path,
        state: &State,
        lock: Option<&'a File>,
        files: impl Iterator<Item = BorrowedFd<'a>>,
    ) -> CliError {
        let files = [self.file.as_fd()].into_iter().chain(lock.map(AsFd::as_fd)).chain(files);
        let current = File::open(".");
        let result = pass(state, files).and_then(|()| -> io::Result<Infallible> {
            rustix::process::fchdir(&self.directory)?;
            // Until the next program handles them. It gets the set of blocked signals.
            block_signals()?;
            let arguments = self.arguments.iter().map(OsString::as_os_str).chain([RESUME.as_ref()]);
            let arguments = arguments.map(|it| CString::new(it.as_bytes())).collect::<Result<Vec<_>, _>>()?;
            let variables = std::env::vars_os()
                .map(|(name, value)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()));
            let variables = variables.collect::<Result<Vec<_>, _>>()?;
            let path = CString::new(path.as_os_str().as_bytes())?;
            Ok(nix::unistd::execve(&path, &arguments, &variables)?)
        });
        let Err(error) = result;
        let _ = current.and_then(|current| Ok(rustix::process::fchdir(current)?));
        let _ = unblock_signals();
        // With duplicates of everything.
        let _ = File::open("/dev/null").and_then(|null| Ok(rustix::stdio::dup2_stdin(null)?));
        CliError::new(format!("can't start {} ({error})", path.display()), "install the program again")
    }
}

/// Keeps signals from arriving before they are handled: some would end the process.
///
/// # Errors
/// If the system refuses.
fn block_signals() -> io::Result<()> {
    Ok(handled_signals().thread_block()?)
}

/// From now on signals arrive that were blocked.
///
/// # Errors
/// If the system refuses.
pub(super) fn unblock_signals() -> io::Result<()> {
    Ok(handled_signals().thread_unblock()?)
}

fn handled_signals() -> SigSet {
    [Signal::SIGHUP, Signal::SIGUSR2, Signal::SIGTERM, Signal::SIGINT].into_iter().collect()
}

/// Puts files and a state where the next program of this process finds them: in the place of stdin.
fn pass<'a>(state: &State, files: impl Iterator<Item = BorrowedFd<'a>>) -> io::Result<()> {
    let (mut near, far) = UnixStream::pair()?;
    // Nobody reads before: what doesn't fit into the socket would wait for ever.
    near.set_nonblocking(true)?;
    for file in files {
        fd_passing::send(&near, b" ", Some(file))?;
    }
    near.write_all(&serde_json::to_vec(state)?)?;
    near.shutdown(Shutdown::Write)?;
    rustix::stdio::dup2_stdin(&far)?;
    Ok(())
}

/// The files of roles, in the order of their states.
fn files_of(supervised: &[SupervisedRole]) -> impl Iterator<Item = BorrowedFd<'_>> {
    let ports = supervised.iter().flat_map(|role| role.ports.states().1);
    ports.chain(
        supervised.iter().flat_map(SupervisedRole::processes).flat_map(|(process, _)| process.state().1),
    )
}

impl State {
    fn of(program: &Program, settings: &Settings, supervised: &[SupervisedRole]) -> serde_json::Result<Self> {
        let processes = supervised.iter().flat_map(SupervisedRole::processes);
        Ok(Self {
            version: env!("BUILD_VERSION").to_owned(),
            program: program.path.clone(),
            settings: serde_json::to_value(settings)?,
            ports: supervised.iter().flat_map(|role| role.ports.states().0).collect(),
            roles: processes
                .map(|(process, is_draining)| RoleState {
                    role: process.role().name().to_owned(),
                    is_draining,
                    process: process.state().0,
                })
                .collect(),
            ..Self::default()
        })
    }
}

impl Inherited {
    /// Takes what the program before this one has put in the place of stdin.
    ///
    /// # Errors
    /// If there is nothing, or something else.
    fn receive() -> Result<Self, CliError> {
        let received = receive_all(rustix::stdio::stdin()).and_then(|(text, files)| {
            rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
            let state: State = serde_json::from_slice(&text)?;
            let mut files = files.into_iter();
            let mut file = || files.next().ok_or(io::Error::from(io::ErrorKind::UnexpectedEof));
            let previous = file()?.into();
            let lock = if state.has_lock { Some(file()?.into()) } else { None };
            Ok(Self { state, files, lock, previous })
        });
        received.map_err(|error| {
            let what = format!("{RESUME} is for upgrades, and stdin holds nothing of one ({error})");
            CliError::new(what, "leave it out")
        })
    }

    /// The version of the program before this one.
    pub(super) fn version(&self) -> &str {
        &self.state.version
    }

    /// The installation's id.
    pub(super) fn installation(&self) -> &str {
        &self.state.installation
    }

    /// The lock of the data directory.
    ///
    /// # Errors
    /// If the program before had none.
    pub(super) fn lock(&self) -> Result<&File, CliError> {
        self.lock.as_ref().ok_or_else(|| CliError::new("the lock is missing", "report this bug"))
    }

    /// Why the program after this one has given up, if it has.
    pub(super) fn failure(&self) -> Option<&str> {
        self.state.failure.as_deref()
    }

    /// The settings that this program had, if the one after it has given up.
    ///
    /// # Errors
    /// If they can't be read.
    pub(super) fn own_settings(&self) -> Result<Option<Settings>, CliError> {
        if self.state.failure.is_none() {
            return Ok(None);
        }
        let settings = serde_json::from_value(self.state.settings.clone());
        settings.map(Some).map_err(|error| CliError::new(error.to_string(), "report this bug"))
    }

    /// The ports and processes.
    ///
    /// # Errors
    /// If a port of the settings can't be bound, or a process can't be watched.
    pub(super) fn into_roles(
        self,
        scope: PortScope,
        settings: &Settings,
        system_users: Option<&SystemUsers>,
    ) -> Result<Vec<SupervisedRole>, CliError> {
        let Self { state, mut files, .. } = self;
        let listeners = RoleListeners::resume(scope, settings, state.ports, &mut files)?;
        let mut supervised = SupervisedRole::all_new(listeners);
        for RoleState { role, is_draining, process } in state.roles {
            let Some(role) = Role::ALL.into_iter().find(|it| it.name() == role) else { continue };
            let user = system_users.and_then(|users| RoleUser::of(role, users));
            let group = process.group().zip(user).map(|(folder, user)| RoleGroup::resume(folder, user));
            let format: LogFormat = settings.log.format;
            let process =
                RoleProcess::resume(role, &process, &mut files, group, format).map_err(|error| {
                    let what = format!("can't go on with the process of the {} ({error})", role.name());
                    CliError::new(what, "report this bug")
                })?;
            let Some(its) = supervised.iter_mut().find(|it| it.role == role) else { continue };
            if is_draining {
                its.draining.push(process);
            } else {
                its.process = Some(process);
                its.is_outdated = state.failure.is_none();
            }
        }
        Ok(supervised)
    }
}

fn receive_all(from: impl AsFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let (mut text, mut files, mut chunk) = (Vec::new(), Vec::new(), [0; CHUNK]);
    loop {
        let received = fd_passing::receive(from.as_fd(), &mut chunk)?;
        files.extend(received.file);
        if received.length == 0 {
            return Ok((text, files));
        }
        text.extend_from_slice(&chunk[..received.length]);
        if text.len() > STATE_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    // F-38.
    #[test]
    fn state_and_files_arrive_in_their_order() {
        let (near, far) = UnixStream::pair().unwrap();
        let pipes: Vec<_> = (0..40).map(|_| io::pipe().unwrap()).collect();
        for (reader, _) in &pipes {
            fd_passing::send(&near, b" ", Some(reader.as_fd())).unwrap();
        }
        let state = State { version: "1".into(), failure: Some("x".repeat(2 * CHUNK)), ..State::default() };
        (&near).write_all(&serde_json::to_vec(&state).unwrap()).unwrap();
        drop(near);
        let (text, files) = receive_all(&far).unwrap();
        let received: State = serde_json::from_slice(&text).unwrap();
        assert_eq!((received.version, received.failure), (state.version, state.failure));
        assert_eq!(files.len(), pipes.len());
        for (at, (file, (_, mut writer))) in files.into_iter().zip(pipes).enumerate() {
            writer.write_all(&[u8::try_from(at).unwrap()]).unwrap();
            let mut byte = [0];
            File::from(file).read_exact(&mut byte).unwrap();
            assert_eq!(usize::from(byte[0]), at);
        }
    }
}
