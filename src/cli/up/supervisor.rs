//! Supervises the roles: each is a child process that is restarted when it exits or hangs, and stopped at shutdown.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::role_supervisor::{RoleSupervisor, stop_all};
use super::supervised::{Common, READY_POLL_INTERVAL, READY_TIMEOUT, RoleEnd, SupervisedRole, is_ready};
use crate::data_dir::DataDir;
use crate::output::CliError;
use crate::role::Role;
use crate::settings::Settings;

/// A role that isn't ready after this time is logged with the reason.
const SLOW_START_THRESHOLD: Duration = Duration::from_secs(3);

/// The supervised roles.
pub(crate) struct Supervisor {
    roles: JoinSet<Result<RoleEnd, CliError>>,
    health: Vec<RoleHealth>,
    installation: String,
    /// Cancelled when all roles are ready for the first time.
    all_ready: CancellationToken,
    common: Common,
}

/// Where a role answers, and which process is to.
pub(super) struct RoleHealth {
    role: Role,
    address: SocketAddr,
    pid: watch::Receiver<u32>,
}

/// How supervision ended.
pub(super) enum Outcome {
    Stopped,
    /// Another program is to go on with these.
    Left(Vec<SupervisedRole>),
}

impl Supervisor {
    /// Starts all roles of an installation with the data directory `data`, or goes on with their processes.
    ///
    /// # Errors
    /// If a role's settings can't be read.
    pub(super) fn start(
        settings: &Settings,
        data: &DataDir,
        installation: &str,
        supervised: Vec<SupervisedRole>,
        common: &Common,
    ) -> Result<Self, CliError> {
        let all_ready = CancellationToken::new();
        if supervised.iter().any(|role| role.process.is_some()) {
            // No failure of one role ends the others any more.
            all_ready.cancel();
        }
        let (mut roles, mut health) = (JoinSet::new(), Vec::new());
        for supervised in supervised {
            let role = supervised.role;
            let (current, pid) = watch::channel(0);
            health.push(RoleHealth { role, address: role.health(settings), pid });
            let supervisor = RoleSupervisor {
                data: data.clone(),
                installation: installation.to_owned(),
                settings: role.visible_settings(settings, data)?,
                supervised,
                current,
                all_ready: all_ready.clone(),
                common: common.clone(),
                alone: None,
            };
            roles.spawn(supervisor.run());
        }
        let (installation, common) = (installation.to_owned(), common.clone());
        Ok(Self { roles, health, installation, all_ready, common })
    }

    /// Runs until the shutdown is complete, or another program is to go on. Calls `on_ready` once all roles are ready.
    ///
    /// # Errors
    /// If a role fails to start, or `on_ready` fails. All roles have stopped by then.
    pub(super) async fn run(
        mut self,
        on_ready: impl FnOnce(Result<(), CliError>) -> Result<(), CliError>,
    ) -> Result<Outcome, CliError> {
        let ready = tokio::select! {
            // Roles that end then are counted below.
            biased;
            () = self.common.shutdown.begun() => None,
            () = self.common.leaving.cancelled() => None,
            Some(Ok(Err(error))) = self.roles.join_next() => Some(Err(error)),
            ready = wait_until_ready(&self.health, &self.installation) => Some(ready),
        };
        let mut result = match ready {
            Some(ready) => {
                self.all_ready.cancel();
                on_ready(ready)
            }
            None => Ok(()),
        };
        if result.is_ok() {
            tokio::select! {
                () = self.common.shutdown.begun() => {}
                () = self.common.leaving.cancelled() => {}
            }
        } else {
            self.common.shutdown.begin();
        }
        let mut left = Vec::new();
        while let Some(ended) = self.roles.join_next().await {
            match ended {
                Ok(Ok(RoleEnd::Left(role))) => left.push(*role),
                Ok(Err(error)) if result.is_ok() => result = Err(error),
                _ => {}
            }
        }
        if !self.common.shutdown.has_begun() {
            return result.map(|()| Outcome::Left(left));
        }
        for mut role in left {
            stop_all(&mut role).await;
        }
        result.map(|()| Outcome::Stopped)
    }
}

/// Waits until all roles are ready; fails with the first that isn't in time. A role that waits for something outside, such
/// as Docker or the store, is in time.
async fn wait_until_ready(health: &[RoleHealth], installation: &str) -> Result<(), CliError> {
    let started = Instant::now();
    let mut late_at = started + READY_TIMEOUT;
    for health in health {
        let mut logged = String::new();
        let role = health.role.name();
        while let Err((reason, is_waiting)) = health.is_ready(installation).await {
            if is_waiting {
                late_at = Instant::now() + READY_TIMEOUT;
            }
            if Instant::now() > late_at {
                let what = format!("the {role} isn't ready after {READY_TIMEOUT:?} ({reason})");
                return Err(CliError::new(what, "see its log lines above"));
            }
            if started.elapsed() > SLOW_START_THRESHOLD && logged != reason {
                tracing::info!(role, reason, "waiting for the role to become ready");
                logged = reason;
            }
            tokio::time::sleep(READY_POLL_INTERVAL).await;
        }
    }
    Ok(())
}

impl RoleHealth {
    /// If the role isn't ready: why, and whether it waits for something outside.
    async fn is_ready(&self, installation: &str) -> Result<(), (String, bool)> {
        let pid = *self.pid.borrow();
        is_ready(self.role, self.address, installation, pid).await
    }
}
