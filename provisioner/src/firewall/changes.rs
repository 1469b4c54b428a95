//! Tells when any nftables rule of this host changes, by the kernel's own notifications: nothing runs, and
//! nothing is read, while no rule changes.

use std::io;
use std::os::unix::net::UnixDatagram as StdDatagram;

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::net::UnixDatagram;

/// The multicast group of nf_tables (`NFNLGRP_NFTABLES`, 7), as a bit.
const NFTABLES_GROUP: u32 = 1 << 6;
/// Bytes read at a time. The messages aren't parsed, and what doesn't fit is discarded.
const BUFFER: usize = 4096;

/// A subscription to changes.
#[derive(Debug)]
pub(super) struct Changes {
    /// A netlink socket. tokio has no type for those; of a datagram socket it only calls `recv`.
    socket: UnixDatagram,
}

impl Changes {
    /// Needs CAP_NET_ADMIN, as changing rules does.
    pub(super) fn subscribe() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let protocol = Some(netlink::NETFILTER);
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, protocol)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, NFTABLES_GROUP))?;
        Ok(Self { socket: UnixDatagram::from_std(StdDatagram::from(socket))? })
    }

    /// Waits for the next change. One return may stand for many changes.
    pub(super) async fn next(&self) -> io::Result<()> {
        self.socket.readable().await?;
        let mut buffer = [0; BUFFER];
        loop {
            match self.socket.try_recv(&mut buffer) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // More changes than the kernel keeps messages of are changes too.
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => {}
                Err(error) => return Err(error),
            }
        }
    }
}
