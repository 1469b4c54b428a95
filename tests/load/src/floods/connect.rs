//! Connections from chosen source addresses.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::{TcpSocket, TcpStream};

/// Source ports. The kernel's own choice gets slow when thousands of an address are in use.
const PORTS: Range<u16> = 10_000..65_000;
/// Attempts to find a port that isn't in use towards the target.
const ATTEMPTS: usize = 100;
/// The kernel's least buffer of a socket that never reads.
const SMALL_BUFFER: u32 = 2_304;

/// Connects from `source`; `None` leaves the source to the kernel. With `small_buffer` the server can send little before
/// it must wait.
pub(super) async fn connect(
    target: SocketAddr,
    source: Option<Ipv4Addr>,
    small_buffer: bool,
) -> io::Result<TcpStream> {
    let mut last = ErrorKind::AddrNotAvailable.into();
    for _ in 0..ATTEMPTS {
        let socket = TcpSocket::new_v4()?;
        socket.set_nodelay(true)?;
        if small_buffer {
            socket.set_recv_buffer_size(SMALL_BUFFER)?;
        }
        let Some(source) = source else { return socket.connect(target).await };
        socket.set_reuseaddr(true)?;
        let connected = match socket.bind(SocketAddr::new(IpAddr::V4(source), next_port())) {
            Ok(()) => socket.connect(target).await,
            Err(error) => Err(error),
        };
        match connected {
            Err(error) if matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable) => {
                last = error;
            }
            connected => return connected,
        }
    }
    Err(last)
}

/// Ports in turn. Each process begins elsewhere.
fn next_port() -> u16 {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let start = std::process::id() as usize * 7_919;
    let number = (start + NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS.len();
    PORTS.start + u16::try_from(number).unwrap_or(0)
}
