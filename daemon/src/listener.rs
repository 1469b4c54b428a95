//! Listening sockets: bound by the process itself, or by the one that started it. That one keeps them while the process is away,
//! so that nobody else takes their ports.

use std::io;
use std::mem;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::unix::fs::fchown;
use std::sync::{Arc, Mutex, PoisonError};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Connections that the kernel queues until they are accepted.
const BACKLOG: i32 = 4096;
/// The user and group that own nothing.
const NOBODY: u32 = 65534;

/// The listening sockets that a process was started with. Cheap to clone; each socket is taken once.
#[derive(Debug, Clone, Default)]
pub struct Listeners(Arc<Mutex<Vec<TcpListener>>>);

impl From<Vec<TcpListener>> for Listeners {
    fn from(listeners: Vec<TcpListener>) -> Self {
        Self(Arc::new(Mutex::new(listeners)))
    }
}

impl Listeners {
    /// Takes those that are bound to an address, however many there are. If there is none, binds `count`.
    ///
    /// # Errors
    /// As [`bind`].
    pub fn take_or_bind(&self, address: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
        let is_bound_to =
            |listener: &mut TcpListener| listener.local_addr().is_ok_and(|bound| bound == address);
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken: Vec<TcpListener> = left.extract_if(.., is_bound_to).collect();
        drop(left);
        if taken.is_empty() {
            return bind(address, count);
        }
        taken.iter().try_for_each(|listener| listener.set_nonblocking(true))?;
        Ok(taken)
    }

    /// The same for one socket of a tokio runtime.
    ///
    /// # Errors
    /// As [`bind`].
    pub fn take_or_bind_one(&self, address: SocketAddr) -> io::Result<tokio::net::TcpListener> {
        let listener = self.take_or_bind(address, 1)?.pop();
        tokio::net::TcpListener::from_std(listener.ok_or(io::ErrorKind::AddrNotAvailable)?)
    }
}

/// Binds `count` listeners to one address. Several share it (SO_REUSEPORT), and the kernel spreads connections over them.
///
/// # Errors
/// If the port is taken, also by another program that shares it, or may not be bound.
pub fn bind(address: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    // A trial without SO_REUSEPORT finds a port that another program shares.
    let alone = open(address, false)?;
    if count <= 1 {
        return Ok(vec![alone]);
    }
    drop(alone);
    let first = open(address, true)?;
    // With port 0 the others use the port that the first was given.
    let bound = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..count {
        listeners.push(open(bound, true)?);
    }
    Ok(listeners)
}

/// A port that one process keeps while others, whom it doesn't trust for ever, listen with duplicates of its sockets.
///
/// A duplicate is the same socket: who has one can make it stop listening, and sets its options for all. So the port is kept by a
/// socket that nobody else gets. It doesn't listen, and shares the port (SO_REUSEPORT), which the kernel allows only among sockets
/// of one user.
#[derive(Debug)]
pub struct Port {
    address: SocketAddr,
    count: usize,
    /// Kept open only.
    _guard: Socket,
    listeners: Vec<TcpListener>,
}

impl Port {
    /// Binds a port, with `count` sockets that listen.
    ///
    /// # Errors
    /// As [`bind`].
    pub fn bind(address: SocketAddr, count: usize) -> io::Result<Self> {
        // A trial without SO_REUSEPORT finds a port that another program shares.
        drop(open(address, false)?);
        let guard = new_socket(address, true)?;
        guard.bind(&address.into())?;
        // Needed until here, beside connections of an earlier process. With it, others could listen while none of ours does.
        guard.set_reuse_address(false)?;
        // Port 0 is now the one that the guard was given.
        let address = guard.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let mut port = Self { address, count, _guard: guard, listeners: Vec::new() };
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
    /// refuses no client meanwhile; connections that wait to be accepted by the old ones are reset.
    ///
    /// # Errors
    /// If the system refuses. Then it keeps the old ones.
    pub fn renew(&mut self) -> io::Result<()> {
        let fresh = (0..self.count).map(|_| open(self.address, true)).collect::<io::Result<_>>()?;
        mem::replace(&mut self.listeners, fresh).iter().for_each(retire);
        Ok(())
    }

    /// Closes the sockets that listen. The port refuses clients once all duplicates are closed, and nobody else can take it.
    pub fn close_listeners(&mut self) {
        self.listeners.clear();
    }
}

/// Makes a socket stop listening for good, although others may have duplicates.
fn retire(listener: &TcpListener) {
    // A socket of another user's can't share the port, so it may not listen again. Only root can give it away, and a duplicate
    // that root's own processes have is no threat.
    let _ = fchown(listener, Some(NOBODY), Some(NOBODY));
    // It fails if the socket has stopped already.
    let _ = SockRef::from(listener).shutdown(Shutdown::Both);
}

fn open(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = new_socket(address, shared)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn new_socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpStream;
    use std::os::fd::OwnedFd;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    /// Broken roles and other users.
    const W: u32 = 65_532;
    const L: u32 = 65_533;

    /// Prints what another user's program gets of a port.
    const TAKE: &str = "
for chosen in itertools.product([0, 1], [0, 1]):
    for host in [address[0], '0.0.0.0']:
        with socket.socket() as thief:
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, chosen[0])
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, chosen[1])
            try:
                thief.bind((host, address[1]))
                thief.listen()
                print('listens', host, chosen)
            except OSError:
                pass
