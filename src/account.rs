//! The system users that the proxy and the web UI run as when root starts them: unprivileged, outside
//! Docker's group, with one group that shares the store.

use std::process::Command;

use rustix::process::{Gid, Uid};

use crate::report::Failure;

const GROUP: &str = "memgate";
const PROXY: &str = "memgate-proxy";
const WEBUI: &str = "memgate-webui";

/// Who the unprivileged roles run as.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Accounts {
    /// Shares the SQLite files, and may read the token key.
    pub(crate) group: Gid,
    /// May read the lane key too.
    pub(crate) proxy: Uid,
    /// May not.
    pub(crate) webui: Uid,
}

impl Accounts {
    /// Finds them, and makes what is missing, if we are root; `None` if not: then all roles run as we do.
    pub(crate) fn ensure() -> Result<Option<Self>, Failure> {
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

fn ensure_user(name: &str) -> Result<u32, Failure> {
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
fn ensure(database: &str, name: &str, make: &[&str]) -> Result<u32, Failure> {
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
        Failure::new(format!("can't make the system account {name} ({why})"), fix())
    })
}

/// The third field of the entry, in both databases.
fn look_up(database: &str, name: &str) -> Option<u32> {
    let output = Command::new("getent").args([database, name]).output().ok()?;
    String::from_utf8(output.stdout).ok()?.split(':').nth(2)?.trim().parse().ok()
}
