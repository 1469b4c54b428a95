//! Ports, and connections from chosen source addresses.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// Returns a free address on 127.0.0.1 that no other test of this process gets. The port is below the range for
/// outgoing connections (`ip_local_port_range`), so that none can take it before the test binds it.
pub fn free_port() -> SocketAddr {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + u16::try_from(std::process::id() % 1_000).unwrap() * 20;
    loop {
        let port = first + TAKEN.fetch_add(1, Ordering::Relaxed);
        // Also free on all addresses: some tests bind those.
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return SocketAddr::from(([127, 0, 0, 1], port));
        }
    }
}

/// Connects to `target` from `source`, one of this machine's loopback addresses. Reads time out after 10 s.
///
/// # Errors
/// When the socket can't be bound or connected.
pub fn connect_from(source: IpAddr, target: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    socket.connect(&target.into())?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}
