//! A port that one process keeps while others listen on it.

use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::fchown;

use nix::libc;
use nix::sys::socket::setsockopt;
use nix::unistd::{Uid, setfsuid};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, dumpable_behavior, geteuid, set_dumpable_behavior};
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockRef, Socket};

use super::{listen, open, share, stream};

/// The user and group that own nothing.
const NOBODY: u32 = 65534;
/// The first of 2^28 ids that belong to no user: neither distributions nor containers use them.
const OWNERS: u32 = 0x7000_0000;

/// The socket option SO_LOCK_FILTER: from then on nobody attaches a program to the socket.
#[derive(Debug, Clone, Copy)]
struct LockFilter;

nix::setsockopt_impl!(
    LockFilter,
    libc::SOL_SOCKET,
    libc::SO_LOCK_FILTER,
    bool,
    nix::sys::socket::sockopt::SetBool
);

/// A port that one process keeps while others, whom it doesn't trust for ever, listen with duplicates of its sockets.
///
/// A duplicate is the same socket: who has one can make it stop listening, and sets its options for all. So the port is kept by a
/// socket that nobody else gets, its guard. It doesn't listen, and shares the port (SO_REUSEPORT), which the kernel allows only
/// among sockets of one user. That one is no user of the system, and each port has another: a duplicate that somebody has kept since
/// an earlier process of ours was killed doesn't share the port either. Another guard keeps the port of the other version of IP,
/// where other users could otherwise listen for those who connect to `localhost`, or make the kernel refuse the port to fresh
/// sockets of ours.
#[derive(Debug)]
pub struct Port {
    address: SocketAddr,
    count: usize,
    owner: Owner,
    /// Kept open only.
    guards: Vec<Socket>,
    listeners: Vec<TcpListener>,
}

/// What another program of this process needs to know to go on keeping a port, beside the sockets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortState {
    /// Its address.
    pub address: SocketAddr,
    owner: Option<u32>,
    guards: usize,
    listeners: usize,
}

impl Port {
    /// Binds a port, with `count` sockets that listen.
    ///
    /// # Errors
    /// As [`bind`](super::bind), also if the same port of the other version of IP is taken.
    pub fn bind(address: SocketAddr, count: usize) -> io::Result<Self> {
        Self::bind_as(Owner::new(), address, count)
    }

    /// The same for processes of this user, who may share the port with them.
    ///
    /// # Errors
    /// As [`Port::bind`].
    pub fn bind_for_own(address: SocketAddr, count: usize) -> io::Result<Self> {
        Self::bind_as(Owner(None), address, count)
    }

    fn bind_as(owner: Owner, address: SocketAddr, count: usize) -> io::Result<Self> {
        // A trial without SO_REUSEPORT finds a port that another program shares.
        drop(open(address, false)?);
        let guard = guard(address, owner, false)?;
        // Port 0 is now the one that the guard was given.
        let address = guard.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let mut guards = vec![guard];
        guards.extend(guard_of_other_version(address, owner)?);
        let mut port = Self { address, count, owner, guards, listeners: Vec::new() };
        port.renew()?;
        Ok(port)
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The sockets that listen, to give away duplicates.
    #[must_use]
    pub fn listeners(&self) -> &[TcpListener] {
        &self.listeners
    }

    /// Whether all sockets still listen: who has a duplicate can make one stop.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        let listens = |listener| SockRef::from(listener).is_listener().unwrap_or(false);
        !self.listeners.is_empty() && self.listeners.iter().all(listens)
    }

    /// Replaces the sockets that listen, so that nothing is left of what others did to them, or do with their duplicates. The port
    /// refuses no client meanwhile. Connections that wait to be accepted by the old ones move to the fresh ones if the system's
    /// option `net.ipv4.tcp_migrate_req` is set, and are reset otherwise.
    ///
    /// # Errors
    /// If the system refuses. Then nobody listens, also with duplicates of the old ones.
    pub fn renew(&mut self) -> io::Result<()> {
        let fresh = self.bind_more();
        let fresh = fresh.and_then(|fresh| fresh.iter().try_for_each(listen).map(|()| fresh));
        self.close_listeners();
        self.listeners = fresh?;
        Ok(())
    }

    /// Binds as many sockets beside those that listen, for a process that is about to take over. They don't listen: it lets them,
    /// once it can work ([`listen`](super::listen)).
    ///
    /// # Errors
    /// If the system refuses.
    pub fn bind_more(&self) -> io::Result<Vec<TcpListener>> {
        (0..self.count).map(|_| bind_locked(self.address, self.owner)).collect()
    }

    /// Keeps these sockets from now on, and makes the others stop, as [`renew`](Self::renew) does.
    pub fn replace(&mut self, fresh: Vec<TcpListener>) {
        self.close_listeners();
        self.listeners = fresh;
    }

