//! Other programs: Docker, `ip`, `nft`, SQLite and the rest, with their output.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use rustix::process::{Pid, Signal, kill_process};

use crate::error::LoadError;

/// Runs a program that must succeed, and returns its output without white space at the ends.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<String, LoadError> {
    let output = Command::new(program).args(arguments).output().map_err(|error| {
        LoadError::new(format!("can't run {program} ({error})"), "install it, and run this as root")
    })?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(LoadError::invalid_run(format!("{program} {}: {words}", arguments.join(" "))));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The socket of the Docker Engine that [`docker`] speaks to; the system's if there is none.
static DOCKER_SOCKET: Mutex<Option<PathBuf>> = Mutex::new(None);

pub(crate) fn use_docker(socket: Option<PathBuf>) {
    *DOCKER_SOCKET.lock().unwrap_or_else(PoisonError::into_inner) = socket;
}

pub(crate) fn docker(arguments: &[&str]) -> Result<String, LoadError> {
    let socket = DOCKER_SOCKET.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match socket {
        Some(socket) => {
            let host = format!("unix://{}", socket.display());
            run("docker", &[&["-H", &host], arguments].concat())
        }
        None => run("docker", arguments),
    }
}

pub(crate) fn signal(pid: u32, signal: Signal) -> Result<(), LoadError> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| LoadError::invalid_run("no process to send a signal to"))?;
    Ok(kill_process(pid, signal)?)
}
