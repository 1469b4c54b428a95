//! The unprivileged system users of the proxy and the web UI when root starts them. They share one group for
//! the store and are not in Docker's group.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use rustix::process::{Gid, Uid};

use crate::output::CliError;

const GROUP: &str = "memgate";
const PROXY: &str = "memgate-proxy";
const WEBUI: &str = "memgate-webui";

/// User and group ids of the unprivileged roles.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SystemUsers {
    /// Shares the SQLite files and may read the token key.
    pub(crate) group: Gid,
    /// May also read the lane key.
    pub(crate) proxy: Uid,
    /// May not read the lane key.
    pub(crate) webui: Uid,
}

impl SystemUsers {
    /// Looks up the users and creates missing ones. `None` without root: all roles then run as the current user.
    ///
    /// # Errors
    /// If a user or the group can't be created.
    pub(crate) fn ensure() -> Result<Option<Self>, CliError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let group = ensure("group", GROUP, &["groupadd", "--system", GROUP])?;
        Ok(Some(Self {
            group: Gid::from_raw(group),
            proxy: Uid::from_raw(ensure_user(PROXY)?),
            webui: Uid::from_raw(ensure_user(WEBUI)?),
        }))
    }
}

/// Sets owner, group and mode of a file or directory where they differ.
///
/// # Errors
/// If the file can't be read, or this process may not change it.
pub(crate) fn set_owner(
    path: &Path,
    owner: Option<Uid>,
    group: Option<Gid>,
    mode: u32,
) -> Result<(), CliError> {
    let failed = |error: std::io::Error| {
        CliError::new(
            format!("can't set the owner and mode of {} ({error})", path.display()),
            "run this as root, or as the user that owns the data",
        )
    };
    let meta = fs::metadata(path).map_err(failed)?;
    let same_owner = owner.is_none_or(|owner| owner.as_raw() == meta.uid());
    let same_group = group.is_none_or(|group| group.as_raw() == meta.gid());
    if !(same_owner && same_group) {
        rustix::fs::chown(path, owner, group).map_err(|error| failed(error.into()))?;
    }
    if meta.mode() & 0o7777 != mode || !(same_owner && same_group) {
        fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed)?;
    }
    Ok(())
}

fn ensure_user(name: &str) -> Result<u32, CliError> {
    let create = [
        "useradd",
        "--system",
        "--no-create-home",
        "--home-dir",
        "/nonexistent",
        "--shell",
        "/usr/sbin/nologin",
        "--gid",
        GROUP,
        name,
    ];
    ensure("passwd", name, &create)
}

/// The numeric id of a user or group, which the command `create` creates if it doesn't exist.
fn ensure(database: &str, name: &str, create: &[&str]) -> Result<u32, CliError> {
    if let Some(id) = look_up(database, name) {
        return Ok(id);
    }
    let fix = || format!("create it with `{}`", create.join(" "));
    let created = match create {
        [program, arguments @ ..] => Command::new(program).args(arguments).output(),
        [] => Err(std::io::Error::other("no command")),
    };
    // Another process may have created it in the meantime: only its existence counts.
    look_up(database, name).ok_or_else(|| {
        let reason = match created {
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        CliError::new(format!("can't create the system user {name} ({reason})"), fix())
    })
}

/// The third field of the entry, in both databases.
fn look_up(database: &str, name: &str) -> Option<u32> {
    let output = Command::new("getent").args([database, name]).output().ok()?;
    String::from_utf8(output.stdout).ok()?.split(':').nth(2)?.trim().parse().ok()
}
