//! The distribution's packages, by its own tools: download, unpack, and list what they depend on.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Command;
use tokio::time::timeout;

use crate::error::Error;

/// How long a tool may take: the longest downloads package lists over a slow line.
const TOOL_TIMEOUT: Duration = Duration::from_mins(10);
/// What a tool gets of this process's environment: how the internet is reached.
const INHERITED: [&str; 6] =
    ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];
/// What a shell and `setsid` exit with if there is no such program.
const NO_PROGRAM: i32 = 127;

/// Packages downloaded and unpacked in a temporary folder.
#[derive(Debug)]
pub(crate) struct Packages {
    downloads: PathBuf,
    root: PathBuf,
}

impl Packages {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { downloads: dir.join("packages"), root: dir.join("root") }
    }

    /// The folder that all packages are unpacked into.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Downloads and unpacks a package, and returns its version.
    pub(crate) async fn unpack(&self, package: &str) -> Result<String, Error> {
        if self.download(package).await.is_err() {
            // A fresh machine has no package lists yet. If they can't be fetched, apt's error is the useful one.
            let updated = run(tool("apt-get").args(["-qq", "update"])).await;
            self.download(package).await.map_err(|error| updated.err().unwrap_or(error))?;
        }
        let deb = self.deb(package)?;
        run(tool("dpkg-deb").arg("-x").arg(&deb).arg(&self.root)).await?;
        let version = run(tool("dpkg-deb").arg("-f").arg(&deb).arg("Version")).await?;
        Ok(version.trim().to_owned())
    }

    /// The library packages that a downloaded package depends on, without the C library: the host has it.
    pub(crate) async fn libraries_of(&self, package: &str) -> Result<Vec<String>, Error> {
        let deb = self.deb(package)?;
        let depends = run(tool("dpkg-deb").arg("-f").arg(deb).arg("Depends")).await?;
        Ok(parse_depends(&depends))
    }

    async fn download(&self, package: &str) -> Result<(), Error> {
        let folder = self.downloads.join(package);
        std::fs::create_dir_all(&folder)
            .map_err(|error| Error::Image(format!("{error}: check the temporary folder")))?;
        // Run as root, apt switches to a user that can't write here, and warns.
        let unsandboxed = ["-o", "APT::Sandbox::User=root"];
        run(tool("apt-get").arg("-qq").args(unsandboxed).args(["download", package]).current_dir(folder))
            .await
            .map(drop)
    }

    fn deb(&self, package: &str) -> Result<PathBuf, Error> {
        let entries = std::fs::read_dir(self.downloads.join(package)).into_iter().flatten().flatten();
        let mut files = entries.map(|entry| entry.path());
        files.find(|path| path.extension() == Some(OsStr::new("deb"))).ok_or_else(|| {
            Error::Image(format!("the package {package} wasn't downloaded: see `apt-get update`"))
        })
    }
}

/// A tool in a session of its own, without this process's terminal, which it could type into, and environment, which may hold
/// secrets: it reads files that others have made.
fn tool(program: &str) -> Command {
    let mut command = Command::from(daemon::host_tool("setsid"));
    let path = command.as_std().get_envs().find(|(name, _)| *name == "PATH").and_then(|(_, path)| path);
    let path = path.map(OsStr::to_owned).or_else(|| env::var_os("PATH"));
    let inherited = INHERITED.iter().filter_map(|name| Some((*name, env::var_os(name)?)));
    command.env_clear().envs(path.map(|path| ("PATH", path))).envs(inherited).env("LC_ALL", "C");
    command.args(["--wait", program]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.kill_on_drop(true);
    command
}

async fn run(command: &mut Command) -> Result<String, Error> {
    run_within(TOOL_TIMEOUT, command).await
}

/// Runs a tool and returns its output. The error holds the last line of its stderr.
async fn run_within(limit: Duration, command: &mut Command) -> Result<String, Error> {
    // After `setsid --wait`.
    let tool = command.as_std().get_args().nth(1).unwrap_or_default().to_string_lossy().into_owned();
    let missing = |why: String| {
        Error::Image(format!(
            "{tool} can't be run ({why}): build on Debian or Ubuntu, or set provisioner.image"
        ))
    };
    let child = command.spawn().map_err(|error| missing(error.to_string()))?;
    let group = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    let mut output = pin!(child.wait_with_output());
    let Ok(output) = timeout(limit, &mut output).await else {
        // With what it has started itself.
        let _ = group.map(|group| kill_process_group(group, Signal::KILL));
        let why = format!("{tool} took longer than {} s: check the network, and try again", limit.as_secs());
        return Err(Error::Image(why));
    };
    let output = output.map_err(|error| missing(error.to_string()))?;
    if output.status.code() == Some(NO_PROGRAM) {
        return Err(missing("there is no such program".into()));
    }
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let last = stderr.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no message").to_owned();
    Err(Error::Image(format!("{tool} failed: {last}")))
}

/// The libraries in a package's `Depends` field: the first of each alternative.
fn parse_depends(depends: &str) -> Vec<String> {
    let first = |choice: &str| choice.split(['|', '(', ':', ' ']).find(|w| !w.is_empty()).map(str::to_owned);
    depends
        .trim()
        .split(',')
        .filter_map(|choice| first(choice.trim()))
        .filter(|package| package.starts_with("lib") && package != "libc6")
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    //
    #[tokio::test]
    async fn tools_get_neither_terminal_nor_environment() {
        assert!(env::var_os("CARGO_MANIFEST_DIR").is_some(), "something that must not be inherited");
        let script = "read -r _ _ _ _ _ session terminal _ </proc/self/stat; echo $$ $session $terminal; env";
        let output = run(tool("sh").args(["-c", script])).await.unwrap();
        let (head, environment) = output.split_once('\n').unwrap();
        let head: Vec<&str> = head.split(' ').collect();
        assert_eq!((head[0], head[2]), (head[1], "0"), "leads its session, which has no terminal");
        let names = environment.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name);
        let known = ["PATH", "LC_ALL", "PWD", "OLDPWD", "SHLVL", "_"];
        let others: Vec<_> = names.filter(|it| !known.contains(it) && !INHERITED.contains(it)).collect();
        assert!(others.is_empty(), "{others:?}");
    }

    //
    #[tokio::test]
    async fn tools_that_do_not_end_are_ended() {
        let dir = tempfile::tempdir().unwrap();
        let script = "sleep 1000 & echo $! >started; wait";
        let mut endless = tool("sh");
        endless.args(["-c", script]).current_dir(dir.path());
        let error = run_within(Duration::from_secs(1), &mut endless).await.unwrap_err().to_string();
        assert!(error.contains("sh took longer than 1 s"), "{error}");
        let started = std::fs::read_to_string(dir.path().join("started")).unwrap();
        let stat = format!("/proc/{}/stat", started.trim());
        let runs = || std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
        let ended = async {
            while runs() {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(10), ended).await.unwrap();
        let error = run(&mut tool("no-such-tool")).await.unwrap_err().to_string();
        assert!(error.contains("no-such-tool can't be run (there is no such program)"), "{error}");
    }

    #[test]
    fn depends_field_is_parsed() {
        let depends = "adduser, perl:any, libc6 (>= 2.34), libevent-2.1-7 (>= 2.1.8-stable), \
                       libsasl2-2 | libsasl2-3, libssl3:any (>= 3.0.0)\n";
        assert_eq!(parse_depends(depends), ["libevent-2.1-7", "libsasl2-2", "libssl3"]);
        assert!(parse_depends("").is_empty());
    }
}
