//! The ports of all roles. `memgate up` binds them itself, hands duplicates of the sockets to each process of a role, and keeps its
//! own until the shutdown: while a role is away nobody else takes its ports, and clients wait for its next process.

use std::net::TcpListener;

use daemon::listener::Port;

use super::port_check;
use crate::output::CliError;
use crate::role::Role;
use crate::settings::{PROXY_LISTEN, Settings};

#[derive(Debug)]
pub(crate) struct RoleListeners(Vec<(Role, RolePort)>);

/// The ports of one role.
#[derive(Debug)]
pub(super) struct RolePorts(Vec<RolePort>);

#[derive(Debug)]
struct RolePort {
    key: &'static str,
    port: Port,
    /// Nothing that a broken process did to its sockets may reach the next one.
    is_stale: bool,
}

impl RoleListeners {
    /// Binds all of them, also ports that only root may bind.
    ///
    /// # Errors
    /// Names all that can't be bound.
    pub(super) fn bind(settings: &Settings) -> Result<Self, CliError> {
        let (mut bound, mut conflicts) = (Vec::new(), Vec::new());
        for (key, address) in settings.listeners() {
            let count = if key == PROXY_LISTEN { settings.proxy.workers() } else { 1 };
            let role = Role::ALL.into_iter().find(|role| key.split('.').next() == Some(role.name()));
            match (role, Port::bind(address, count)) {
                (Some(role), Ok(port)) => bound.push((role, RolePort { key, port, is_stale: false })),
                (None, Ok(_)) => {}
                (_, Err(error)) => conflicts.push(port_check::explain(key, address, &error)),
            }
        }
        CliError::all(conflicts).map_or(Ok(Self(bound)), Err)
    }

    /// Takes those of one role.
    pub(super) fn take(&mut self, role: Role) -> RolePorts {
        RolePorts(self.0.extract_if(.., |(owner, _)| *owner == role).map(|(_, port)| port).collect())
    }
}

impl RolePorts {
    /// The sockets for the next process.
    pub(super) fn listeners(&self) -> impl Iterator<Item = &TcpListener> {
        self.0.iter().flat_map(|it| it.port.listeners())
    }

    /// A process of the role ended as only a broken one does.
    pub(super) fn distrust(&mut self) {
        self.0.iter_mut().for_each(|it| it.is_stale = true);
    }

    /// Replaces the sockets that a broken process had, or that don't listen any more.
    ///
    /// # Errors
    /// Names all ports that can't be bound.
    pub(super) fn renew(&mut self) -> Result<(), CliError> {
        let mut conflicts = Vec::new();
        for RolePort { key, port, is_stale } in &mut self.0 {
            if !*is_stale && port.is_listening() {
                continue;
            }
            match port.renew() {
                Ok(()) => *is_stale = false,
                Err(error) => conflicts.push(port_check::explain(key, port.address(), &error)),
            }
        }
        CliError::all(conflicts).map_or(Ok(()), Err)
    }

    /// From now on only the role's own process listens, and nobody once it has stopped.
    pub(super) fn close(&mut self) {
        self.0.iter_mut().for_each(|it| it.port.close_listeners());
    }
}
