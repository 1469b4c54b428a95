//! A connection before login: its input buffer, and reads and writes with a deadline.

use std::cell::RefCell;
use std::io;
use std::net::IpAddr;

use tokio::time::{Instant, timeout_at};

use super::admission::{Eviction, Permit};
use super::rejection::Rejection;
use crate::login::Handshake;
use crate::metrics::denials::ClientInfo;
use crate::protocol::Protocol;
use crate::protocol::binary::header::Header;
use crate::transport::{Stream, proxy_protocol};

/// Bytes of one read.
const READ_MAX: usize = 2048;

/// How a connection was admitted, and where it counts.
pub(crate) enum Admission {
    /// New, with a permit to log in.
    Unauthenticated(Permit),
    /// Closes after a last reply.
    Closing(Permit),
    /// Logged in before; logs in again. Its session stays registered meanwhile, so it counts in its plan.
    Reauthenticating,
}

/// A connection that has not logged in yet.
pub(crate) struct PendingConnection {
    pub(crate) stream: Stream,
    /// The client's address: the peer's, or the one that a trusted load balancer sent in its PROXY header. It is
    /// determined once for the connection's life.
    pub(crate) source: IpAddr,
    pub(crate) admission: Admission,
    /// Bytes that were read and not yet consumed.
    pub(crate) input: Vec<u8>,
}

impl PendingConnection {
    /// Reads the PROXY header that a load balancer must send first, and takes its source address.
    pub(super) async fn read_proxy_header(
        &mut self,
        deadline: Instant,
        scratch: &RefCell<Vec<u8>>,
    ) -> io::Result<()> {
        loop {
            match proxy_protocol::Header::read(&self.input) {
                Ok(Some(header)) => {
                    self.input.drain(..header.consumed);
                    self.source = header.source.map_or(self.source, |source| source.to_canonical());
                    return Ok(());
                }
                Ok(None) => self.read(deadline, scratch).await?,
                Err(proxy_protocol::Malformed) => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }

    pub(super) fn client_info(&self, protocol: Protocol) -> ClientInfo {
        ClientInfo::new(self.source, Some(protocol), &self.stream)
    }

    /// Peeks at the first byte; it stays in `input`.
    ///
    /// # Errors
    ///
    /// As [`PendingConnection::read`].
    pub(super) async fn peek_first_byte(
        &mut self,
        deadline: Instant,
        scratch: &RefCell<Vec<u8>>,
    ) -> io::Result<u8> {
        if self.input.is_empty() {
            self.read(deadline, scratch).await?;
        }
        self.input.first().copied().ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Takes a slot of the source; returns whether there was one.
    pub(super) fn begin_login(&mut self) -> bool {
        match &mut self.admission {
            Admission::Unauthenticated(permit) => permit.begin_login().is_ok(),
            Admission::Closing(_) => false,
            Admission::Reauthenticating => true,
        }
    }

    /// Tells when the connection must close for another one.
    pub(super) fn eviction(&self) -> Eviction {
        match &self.admission {
            Admission::Unauthenticated(permit) => permit.eviction(),
            Admission::Closing(_) | Admission::Reauthenticating => Eviction::NEVER,
        }
    }

    /// Counts the connection as one that closes after a last reply; `None` if there are too many of them. It frees its
    /// source's slot, so others no longer wait for it.
    pub(super) fn into_closing(self) -> Option<Self> {
        let admission = match self.admission {
            Admission::Unauthenticated(permit) => Admission::Closing(permit.close()?),
            admission => admission,
        };
        Some(Self { admission, ..self })
    }

    /// Reads at least one byte. The buffer grows by what arrives, never by a declared length.
    ///
    /// # Errors
    ///
    /// `TimedOut` at the deadline, `UnexpectedEof` when the client has closed, `OutOfMemory` when the buffer is full.
    pub(super) async fn read(&mut self, deadline: Instant, scratch: &RefCell<Vec<u8>>) -> io::Result<()> {
        if self.input.len() >= Handshake::BUFFER_MAX {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        loop {
            timeout_at(deadline, self.stream.readable()).await.map_err(|_| io::ErrorKind::TimedOut)??;
            let mut scratch = scratch.borrow_mut();
            let chunk = scratch.get_mut(..READ_MAX).unwrap_or_default();
            match self.stream.read(chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    self.input.extend_from_slice(chunk.get(..n).unwrap_or_default());
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes all bytes and flushes them.
    pub(super) async fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.stream.writable().await?;
            match self.stream.write(bytes) {
                Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        while let Err(error) = self.stream.flush() {
            if error.kind() != io::ErrorKind::WouldBlock {
                return Err(error);
            }
            self.stream.writable().await?;
        }
        Ok(())
    }

    /// Replies with `rejection` in the client's protocol, then closes. A connection that can't be counted meanwhile closes
    /// at once.
    pub(super) async fn reject(
        self,
        rejection: &Rejection,
        protocol: Protocol,
        deadline: Instant,
        scratch: &RefCell<Vec<u8>>,
    ) -> Option<()> {
        let mut closing = self.into_closing()?;
        match protocol {
            Protocol::Text => {
                timeout_at(deadline, closing.write(rejection.text)).await.ok()?.ok()?;
            }
            Protocol::Binary => {
                let header = loop {
                    match Header::read(&closing.input) {
                        Some(header) => break header,
                        None => closing.read(deadline, scratch).await.ok()?,
                    }
                };
                timeout_at(deadline, closing.write(&header.status(rejection.binary))).await.ok()?.ok()?;
            }
        }
        closing.stream.linger(scratch).await;
        Some(())
    }

    /// Closes gracefully after the last reply, which has been written.
    pub(super) async fn linger(self, scratch: &RefCell<Vec<u8>>) {
        if let Some(closing) = self.into_closing() {
            closing.stream.linger(scratch).await;
        }
    }
}