    /// What another program of this process needs to go on keeping the port: this, and the sockets in this order.
    #[must_use]
    pub fn state(&self) -> (PortState, Vec<BorrowedFd<'_>>) {
        let state = PortState {
            address: self.address,
            owner: self.owner.0,
            guards: self.guards.len(),
            listeners: self.listeners.len(),
        };
        let guards = self.guards.iter().map(|guard| guard.as_fd());
        (state, guards.chain(self.listeners.iter().map(|listener| listener.as_fd())).collect())
    }

    /// Goes on keeping a port, with `count` sockets that listen from the next process on.
    ///
    /// # Errors
    /// If a socket is missing.
    pub fn resume(
        state: &PortState,
        count: usize,
        sockets: &mut impl Iterator<Item = OwnedFd>,
    ) -> io::Result<Self> {
        let guards: Vec<Socket> = sockets.take(state.guards).map(Socket::from).collect();
        let listeners: Vec<TcpListener> = sockets.take(state.listeners).map(TcpListener::from).collect();
        if (guards.len(), listeners.len()) != (state.guards, state.listeners) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Self { address: state.address, count, owner: Owner(state.owner), guards, listeners })
    }

    /// Makes the sockets stop that listen, also for those who have duplicates. The port refuses clients, and nobody else can take it.
    pub fn close_listeners(&mut self) {
        self.listeners.drain(..).for_each(|listener| retire(&listener));
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.close_listeners();
    }
}

/// Whose sockets share a port. `None` is this process's user, as always without root.
#[derive(Debug, Clone, Copy)]
struct Owner(Option<u32>);

impl Owner {
    fn new() -> Self {
        // Its keys are random.
        let random = RandomState::new().hash_one(());
        Self(geteuid().is_root().then(|| OWNERS | u32::try_from(random >> 36).unwrap_or(0)))
    }

    /// Makes a socket that may share its port.
    fn socket(self, address: SocketAddr) -> io::Result<Socket> {
        let domain = Domain::for_address(address);
        let socket = match self.0 {
            Some(id) => stream_of_nobody(domain, id)?,
            None => stream(domain)?,
        };
        share(&socket, true)?;
        Ok(socket)
    }
}

/// Makes a socket for an owner, whose packets count as those of no allowed user in a firewall: it looks at who made the socket's file,
/// and who has a duplicate may connect with it where root may.
fn stream_of_nobody(domain: Domain, owner: u32) -> io::Result<Socket> {
    let dumpable = dumpable_behavior()?;
    setfsuid(Uid::from_raw(NOBODY));
    let socket = stream(domain);
    setfsuid(Uid::from_raw(geteuid().as_raw()));
    if dumpable == DumpableBehavior::Dumpable {
        // The change of the user has hidden the process from others of its user's.
        set_dumpable_behavior(dumpable)?;
    }
    let socket = socket?;
    // A container may have no such id.
    fchown(&socket, Some(owner), None).or_else(|_| fchown(&socket, Some(geteuid().as_raw()), None))?;
    Ok(socket)
}

/// A socket that shares its port, and doesn't listen yet.
fn bind_locked(address: SocketAddr, owner: Owner) -> io::Result<TcpListener> {
    let socket = owner.socket(address)?;
    socket.bind(&address.into())?;
    // A program that chooses who gets a connection is the port's, not the socket's: it would outlive the socket.
    setsockopt(&socket, LockFilter, &true)?;
    Ok(socket.into())
}

/// A socket that keeps an address without listening.
fn guard(address: SocketAddr, owner: Owner, only_v6: bool) -> io::Result<Socket> {
    let guard = owner.socket(address)?;
    if only_v6 {
        guard.set_only_v6(true)?;
    }
    guard.bind(&address.into())?;
    // Needed until here, beside connections of an earlier process. With it, others could listen while none of ours does.
    guard.set_reuse_address(false)?;
    Ok(guard)
}

/// Keeps the same port where another version of IP has an address like this one. `None` if there is none on this machine.
fn guard_of_other_version(address: SocketAddr, owner: Owner) -> io::Result<Option<Socket>> {
    let other = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        IpAddr::V4(Ipv4Addr::LOCALHOST) => Ipv6Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(Ipv6Addr::LOCALHOST) => Ipv4Addr::LOCALHOST.into(),
        _ => return Ok(None),
    };
    match guard(SocketAddr::new(other, address.port()), owner, other.is_ipv6()) {
        Ok(guard) => Ok(Some(guard)),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) => Ok(None),
            _ => Err(error),
        },
    }
}

/// Makes a socket stop listening for good, although others may have duplicates.
fn retire(listener: &TcpListener) {
    // A socket of another user's can't share the port, so it may not listen again. Only root can give it away; without root all
    // processes that have duplicates are one user's.
    if let Err(error) = fchown(listener, Some(NOBODY), Some(NOBODY))
        && geteuid().is_root()
    {
        tracing::warn!(%error, "failed to give away a socket: who has a duplicate can let it listen again");
    }
    // It fails if the socket has stopped already.
    let _ = SockRef::from(listener).shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests;
