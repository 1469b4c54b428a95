//! A connection before login: its input buffer, and reads and writes with a deadline.

use std::cell::RefCell;
use std::io;
use std::net::IpAddr;

use tokio::time::{Instant, timeout_at};

use super::admission::Permit;
use super::rejection::Rejection;
use crate::login::Handshake;
use crate::metrics::denials::ClientInfo;
use crate::protocol::Protocol;
use crate::protocol::binary::header::Header;
use crate::transport::{Stream, proxy_protocol};

/// Bytes of one read.
const READ_MAX: usize = 2048;

/// How a connection was admitted.
pub(crate) enum Admission {
    /// New, with a permit to log in.
    Unauthenticated(Permit),
    /// New, and to be told that there are too many connections.
    Rejected(#[expect(dead_code, reason = "held until the connection ends")] Permit),
    /// Logged in before; logs in again.
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
    pub(super) async fn peek_first_byte(
        &mut self,
        deadline: Instant,
        scratch: &RefCell<Vec<u8>>,
    ) -> Option<u8> {
        if self.input.is_empty() {
            self.read(deadline, scratch).await.ok()?;
        }
        self.input.first().copied()
    }

    /// Closes gracefully. Others of the same source no longer wait for this connection.
    pub(super) async fn linger(&mut self, scratch: &RefCell<Vec<u8>>) {
        if let Admission::Unauthenticated(permit) = &mut self.admission {
            permit.release_source_slot();
        }
        self.stream.linger(scratch).await;
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

    /// Replies with `rejection` in the client's protocol, then closes.
    pub(super) async fn reject(
        mut self,
        rejection: &Rejection,
        protocol: Protocol,
        deadline: Instant,
        scratch: &RefCell<Vec<u8>>,
    ) -> Option<()> {
        match protocol {
            Protocol::Text => {
                timeout_at(deadline, self.write(rejection.text)).await.ok()?.ok()?;
            }
            Protocol::Binary => {
                let header = loop {
                    match Header::read(&self.input) {
                        Some(header) => break header,
                        None => self.read(deadline, scratch).await.ok()?,
                    }
                };
                timeout_at(deadline, self.write(&header.status(rejection.binary))).await.ok()?.ok()?;
            }
        }
        self.linger(scratch).await;
        Some(())
    }
}
