//! Guessing: nobody learns by the clock who exists, and whoever guesses in numbers changes nothing for others.
//! The proxy is a process of its own here, so that its memory is its own.
//!
//! With MEMGATE_TEST_LONG=1 as many as the threat says; then build it optimised: `cargo test --release`.

#[path = "guessing/bare.rs"]
mod bare;
#[expect(dead_code, reason = "only the text protocol is spoken here")]
#[path = "support/door.rs"]
mod door;
#[path = "guessing/flood.rs"]
mod flood;
#[path = "guessing/house.rs"]
mod house;
#[expect(dead_code, reason = "here it stands alone, behind no proxy")]
#[path = "support/memcached.rs"]
mod memcached;
#[path = "guessing/welch.rs"]
mod welch;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};
use tokio::net::TcpStream;

/// So much as the threats say, and not just enough to see that the test works.
fn is_long() -> bool {
    std::env::var_os("MEMGATE_TEST_LONG").is_some()
}

/// One of this machine's many loopback addresses.
fn loopback(number: usize) -> IpAddr {
    let [_, b, c, d] = u32::try_from(number + 512).unwrap().to_be_bytes();
    Ipv4Addr::new(127, b, c, d).into()
}

/// A connection that leaves nothing behind when it is dropped: no address waits for its last packets.
async fn call_from(source: IpAddr, listener: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_linger(Some(std::time::Duration::ZERO))?;
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    let socket = tokio::net::TcpSocket::from_std_stream(socket.into());
    socket.connect(listener).await
}
