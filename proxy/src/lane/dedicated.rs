//! A dedicated lane: a connection to memcached that one session uses for one request at a time, for large
//! values and untagged commands. Its buffer is small and fixed.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::rc::Rc;

use memchr::memchr;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::decode::{self, Decoded, ProtocolError, TaggedReply, VALUE_END, ValueLimits};
use super::faults::LaneFaults;
use super::{REPLY_TIMEOUT, Route, connect};
use crate::metrics::ConnectionGuard;
use crate::protocol::request::{CommandKind, Fault, ValueHeader};
use crate::transport::tcp;

/// The size of one read, in bytes.
pub(crate) const CHUNK_MAX: usize = 64 * 1024;
/// The longest line of an untagged reply, in bytes.
const LINE_MAX: usize = 2048;

pub(crate) struct DedicatedLane {
    stream: TcpStream,
    /// Bytes that were read and not used yet.
    input: Vec<u8>,
    value_max: usize,
    pub(crate) generation: i64,
    pub(crate) idle_since: Instant,
    address: SocketAddr,
    faults: Rc<LaneFaults>,
    _open: ConnectionGuard,
}

/// The start of a reply.
pub(crate) enum ReplyStart {
    /// A complete reply of `len` bytes: see [`DedicatedLane::complete_reply`].
    Complete { len: usize },
    /// A line of `line` bytes, and a value of `len` bytes to read with [`DedicatedLane::read_chunk`].
    Value { line: usize, len: usize },
}

impl DedicatedLane {
    /// Connects along `route`; `None` if that fails. Records in `faults` what memcached does wrong.
    pub(crate) async fn open(route: &Route, faults: Rc<LaneFaults>) -> Option<Self> {
        let (stream, _) = match connect::connect(route).await {
            Ok(connected) => {
                faults.reachability.answered();
                connected
            }
            Err(error) => {
                faults.connect_failed(route.address, &error);
                return None;
            }
        };
        let Route { address, generation, value_max, .. } = *route;
        let (input, idle_since) = (Vec::new(), Instant::now());
        let open = ConnectionGuard::new(faults.dedicated_lanes());
        Some(Self { stream, input, value_max, generation, idle_since, address, faults, _open: open })
    }

    /// Whether the connection is open, and nothing is left to read.
    pub(crate) fn is_reusable(&self) -> bool {
        let mut byte = [0];
        let read = self.stream.try_read(&mut byte);
        self.input.is_empty() && read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Writes all of `bytes`.
    pub(crate) async fn write(&self, bytes: &[u8]) -> Result<(), Fault> {
        let written = timeout(REPLY_TIMEOUT, connect::write(&self.stream, bytes)).await;
        written.map_err(|_| self.timed_out())?.map_err(|_| Fault::Unavailable)
    }

    /// Writes what the socket accepts now. Returns how many bytes that was.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> Result<usize, Fault> {
        match self.stream.try_write(bytes) {
            Ok(written) => Ok(written),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(_) => Err(Fault::Unavailable),
        }
    }

    /// Reads the reply to a request of `kind` with `tag`, up to its value if there is one.
    pub(crate) async fn read_reply(
        &mut self,
        kind: CommandKind,
        tag: u64,
        scratch: &RefCell<Vec<u8>>,
    ) -> Result<ReplyStart, Fault> {
        loop {
            match self.decode() {
                Ok(Some(Decoded::Complete(reply))) if reply.answers(kind, tag) => {
                    return Ok(ReplyStart::Complete { len: reply.consumed });
                }
                Ok(Some(Decoded::LargeValue { header, tag: received, consumed }))
                    if received == Some(tag) && decode::may_be_large(kind) =>
                {
                    return Ok(ReplyStart::Value { line: consumed, len: header.len });
                }
                Ok(Some(_)) => return Err(self.protocol_error(ProtocolError::Mismatch)),
                Ok(None) => self.fill(scratch).await?,
                Err(error) => return Err(self.protocol_error(error)),
            }
        }
    }

