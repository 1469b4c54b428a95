//! The ports of all roles. `memgate up` binds them itself, hands duplicates of the sockets to each process of a role, and keeps its
//! own until the shutdown: while a role is away nobody else takes its ports, and clients wait for its next process.

use std::fs;
use std::net::TcpListener;

use daemon::listener::Port;

use super::port_check;
use crate::output::CliError;
use crate::role::Role;
use crate::settings::{PROXY_LISTEN, Settings};

/// Whether connections that wait to be accepted by a socket that stops move to another one on its port (Linux 5.14).
const MIGRATE: &str = "/proc/sys/net/ipv4/tcp_migrate_req";

#[derive(Debug)]
pub(crate) struct RoleListeners(Vec<(Role, RolePort)>);

/// The ports of one role.
#[derive(Debug)]
pub(super) struct RolePorts(Vec<RolePort>);

#[derive(Debug)]
struct RolePort {
    key: &'static str,
    port: Port,
    /// Whether a process has had duplicates of its sockets. One that ends as it was told to may be broken, too: what it did to
    /// them, and whom it passed them to, ends with it.
    is_used: bool,
}

impl RoleListeners {
    /// Binds all of them, also ports that only root may bind. From then on, clients that wait for a role move to the sockets of
    /// its next process, if this process may decide that for the system.
    ///
    /// # Errors
    /// Names all that can't be bound.
    pub(super) fn bind(settings: &Settings) -> Result<Self, CliError> {
        let (mut bound, mut conflicts) = (Vec::new(), Vec::new());
        for (key, address) in settings.listeners() {
            let count = if key == PROXY_LISTEN { settings.proxy.workers() } else { 1 };
            let role = Role::ALL.into_iter().find(|role| key.split('.').next() == Some(role.name()));
            match (role, Port::bind(address, count)) {
                (Some(role), Ok(port)) => bound.push((role, RolePort { key, port, is_used: false })),
                (None, Ok(_)) => {}
                (_, Err(error)) => conflicts.push(port_check::explain(key, address, &error)),
            }
        }
        CliError::all(conflicts).map_or(Ok(()), Err)?;
        let_waiting_clients_move();
        Ok(Self(bound))
    }

    /// Takes those of one role.
    pub(super) fn take(&mut self, role: Role) -> RolePorts {
        RolePorts(self.0.extract_if(.., |(owner, _)| *owner == role).map(|(_, port)| port).collect())
    }
}

impl RolePorts {
    /// The sockets for the next process, to give away duplicates.
    pub(super) fn listeners(&mut self) -> impl Iterator<Item = &TcpListener> {
        self.0.iter_mut().flat_map(|RolePort { port, is_used, .. }| {
            *is_used = true;
            port.listeners()
        })
    }

    /// Replaces the sockets that a process has had, or that don't listen any more.
    ///
    /// # Errors
    /// Names all ports that can't be bound.
    pub(super) fn renew(&mut self) -> Result<(), CliError> {
        let mut conflicts = Vec::new();
        for RolePort { key, port, is_used } in &mut self.0 {
            if !*is_used && port.is_listening() {
                continue;
            }
            match port.renew() {
                Ok(()) => *is_used = false,
                Err(error) => conflicts.push(port_check::explain(key, port.address(), &error)),
            }
        }
        CliError::all(conflicts).map_or(Ok(()), Err)
    }

    /// From now on clients are refused.
    pub(super) fn close(&mut self) {
        self.0.iter_mut().for_each(|it| it.port.close_listeners());
    }
}

fn let_waiting_clients_move() {
    let is_on = fs::read_to_string(MIGRATE).is_ok_and(|value| value.trim() == "1");
    if is_on {
        return;
    }
    match fs::write(MIGRATE, "1") {
        Ok(()) => tracing::info!(
            "set net.ipv4.tcp_migrate_req to 1: clients that wait while a role restarts are served by its next process"
        ),
        Err(error) => tracing::info!(
            %error,
            "net.ipv4.tcp_migrate_req isn't 1: clients that wait while a role restarts have to connect again"
        ),
    }
}
