//! Guessing credentials: response times don't tell which ids exist, and a flood of guesses doesn't slow
//! other clients down. The proxy is a process of its own, so that its memory can be measured.
//!
//! With `MEMGATE_TEST_LONG=1` in the amounts of docs/security.md; then build with optimisation: `cargo
//! test --release`.

mod baseline;
mod flood;
mod proxy_process;
mod timing;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};
use tokio::net::TcpStream;

/// Returns one of this machine's loopback addresses.
fn loopback(number: usize) -> IpAddr {
    let [_, b, c, d] = u32::try_from(number + 512).unwrap().to_be_bytes();
    Ipv4Addr::new(127, b, c, d).into()
}

/// Connects without leaving a socket in TIME_WAIT when dropped.
async fn connect_from(source: IpAddr, listener: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_linger(Some(std::time::Duration::ZERO))?;
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    let socket = tokio::net::TcpSocket::from_std_stream(socket.into());
    socket.connect(listener).await
}