    fn decode(&self) -> Result<Option<Decoded<'_>>, ProtocolError> {
        decode::parse(&self.input, ValueLimits { max: self.value_max, inline_max: 0 })
    }

    /// The complete reply that [`DedicatedLane::read_reply`] has found.
    pub(crate) fn complete_reply(&self) -> Option<TaggedReply<'_>> {
        match self.decode() {
            Ok(Some(Decoded::Complete(reply))) => Some(reply),
            _ => None,
        }
    }

    /// The header of the value that [`DedicatedLane::read_reply`] has found.
    pub(crate) fn value_header(&self) -> Option<ValueHeader<'_>> {
        match self.decode() {
            Ok(Some(Decoded::LargeValue { header, .. })) => Some(header),
            _ => None,
        }
    }

    /// Passes up to `max` bytes to `forward`; reads first if there are none. Returns how many bytes that was.
    pub(crate) async fn read_chunk<F: FnOnce(&[u8])>(
        &mut self,
        max: usize,
        scratch: &RefCell<Vec<u8>>,
        forward: F,
    ) -> Result<usize, Fault> {
        if self.input.is_empty() {
            self.fill(scratch).await?;
        }
        let chunk = self.input.get(..max).unwrap_or(&self.input);
        forward(chunk);
        let len = chunk.len();
        self.discard(len);
        Ok(len)
    }

    /// Reads the line end behind a value.
    pub(crate) async fn read_value_end(&mut self, scratch: &RefCell<Vec<u8>>) -> Result<(), Fault> {
        while self.input.len() < VALUE_END.len() {
            self.fill(scratch).await?;
        }
        if !self.input.starts_with(VALUE_END) {
            return Err(self.protocol_error(ProtocolError::Value));
        }
        self.discard(VALUE_END.len());
        Ok(())
    }

    /// Reads the next line and passes it to `parse` without its line end.
    pub(crate) async fn read_line<T, F>(&mut self, scratch: &RefCell<Vec<u8>>, parse: F) -> Result<T, Fault>
    where
        F: FnOnce(&[u8]) -> ControlFlow<ProtocolError, T>,
    {
        loop {
            if let Some(end) = memchr(b'\n', &self.input) {
                let line = self.input.get(..end).and_then(|line| line.strip_suffix(b"\r"));
                let parsed = line.map_or(ControlFlow::Break(ProtocolError::Status), parse);
                self.discard(end + 1);
                return match parsed {
                    ControlFlow::Continue(parsed) => Ok(parsed),
                    ControlFlow::Break(error) => Err(self.protocol_error(error)),
                };
            }
            if self.input.len() > LINE_MAX {
                return Err(self.protocol_error(ProtocolError::EndlessLine));
            }
            self.fill(scratch).await?;
        }
    }

    /// Discards the first `len` bytes.
    pub(crate) fn discard(&mut self, len: usize) {
        self.input.drain(..len.min(self.input.len()));
        if self.input.is_empty() {
            self.input = Vec::new();
        }
    }

    /// Reads up to [`CHUNK_MAX`] bytes.
    async fn fill(&mut self, scratch: &RefCell<Vec<u8>>) -> Result<(), Fault> {
        loop {
            let readable = timeout(REPLY_TIMEOUT, tcp::readable(&self.stream)).await;
            readable.map_err(|_| self.timed_out())?.map_err(|_| Fault::Unavailable)?;
            let mut scratch = scratch.borrow_mut();
            let Some(room) = scratch.get_mut(..CHUNK_MAX) else { return Err(Fault::Unavailable) };
            match tcp::read(&self.stream, room) {
                Ok(0) => return Err(Fault::Unavailable),
                Ok(n) => {
                    self.faults.reachability.answered();
                    self.input.extend_from_slice(room.get(..n).unwrap_or_default());
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(Fault::Unavailable),
            }
        }
    }

    fn timed_out(&self) -> Fault {
        self.faults.reachability.timed_out();
        Fault::TimedOut
    }

    fn protocol_error(&self, error: ProtocolError) -> Fault {
        self.faults.violation(self.address, error);
        Fault::Unavailable
    }
}
