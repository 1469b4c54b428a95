//! Tells when any nftables rule of this host changes, by the kernel's own notifications: nothing runs, and
//! nothing is read, while no rule changes.

use std::io;
use std::os::unix::net::UnixDatagram as StdDatagram;
use std::time::Duration;

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::net::UnixDatagram;
use tokio::time::sleep;

/// The multicast group of nf_tables (`NFNLGRP_NFTABLES`, 7), as a bit.
const NFTABLES_GROUP: u32 = 1 << 6;
/// Bytes read at a time. The messages aren't parsed, and what doesn't fit is discarded.
const BUFFER: usize = 4096;

/// Changes by a subscription that is renewed when it fails.
#[derive(Debug, Default)]
pub(super) struct Watch {
    changes: Option<Changes>,
    /// Logged once, until the kernel tells of a change again.
    is_failing: bool,
}

impl Watch {
    /// Waits for the next change. A subscription that is new counts as a change, since changes may have been
    /// missed; without one, this returns after `poll_interval`.
    pub(super) async fn next(&mut self, poll_interval: Duration) {
        let next = match self.changes.take() {
            Some(changes) => {
                let next = changes.next().await;
                next.map(|()| {
                    self.is_failing = false;
                    changes
                })
            }
            None => Changes::subscribe(),
        };
        match next {
            Ok(changes) => self.changes = Some(changes),
            Err(error) => {
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::warn!(%error, "the kernel doesn't tell of changes of firewall rules: polling");
                }
                sleep(poll_interval).await;
            }
        }
    }
}

/// A subscription to changes.
#[derive(Debug)]
struct Changes {
    /// A netlink socket. tokio has no type for those; of a datagram socket it only calls `recv`.
    socket: UnixDatagram,
}

impl Changes {
    /// Needs CAP_NET_ADMIN, as changing rules does.
    fn subscribe() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let protocol = Some(netlink::NETFILTER);
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, protocol)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, NFTABLES_GROUP))?;
        Ok(Self { socket: UnixDatagram::from_std(StdDatagram::from(socket))? })
    }

    /// Waits for the next change. One return may stand for many changes.
    async fn next(&self) -> io::Result<()> {
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

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::OwnedFd;

    use super::*;

    /// A socket whose next read fails.
    fn failing_socket() -> UnixDatagram {
        let (peer, socket) =
            (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        socket.connect(peer.local_addr().unwrap()).unwrap();
        peer.send_to(b"readable", socket.local_addr().unwrap()).unwrap();
        drop(peer);
        socket.send(b"refused").unwrap();
        socket.set_nonblocking(true).unwrap();
        UnixDatagram::from_std(StdDatagram::from(OwnedFd::from(socket))).unwrap()
    }

    //
    #[tokio::test]
    async fn a_subscription_that_fails_is_renewed() {
        let changes = Changes { socket: failing_socket() };
        let mut watch = Watch { changes: Some(changes), is_failing: false };
        watch.next(Duration::ZERO).await;
        assert!(watch.changes.is_none() && watch.is_failing);
        watch.next(Duration::ZERO).await;
        // Not allowed to every user.
        assert_eq!(watch.changes.is_some(), Changes::subscribe().is_ok(), "subscribed again");
        assert!(watch.is_failing, "not logged again until the kernel tells of a change");
    }
}
