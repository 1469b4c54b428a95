//! Listening sockets: bound by the process itself, or by the one that started it. That one keeps them while the process is away,
//! so that nobody else takes their ports.

mod port;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

pub use self::port::{Port, PortState};

/// Connections that the kernel queues until they are accepted.
const BACKLOG: i32 = 4096;

/// The listening sockets that a process was started with. Cheap to clone; each socket is taken once.
#[derive(Debug, Clone, Default)]
pub struct Listeners(Arc<Mutex<Vec<TcpListener>>>);

impl From<Vec<TcpListener>> for Listeners {
    fn from(listeners: Vec<TcpListener>) -> Self {
        Self(Arc::new(Mutex::new(listeners)))
    }
}

impl Listeners {
    /// Takes those that are bound to an address, however many there are; they may not [listen] yet. If there is none, binds
    /// `count`.
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

    /// The same for one socket of a tokio runtime, which listens.
    ///
    /// # Errors
    /// As [`bind`].
    pub fn take_or_bind_one(&self, address: SocketAddr) -> io::Result<tokio::net::TcpListener> {
        let listener = self.take_or_bind(address, 1)?.pop().ok_or(io::ErrorKind::AddrNotAvailable)?;
        listen(&listener)?;
        tokio::net::TcpListener::from_std(listener)
    }
}

/// Makes a socket listen. Does nothing to one that listens already.
///
/// # Errors
/// If the system refuses.
pub fn listen(listener: &TcpListener) -> io::Result<()> {
    SockRef::from(listener).listen(BACKLOG)
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

fn open(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = stream(Domain::for_address(address))?;
    share(&socket, shared)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn stream(domain: Domain) -> io::Result<Socket> {
    Socket::new(domain, Type::STREAM, Some(Protocol::TCP))
}

/// Prepares a socket to be bound, beside connections of an earlier process, and beside others that listen if it is `shared`.
fn share(socket: &Socket, shared: bool) -> io::Result<()> {
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpStream;

    use super::*;

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
}
