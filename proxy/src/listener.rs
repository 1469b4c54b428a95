//! Listening sockets: one per worker on the same port (SO_REUSEPORT); the kernel spreads connections over them.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

use crate::Error;

/// Connections that the kernel queues until they are accepted.
const BACKLOG: i32 = 4096;

/// Binds `count` listeners to one address.
///
/// # Errors
///
/// If the port is taken, also by another program that shares it, or may not be bound.
pub(crate) fn bind(address: SocketAddr, count: usize) -> Result<Vec<TcpListener>, Error> {
    let failed = |source| Error::Bind { address, source };
    // A trial without SO_REUSEPORT finds a port that another program shares.
    drop(open(address, false).map_err(failed)?);
    let first = open(address, true).map_err(failed)?;
    // With port 0 the others use the port that the first was given.
    let bound = first.local_addr().map_err(failed)?;
    let mut listeners = vec![first];
    for _ in 1..count {
        listeners.push(open(bound, true).map_err(failed)?);
    }
    Ok(listeners)
}

fn open(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_an_error() {
        let first = bind("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let address = first[0].local_addr().unwrap();
        assert!(matches!(bind(address, 1), Err(Error::Bind { .. })));
    }
}
