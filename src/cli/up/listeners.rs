//! The ports of all roles. `memgate up` binds them itself, hands duplicates of the sockets to each process of a role, and keeps its
//! own until the shutdown: while a role is away nobody else takes its ports, and clients wait for its next process.

use std::fs;
use std::net::TcpListener;
use std::os::fd::{BorrowedFd, OwnedFd};

use daemon::listener::{Port, PortState};
use serde::{Deserialize, Serialize};

use super::port_check;
use crate::output::CliError;
use crate::role::Role;
use crate::settings::{PROXY_LISTEN, Settings};

/// Whether connections that wait to be accepted by a socket that stops move to another one on its port (Linux 5.14).
const MIGRATE: &str = "/proc/sys/net/ipv4/tcp_migrate_req";

#[derive(Debug)]
pub(crate) struct RoleListeners(Vec<(Role, RolePort)>);

/// What the next program of this process needs to go on keeping a port, beside its sockets.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct RolePortState {
    key: String,
    port: PortState,
    is_used: bool,
}

/// The ports of one role.
#[derive(Debug)]
pub(super) struct RolePorts(Vec<RolePort>);

#[derive(Debug)]
struct RolePort {
    key: &'static str,
    port: Port,
    /// Sockets for a process that is about to take over.
    next: Vec<TcpListener>,
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
        Self::resume(settings, Vec::new(), &mut std::iter::empty())
    }

    /// Goes on keeping the ports of an earlier program of this process that are in the settings still, and binds the others.
    ///
    /// # Errors
    /// Names all that can't be bound.
    pub(super) fn resume(
        settings: &Settings,
        states: Vec<RolePortState>,
        sockets: &mut impl Iterator<Item = OwnedFd>,
    ) -> Result<Self, CliError> {
        let mut kept = Vec::new();
        for state in states {
            let count = count(&state.key, settings);
            let port = Port::resume(&state.port, count, sockets);
            let port = port.map_err(|error| CliError::new(error.to_string(), "report this bug"))?;
            kept.push((state, port));
        }
        let (mut bound, mut conflicts) = (Vec::new(), Vec::new());
        for (key, address) in settings.listeners() {
            let Some(role) = Role::ALL.into_iter().find(|role| key.split('.').next() == Some(role.name()))
            else {
                continue;
            };
            let is_kept =
                |(state, _): &(RolePortState, Port)| state.key == key && state.port.address == address;
            if let Some(at) = kept.iter().position(is_kept) {
                let (RolePortState { is_used, .. }, port) = kept.swap_remove(at);
                bound.push((role, RolePort { key, port, next: Vec::new(), is_used }));
                continue;
            }
            match Port::bind(address, count(key, settings)) {
                Ok(port) => bound.push((role, RolePort { key, port, next: Vec::new(), is_used: false })),
                Err(error) => conflicts.push(port_check::explain(key, address, &error)),
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
    /// What [`RoleListeners::resume`] needs: this, and the sockets in this order.
    pub(super) fn states(&self) -> (Vec<RolePortState>, Vec<BorrowedFd<'_>>) {
        let (mut states, mut sockets) = (Vec::new(), Vec::new());
        for RolePort { key, port, is_used, .. } in &self.0 {
            let (port, its) = port.state();
            states.push(RolePortState { key: (*key).to_owned(), port, is_used: *is_used });
            sockets.extend(its);
        }
        (states, sockets)
    }

    /// The sockets for the next process, to give away duplicates.
    pub(super) fn listeners(&mut self) -> impl Iterator<Item = &TcpListener> {
        self.0.iter_mut().flat_map(|RolePort { port, next, is_used, .. }| {
            *is_used = true;
            if next.is_empty() { port.listeners() } else { next }
        })
    }

    /// Prepares sockets for a process that is about to take over, which has them listen once it works. The old process keeps its
    /// own until then. If clients that wait can't move, both get the same.
    ///
    /// # Errors
    /// If the system refuses.
    pub(super) fn begin_takeover(&mut self) -> std::io::Result<()> {
        let move_by_themselves = waiting_clients_move();
        for RolePort { port, next, .. } in &mut self.0 {
            *next = if move_by_themselves {
                port.bind_more()?
            } else {
                port.listeners().iter().map(TcpListener::try_clone).collect::<Result<_, _>>()?
            };
        }
        Ok(())
    }

    /// The new process works: clients that wait for the old one move to it.
    pub(super) fn finish_takeover(&mut self) {
        let move_by_themselves = waiting_clients_move();
        for RolePort { port, next, .. } in &mut self.0 {
            let fresh = std::mem::take(next);
            if move_by_themselves {
                port.replace(fresh);
            }
        }
    }

    /// The old process keeps the ports.
    pub(super) fn cancel_takeover(&mut self) {
        self.0.iter_mut().for_each(|it| it.next.clear());
    }

    /// Replaces the sockets that a process has had, or that don't listen any more.
    ///
    /// # Errors
    /// Names all ports that can't be bound.
    pub(super) fn renew(&mut self) -> Result<(), CliError> {
        let mut conflicts = Vec::new();
        for RolePort { key, port, is_used, .. } in &mut self.0 {
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

/// How many sockets listen on a port.
fn count(key: &str, settings: &Settings) -> usize {
    if key == PROXY_LISTEN { settings.proxy.workers() } else { 1 }
}

fn waiting_clients_move() -> bool {
    fs::read_to_string(MIGRATE).is_ok_and(|value| value.trim() == "1")
}

fn let_waiting_clients_move() {
    if waiting_clients_move() {
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