";
    /// Ignores clients whose packets don't come with the highest TTL (IP_MINTTL), so practically all.
    const DISTURB: &str = "kept.setsockopt(socket.IPPROTO_IP, 21, 255)";
    const STOP: &str = "kept.shutdown(socket.SHUT_RD)";
    const LISTEN: &str = "
try:
    kept.listen()
    print('listens')
except OSError:
    pass
";

    /// What a Python program of another user prints, which has a duplicate of a socket.
    fn as_user(user: u32, listener: &TcpListener, program: &str) -> String {
        let start =
            "import itertools, socket\nkept = socket.socket(fileno=0)\naddress = kept.getsockname()\n";
        let mut python = Command::new("setpriv");
        python.args([format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".to_owned()]);
        python.args(["/usr/bin/python3", "-c", &format!("{start}{program}")]);
        let stdin = Stdio::from(OwnedFd::from(listener.try_clone().unwrap()));
        let output = python.stdin(stdin).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Whether all of some clients reach one of a port's sockets.
    fn serves(port: &Port) -> bool {
        const TIMEOUT: Duration = Duration::from_millis(500);
        let reaches = |_| {
            let Ok(_client) = TcpStream::connect_timeout(&port.address(), TIMEOUT) else { return false };
            let started = Instant::now();
            let mut is_accepted = false;
            while !is_accepted && started.elapsed() < TIMEOUT {
                is_accepted = port.listeners().iter().any(|listener| listener.accept().is_ok());
            }
            is_accepted
        };
        (0..20).all(reaches)
    }

    #[test]
    fn a_taken_port_is_an_error() {
        for count in [1, 2] {
            let first = bind("127.0.0.1:0".parse().unwrap(), count).unwrap();
            let address = first[0].local_addr().unwrap();
            assert_eq!(first.len(), count);
            for other in [1, 2] {
                assert_eq!(bind(address, other).unwrap_err().kind(), io::ErrorKind::AddrInUse);
            }
        }
    }

    //
    #[test]
    fn connections_wait_for_the_next_process_that_takes_the_socket() {
        let kept = Port::bind("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let address = kept.address();
        let hand_over = || {
            let duplicates = kept.listeners().iter().map(|kept| kept.try_clone().unwrap());
            Listeners::from(duplicates.collect::<Vec<_>>())
        };
        let first = hand_over().take_or_bind(address, 1).unwrap();
        assert_eq!(first.len(), 2, "all that there are");
        drop(first);
        assert!(kept.is_listening());
        let mut client = TcpStream::connect(address).unwrap();
        assert!(bind(address, 1).is_err());
        let second = hand_over();
        for listener in second.take_or_bind(address, 1).unwrap() {
            drop(listener.accept());
        }
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "it was accepted and closed");
        let other = second.take_or_bind("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        assert_eq!(other.len(), 3, "bound, because there is none");
    }

    //
    #[test]
    fn a_kept_port_is_renewed_and_refuses_clients_when_it_is_closed() {
        for count in [1, 3] {
            let mut port = Port::bind("127.0.0.1:0".parse().unwrap(), count).unwrap();
            let address = port.address();
            assert!(Port::bind(address, count).is_err());
            let duplicates: Vec<_> = port.listeners().iter().map(|it| it.try_clone().unwrap()).collect();
            SockRef::from(&duplicates[0]).shutdown(Shutdown::Read).unwrap();
            assert!(!port.is_listening());
            port.renew().unwrap();
            assert!(port.is_listening() && serves(&port));
            assert!(duplicates.iter().all(|it| !SockRef::from(it).is_listener().unwrap()));
            port.close_listeners();
            let refused = TcpStream::connect(address).unwrap_err().kind();
            assert_eq!(refused, io::ErrorKind::ConnectionRefused);
            assert!(bind(address, 1).is_err(), "it is kept");
            drop(port);
            assert!(bind(address, 1).is_ok());
        }
    }

    //
    #[test]
    fn who_has_a_duplicate_neither_frees_a_port_nor_keeps_it() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        for count in [1, 2] {
            let mut port = Port::bind("127.0.0.1:0".parse().unwrap(), count).unwrap();
            let held: Vec<_> = port.listeners().iter().map(|it| it.try_clone().unwrap()).collect();
            for socket in &held {
                as_user(W, socket, STOP);
            }
            assert!(!port.is_listening());
            assert_eq!(as_user(L, &held[0], TAKE), "");
            assert_eq!(as_user(L, &held[0], LISTEN), "listens\n");
            as_user(W, &held[0], DISTURB);
            assert!(!serves(&port));
            port.renew().unwrap();
            assert!(serves(&port));
            for socket in &held {
                for user in [W, L, NOBODY] {
                    assert_eq!(as_user(user, socket, LISTEN), "", "a retired one");
                    assert_eq!(as_user(user, socket, TAKE), "");
                }
            }
            assert!(serves(&port));
        }
    }
}
