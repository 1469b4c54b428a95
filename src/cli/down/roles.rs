//! Roles of this installation that run on this machine without `memgate up`. They are stopped before their containers are
//! removed: a provisioner would create everything again.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal};
use store::LeaderLock;

use crate::cli::up::port_check;
use crate::data_dir::DataDir;
use crate::health_check;
use crate::output::CliError;
use crate::role::Role;
use crate::settings::Settings;
use crate::system_users;

/// A proxy finishes what its clients read, for half a minute at most.
const STOP_TIMEOUT: Duration = Duration::from_secs(35);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// For a provisioner that has just been stopped.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// Stops the roles of an installation, and returns what they are.
///
/// # Errors
/// If one doesn't stop.
pub(super) async fn stop(settings: &Settings, installation: &str) -> Result<Vec<String>, CliError> {
    let mut stopped = Vec::new();
    for role in Role::ALL {
        let Some((pid, process)) = find(role, settings, installation).await? else { continue };
        let what = format!("{} (process {pid})", role.name());
        let fix = || format!("stop process {pid} yourself, then retry");
        rustix::process::pidfd_send_signal(&process, Signal::TERM)
            .map_err(|error| CliError::new(format!("can't stop the {what} ({error})"), fix()))?;
        let started = Instant::now();
        while runs(pid) {
            if started.elapsed() > STOP_TIMEOUT {
                return Err(CliError::new(format!("the {what} did not stop in time"), fix()));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        stopped.push(what);
    }
    Ok(stopped)
}

/// The name of a role of this installation that runs on this machine without `memgate up`, if one does.
///
/// # Errors
/// If a role's user can't be looked up.
pub(in crate::cli) async fn running(
    settings: &Settings,
    installation: &str,
) -> Result<Option<&'static str>, CliError> {
    for role in Role::ALL {
        if find(role, settings, installation).await?.is_some() {
            return Ok(Some(role.name()));
        }
    }
    Ok(None)
}

/// Takes the lock of the provisioner that leads, so that none does while its containers are removed. `None` if the store has
/// a `problem` and its lock can't be used: then no provisioner takes it either.
///
/// # Errors
/// If another process keeps it.
pub(super) async fn keep_provisioners_away(
    settings: &Settings,
    data_dir: &DataDir,
    problem: Option<&CliError>,
) -> Result<Option<LeaderLock>, CliError> {
    let started = Instant::now();
    loop {
        match data_dir.try_leader_lock(settings).await {
            Ok(Some(lock)) => return Ok(Some(lock)),
            Ok(None) => {}
            Err(_) if problem.is_some() => return Ok(None),
            Err(error) => return Err(error),
        }
        if started.elapsed() > LOCK_TIMEOUT {
            return Err(CliError::new(
                "a provisioner of this installation runs, and would create everything again",
                "stop it (`memgate provisioner`, perhaps as a service or on another machine), then retry",
            ));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// The process of a role of this installation. The role says so itself, but root signals only a process that listens with a
/// socket of the role's user, and runs memgate as that user: anybody's program may answer with any number, and pass its socket
/// to any process.
///
/// # Errors
/// If the role's user can't be looked up.
async fn find(
    role: Role,
    settings: &Settings,
    installation: &str,
) -> Result<Option<(u32, OwnedFd)>, CliError> {
    let address = role.health(settings);
    let Ok(report) = health_check::ask(address).await else { return Ok(None) };
    if health_check::foreign(&report, role, installation).is_some() {
        return Ok(None);
    }
    let mut users = vec![rustix::process::geteuid().as_raw()];
    if let (true, Some(name)) = (users == [0], role.user_name()) {
        users.extend(system_users::user_id(name)?);
    }
    let pid = report.process.pid;
    // What is opened here stays the same process, also if another has its id later.
    let opened = i32::try_from(pid).ok().and_then(|pid| open_process(pid, &users).ok());
    Ok(opened.filter(|_| port_check::listens(pid, address, &users)).map(|process| (pid, process)))
}

/// Opens a process that runs this program as one of these users: what has its id later is another one.
///
/// # Errors
/// If there is no such process.
pub(super) fn open_process(pid: i32, users: &[u32]) -> std::io::Result<OwnedFd> {
    let no_process = || std::io::Error::other(format!("process {pid} isn't memgate"));
    let process = Pid::from_raw(pid).ok_or_else(no_process)?;
    let opened = rustix::process::pidfd_open(process, PidfdFlags::empty())?;
    // Looked at after it was opened: then it was that one.
    if runs_memgate(pid.unsigned_abs(), users) { Ok(opened) } else { Err(no_process()) }
}

/// Whether a process runs this program, perhaps another version of it, as one of these users.
fn runs_memgate(pid: u32, users: &[u32]) -> bool {
    let name = |process: &str| {
        let program = std::fs::read_link(format!("/proc/{process}/exe")).ok()?;
        let name = program.file_name()?.to_str()?.to_owned();
        Some(name.trim_end_matches(" (deleted)").to_owned())
    };
    let user = std::fs::metadata(format!("/proc/{pid}")).map(|process| process.uid());
    let own = name("self");
    user.is_ok_and(|user| users.contains(&user)) && own.is_some() && name(&pid.to_string()) == own
}

/// Whether the process hasn't ended. One that has stays known until its parent takes note.
fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, fields)| !fields.starts_with(['Z', 'X']))
}
