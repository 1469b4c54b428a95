//! The system users that the proxy and the web UI run as when root starts them: unprivileged, outside
//! Docker's group, with one group that shares the store.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use rustix::process::{Gid, Uid};

use crate::output::CliError;

const GROUP: &str = "memgate";
const PROXY: &str = "memgate-proxy";
const WEBUI: &str = "memgate-webui";

/// Who the unprivileged roles run as.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SystemUsers {
    /// Shares the SQLite files, and may read the token key.
    pub(crate) group: Gid,
    /// May read the lane key too.
    pub(crate) proxy: Uid,
    /// May not.
    pub(crate) webui: Uid,
}

impl SystemUsers {
    /// Finds them, and makes what is missing, if we are root; `None` if not: then all roles run as we do.
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
    let make = [
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
    ensure("passwd", name, &make)
}

/// The numeric id of a user or group, made by `make` if it isn't there.
fn ensure(database: &str, name: &str, make: &[&str]) -> Result<u32, CliError> {
    if let Some(id) = look_up(database, name) {
        return Ok(id);
    }
    let fix = || format!("make it with `{}`", make.join(" "));
    let made = match make {
        [program, arguments @ ..] => Command::new(program).args(arguments).output(),
        [] => Err(std::io::Error::other("nothing to run")),
    };
    // Somebody else may have made it meanwhile: what counts is whether it is there.
    look_up(database, name).ok_or_else(|| {
        let why = match made {
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        CliError::new(format!("can't make the system account {name} ({why})"), fix())
    })
}

/// The third field of the entry, in both databases.
fn look_up(database: &str, name: &str) -> Option<u32> {
    let output = Command::new("getent").args([database, name]).output().ok()?;
    String::from_utf8(output.stdout).ok()?.split(':').nth(2)?.trim().parse().ok()
}
