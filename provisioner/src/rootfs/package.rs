//! The distribution's packages, by its own tools: download, unpack, and list what they depend on.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use crate::error::Error;

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

fn tool(program: &str) -> Command {
    daemon::host_tool(program).into()
}

/// Runs a tool and returns its output. The error holds the last line of its stderr.
async fn run(command: &mut Command) -> Result<String, Error> {
    let tool = command.as_std().get_program().to_string_lossy().into_owned();
    let output = command.env("LC_ALL", "C").stdin(Stdio::null()).kill_on_drop(true).output().await;
    let output = output.map_err(|error| {
        Error::Image(format!(
            "{tool} can't be run ({error}): build on Debian or Ubuntu, or set provisioner.image"
        ))
    })?;
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

    #[test]
    fn depends_field_is_parsed() {
        let depends = "adduser, perl:any, libc6 (>= 2.34), libevent-2.1-7 (>= 2.1.8-stable), \
                       libsasl2-2 | libsasl2-3, libssl3:any (>= 3.0.0)\n";
        assert_eq!(parse_depends(depends), ["libevent-2.1-7", "libsasl2-2", "libssl3"]);
        assert!(parse_depends("").is_empty());
    }
}
