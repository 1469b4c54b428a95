//! The unprivileged system users of the proxy and the web UI when root starts them. They share one group for
//! the store, the proxy has another for its keys, and neither is in Docker's group.

use std::sync::OnceLock;

use rustix::process::{Gid, Uid};

use crate::output::CliError;

const GROUP: &str = "memgate";
pub(crate) const PROXY: &str = "memgate-proxy";
pub(crate) const WEBUI: &str = "memgate-webui";
/// The group that may read what only the proxy may: the lane key and the key of the server certificate.
const PROXY_GROUP: &str = "memgate-proxy";
/// Prints entries of the databases of users and groups, wherever the system keeps them.
const GETENT: &str = "getent";
/// Its exit status if one of the names has no entry.
const NOT_FOUND: i32 = 2;

/// User and group ids of the unprivileged roles.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SystemUsers {
    /// Shares the SQLite files and may read the token key.
    pub(crate) group: Gid,
    /// May also read the lane key.
    pub(crate) proxy_group: Gid,
    pub(crate) proxy: Uid,
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
        let proxy_group = ensure("group", PROXY_GROUP, &["groupadd", "--system", PROXY_GROUP])?;
        Ok(Some(Self {
            group: Gid::from_raw(group),
            proxy_group: Gid::from_raw(proxy_group),
            proxy: Uid::from_raw(ensure_user(PROXY, &["--groups", PROXY_GROUP])?),
            webui: Uid::from_raw(ensure_user(WEBUI, &[])?),
        }))
    }
}

/// The ids of unprivileged roles, as far as they exist: what they may write, root doesn't trust. Empty without root.
#[derive(Debug, Default)]
pub(crate) struct RoleIds {
    pub(crate) users: Vec<u32>,
    pub(crate) groups: Vec<u32>,
}

impl RoleIds {
    /// Looks them up once in a process.
    ///
    /// # Errors
    /// If they can't be looked up: nobody knows then whom not to trust.
    pub(crate) fn get() -> Result<&'static Self, CliError> {
        static IDS: OnceLock<RoleIds> = OnceLock::new();
        if let Some(ids) = IDS.get() {
            return Ok(ids);
        }
        let ids = if rustix::process::geteuid().is_root() {
            let users = look_up(GETENT, "passwd", &[PROXY, WEBUI])?;
            Self { users, groups: look_up(GETENT, "group", &[GROUP, PROXY_GROUP])? }
        } else {
            Self::default()
        };
        Ok(IDS.get_or_init(|| ids))
    }
}

/// The id of a user who may not exist yet.
///
/// # Errors
/// If that can't be looked up.
pub(crate) fn user_id(name: &str) -> Result<Option<u32>, CliError> {
    Ok(look_up(GETENT, "passwd", &[name])?.first().copied())
}

fn ensure_user(name: &str, options: &[&str]) -> Result<u32, CliError> {
    let mut create = vec!["useradd", "--system", "--no-create-home", "--home-dir", "/nonexistent"];
    create.extend(["--shell", "/usr/sbin/nologin", "--gid", GROUP]);
    create.extend(options);
    create.push(name);
    ensure("passwd", name, &create)
}

/// The numeric id of a user or group, which the command `create` creates if it doesn't exist.
fn ensure(database: &str, name: &str, create: &[&str]) -> Result<u32, CliError> {
    if let Some(id) = look_up(GETENT, database, &[name])?.first() {
        return Ok(*id);
    }
    let fix = || format!("create it with `{}`", create.join(" "));
    let created = match create {
        [program, arguments @ ..] => daemon::host_tool(program).args(arguments).output(),
        [] => Err(std::io::Error::other("no command")),
    };
    // Another process may have created it in the meantime: only its existence counts.
    look_up(GETENT, database, &[name])?.first().copied().ok_or_else(|| {
        let reason = match created {
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        CliError::new(format!("can't create the system user or group {name} ({reason})"), fix())
    })
}

/// The ids of the entries that exist. In both databases they are the third field.
///
/// # Errors
/// If the databases can't be read: that isn't the same as a missing entry.
fn look_up(getent: &str, database: &str, names: &[&str]) -> Result<Vec<u32>, CliError> {
    let failed = |reason: String| {
        let what = format!("can't look up {} in the database {database} ({reason})", names.join(" and "));
        CliError::new(what, format!("check that `{getent} {database}` lists its entries"))
    };
    let output = daemon::host_tool(getent).arg(database).args(names).output();
    let output = output.map_err(|error| failed(error.to_string()))?;
    if !output.status.success() && output.status.code() != Some(NOT_FOUND) {
        return Err(failed(output.status.to_string()));
    }
    let id = |entry: &str| entry.split(':').nth(2)?.trim().parse().ok();
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|entry| id(entry).ok_or_else(|| failed(format!("{entry:?} has no id")))).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    // an unknown user is no reason to trust what is his.
    #[test]
    fn failed_look_up_is_no_missing_entry() {
        assert_eq!(look_up(GETENT, "passwd", &["root"]).unwrap(), [0]);
        assert_eq!(look_up(GETENT, "passwd", &["no such user", "root"]).unwrap(), [0]);
        assert!(look_up(GETENT, "group", &["no such group"]).unwrap().is_empty());
        assert!(look_up(GETENT, "no such database", &["root"]).is_err());
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("getent").display().to_string();
        let error = look_up(&program, "passwd", &["root"]).unwrap_err().to_string();
        assert!(error.contains("can't look up root") && error.contains("getent passwd`"), "{error}");
        for script in ["exit 1", "exit 3", "kill -9 $$", "echo root:x", "echo root:x:none:"] {
            fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
            assert!(look_up(&program, "passwd", &["root"]).is_err(), "{script}");
        }
    }
}
