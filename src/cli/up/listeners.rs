//! The listening sockets of all roles. `memgate up` binds them itself, hands duplicates to each process of a role, and keeps its
//! own until the shutdown: while a role is away nobody else takes its ports, and clients wait for its next process.

use std::net::TcpListener;

use daemon::listener;

use super::port_check;
use crate::output::CliError;
use crate::role::Role;
use crate::settings::{PROXY_LISTEN, Settings};

#[derive(Debug)]
pub(crate) struct RoleListeners(Vec<(Role, TcpListener)>);

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
            match (role, listener::bind(address, count)) {
                (Some(role), Ok(listeners)) => bound.extend(listeners.into_iter().map(|it| (role, it))),
                (None, Ok(_)) => {}
                (_, Err(error)) => conflicts.push(port_check::explain(key, address, &error)),
            }
        }
        CliError::all(conflicts).map_or(Ok(Self(bound)), Err)
    }

    /// Takes those of one role.
    pub(super) fn take(&mut self, role: Role) -> Vec<TcpListener> {
        self.0.extract_if(.., |(owner, _)| *owner == role).map(|(_, listener)| listener).collect()
    }
}
