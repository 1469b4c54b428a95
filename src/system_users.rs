//! The unprivileged system users of the proxy and the web UI when root starts them. They share one group for
//! the store, the proxy has another for its keys, and neither is in Docker's group.

use std::process::Command;
use std::sync::OnceLock;

use rustix::process::{Gid, Uid};

use crate::output::CliError;

const GROUP: &str = "memgate";
const PROXY: &str = "memgate-proxy";
const WEBUI: &str = "memgate-webui";
/// The group that may read what only the proxy may: the lane key and the key of the server certificate.
const PROXY_GROUP: &str = "memgate-proxy";

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
    pub(crate) fn get() -> &'static Self {
        static IDS: OnceLock<RoleIds> = OnceLock::new();
        IDS.get_or_init(|| {
            if !rustix::process::geteuid().is_root() {
                return Self::default();
            }
            let (users, groups) =
                (look_up("passwd", &[PROXY, WEBUI]), look_up("group", &[GROUP, PROXY_GROUP]));
            Self { users, groups }
        })
    }
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
    if let Some(id) = look_up(database, &[name]).first() {
        return Ok(*id);
    }
    let fix = || format!("create it with `{}`", create.join(" "));
    let created = match create {
        [program, arguments @ ..] => Command::new(program).args(arguments).output(),
        [] => Err(std::io::Error::other("no command")),
    };
    // Another process may have created it in the meantime: only its existence counts.
    look_up(database, &[name]).first().copied().ok_or_else(|| {
        let reason = match created {
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        CliError::new(format!("can't create the system user or group {name} ({reason})"), fix())
    })
}

/// The third field of the entries that exist, in both databases.
fn look_up(database: &str, names: &[&str]) -> Vec<u32> {
    let Ok(output) = Command::new("getent").arg(database).args(names).output() else { return Vec::new() };
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().filter_map(|entry| entry.split(':').nth(2)?.trim().parse().ok()).collect()
}
