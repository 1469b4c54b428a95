//! What the supervisors of all roles share, and what they supervise.

use std::net::SocketAddr;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use daemon::{Reload, Shutdown};
use tokio_util::sync::CancellationToken;

use super::listeners::{RoleListeners, RolePorts};
use super::role_group::GroupFolders;
use super::role_process::RoleProcess;
use crate::health_check;
use crate::output::CliError;
use crate::role::Role;
use crate::system_users::SystemUsers;

/// For networks, firewall and a first reconciliation of all caches.
pub(super) const READY_TIMEOUT: Duration = Duration::from_secs(60);
pub(super) const READY_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// What the supervisors of all roles share.
#[derive(Clone)]
pub(crate) struct Common {
    pub(crate) system_users: Option<SystemUsers>,
    pub(crate) group_folders: GroupFolders,
    pub(crate) shutdown: Shutdown,
    pub(crate) reload: Reload,
    /// Cancelled when another program goes on with the roles in this process.
    pub(crate) leaving: CancellationToken,
    /// What went wrong when roles were replaced.
    pub(crate) problems: Problems,
}

/// What went wrong. Cheap to clone; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Problems(Arc<Mutex<Vec<CliError>>>);

impl Problems {
    pub(super) fn add(&self, problem: CliError) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(problem);
    }

    /// The first one.
    pub(super) fn take(&self) -> Option<CliError> {
        let mut problems = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *problems).into_iter().next()
    }
}

/// What is left of the supervision of a role.
pub(super) enum RoleEnd {
    /// Its processes have ended, the newest with this status.
    Stopped(Option<ExitStatus>),
    /// They go on.
    Left(Box<SupervisedRole>),
}

/// A role's ports and processes.
pub(super) struct SupervisedRole {
    pub(super) role: Role,
    pub(super) ports: RolePorts,
    /// `None` while it is being restarted.
    pub(super) process: Option<RoleProcess>,
    /// Those that were replaced and still serve connections, the oldest first.
    pub(super) draining: Vec<RoleProcess>,
    /// Whether the process is an earlier program's, and to be replaced.
    pub(super) is_outdated: bool,
}

impl SupervisedRole {
    /// Roles without processes.
    pub(super) fn all_new(mut listeners: RoleListeners) -> Vec<Self> {
        let new = |role| Self {
            role,
            ports: listeners.take(role),
            process: None,
            draining: Vec::new(),
            is_outdated: false,
        };
        Role::ALL.map(new).into()
    }

    /// Its processes, and whether each drains.
    pub(super) fn processes(&self) -> impl Iterator<Item = (&RoleProcess, bool)> {
        let draining = self.draining.iter().map(|process| (process, true));
        draining.chain(self.process.iter().map(|process| (process, false)))
    }
}

/// If the process of a role isn't ready: why, and whether it waits for something outside.
pub(super) async fn is_ready(
    role: Role,
    health: SocketAddr,
    installation: &str,
    pid: u32,
) -> Result<(), (String, bool)> {
    let report = health_check::ask(health).await.map_err(|reason| (reason, false))?;
    if let Some(reason) = health_check::foreign(&report, role, installation) {
        return Err((reason, false));
    }
    if report.process.pid != pid {
        return Err(("its process before this one answers".to_owned(), false));
    }
    let reason = || report.message.clone().unwrap_or_default();
    if report.ready { Ok(()) } else { Err((reason(), report.waiting)) }
}

/// Waits until a process of a role is ready, however long that takes.
pub(super) async fn until_ready(role: Role, health: SocketAddr, installation: &str, pid: u32) {
    while is_ready(role, health, installation, pid).await.is_err() {
        tokio::time::sleep(READY_POLL_INTERVAL).await;
    }
}
