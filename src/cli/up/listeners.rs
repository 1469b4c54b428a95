//! The ports of all roles. `memgate up` binds them itself, hands duplicates of the sockets to each process of a role, and keeps its
//! own until the shutdown: while a role is away nobody else takes its ports, and clients wait for its next process.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{BorrowedFd, OwnedFd};

use daemon::listener::{Port, PortState};
use serde::{Deserialize, Serialize};

use super::port_check;
use crate::output::CliError;
use crate::role::Role;
use crate::settings::{PROXY_LISTEN, Settings};

/// Whether connections that wait to be accepted by a socket that stops move to another one on its port (Linux 5.14).
const MIGRATE: &str = "/proc/sys/net/ipv4/tcp_migrate_req";

/// Whose ports are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PortScope {
    /// Those of all roles, of which some run as other users.
    Up,
    /// Those of a proxy that runs alone, as this user.
    LoneProxy,
}

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

impl PortScope {
    /// The addresses of its ports, each with its setting and its role.
    fn ports(self, settings: &Settings) -> impl Iterator<Item = (Role, &'static str, SocketAddr)> {
        let roles: &[Role] = match self {
            Self::Up => &Role::ALL,
            Self::LoneProxy => &[Role::Proxy],
        };
        settings.listeners().into_iter().filter_map(|(key, address)| {
            let role = roles.iter().find(|role| key.split('.').next() == Some(role.name()))?;
            Some((*role, key, address))
        })
    }

    /// Checks that the ports are free that settings have in addition to those `in_use`, which this process keeps meanwhile.
    ///
    /// # Errors
    /// Names all that can't be bound.
    pub(super) fn require_free(self, settings: &Settings, in_use: &Settings) -> Result<(), CliError> {
        let kept: Vec<_> = self.ports(in_use).collect();
        let new = self.ports(settings).filter(|port| !kept.contains(port));
        port_check::require_free_beside(new.map(|(_, key, address)| (key, address)))
    }

    fn bind_port(self, address: SocketAddr, count: usize) -> std::io::Result<Port> {
        match self {
            Self::Up => Port::bind(address, count),
            Self::LoneProxy => Port::bind_for_own(address, count),
        }
    }
}

impl RoleListeners {
    /// Binds all of them, also ports that only root may bind. From then on, clients that wait for a role move to the sockets of
    /// its next process, if this process may decide that for the system.
    ///
    /// # Errors
    /// Names all that can't be bound.
    pub(super) fn bind(scope: PortScope, settings: &Settings) -> Result<Self, CliError> {
        Self::resume(scope, settings, Vec::new(), &mut std::iter::empty())
    }

    /// Goes on keeping the ports of an earlier program of this process that are in the settings still, and binds the others.
    ///
    /// # Errors
    /// Names all that can't be bound.
    pub(super) fn resume(
        scope: PortScope,
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
        for (role, key, address) in scope.ports(settings) {
            let is_kept =
                |(state, _): &(RolePortState, Port)| state.key == key && state.port.address == address;
            if let Some(at) = kept.iter().position(is_kept) {
                let (RolePortState { is_used, .. }, port) = kept.swap_remove(at);
                bound.push((role, RolePort { key, port, next: Vec::new(), is_used }));
                continue;
            }
            match scope.bind_port(address, count(key, settings)) {
                Ok(port) => bound.push((role, RolePort { key, port, next: Vec::new(), is_used: false })),
                Err(error) => conflicts.push(port_check::explain(key, address, &error)),
            }
        }
        CliError::all(conflicts).map_or(Ok(()), Err)?;
        if scope == PortScope::Up {
            let_waiting_clients_move();
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    //
    #[test]
    fn only_new_addresses_have_to_be_free() {
        let taken: Vec<_> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let [own, others] = [0, 1].map(|n: usize| taken[n].local_addr().unwrap());
        let in_use = Settings {
            proxy: proxy::Config { listen: own, ..Settings::default().proxy },
            ..Settings::default()
        };
        let error = |scope: PortScope, settings: &Settings| {
            scope.require_free(settings, &in_use).err().map(|error| error.to_string())
        };
        let mut settings = in_use.clone();
        assert_eq!(error(PortScope::Up, &settings), None);
        settings.webui.listen = others;
        let told = error(PortScope::Up, &settings).unwrap();
        assert!(told.contains("(webui.listen) is in use") && !told.contains("proxy.listen"), "{told}");
        assert_eq!(error(PortScope::LoneProxy, &settings), None, "a proxy that runs alone doesn't use it");
        // One of its own, on another key.
        settings.proxy.health = own;
        for scope in [PortScope::Up, PortScope::LoneProxy] {
            assert!(error(scope, &settings).unwrap().contains("only with a restart"));
        }
    }
}
