//! A lane that one client has to itself for a while: for values too long to be shared with others, for a
//! client that reads slowly, and for what carries no tag. One request at a time, a small fixed buffer.

use std::cell::RefCell;
use std::io;
use std::ops::ControlFlow;

use memchr::memchr;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::decode::{self, Answered, Decoded, ProtocolError, VALUE_END, ValueLimits};
use super::{REPLY_DEADLINE, Target, connect};
use crate::protocol::request::{CommandKind, Fault, ValueHeader};
use crate::transport::tcp;

/// What is read or kept at once.
pub(crate) const BUFFER: usize = 64 * 1024;
/// The longest line of what carries no tag.
const LINE_MAX: usize = 2048;

pub(crate) struct Own {
    stream: TcpStream,
    /// Read, not used yet.
    input: Vec<u8>,
    value_max: usize,
    pub(crate) generation: i64,
    pub(crate) since: Instant,
}

/// The beginning of an answer.
pub(crate) enum Said {
    /// All of it: what [`Own::answer`] gives.
    Whole { len: usize },
    /// Up to its value, which [`Own::take`] gives piece by piece.
    Value { line: usize, len: usize },
}

impl Own {
    pub(crate) async fn open(target: &Target) -> io::Result<Self> {
        let (stream, _) = connect::dial(target).await?;
        let (value_max, generation) = (target.value_max, target.generation);
        Ok(Self { stream, input: Vec::new(), value_max, generation, since: Instant::now() })
    }

    /// Whether it can be used by the next: open, and nothing left to read.
    pub(crate) fn is_clean(&self) -> bool {
        let mut byte = [0];
        let silent = self.stream.try_read(&mut byte);
        self.input.is_empty() && silent.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Writes all of it.
    pub(crate) async fn write(&self, bytes: &[u8]) -> Result<(), Fault> {
        let written = timeout(REPLY_DEADLINE, connect::write(&self.stream, bytes)).await;
        written.map_err(|_| Fault::TimedOut)?.map_err(|_| Fault::Unavailable)
    }

    /// Writes as much as the socket takes now.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> Result<usize, Fault> {
        match self.stream.try_write(bytes) {
            Ok(written) => Ok(written),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(_) => Err(Fault::Unavailable),
        }
    }

    /// Reads until there is an answer, or the beginning of one, to a request of `kind` with `tag`.
    pub(crate) async fn hear(
        &mut self,
        kind: CommandKind,
        tag: u64,
        scratch: &RefCell<Vec<u8>>,
    ) -> Result<Said, Fault> {
        loop {
            match self.heard() {
                Ok(Some(Decoded::Whole(answered))) if answered.answers(kind, tag) => {
                    return Ok(Said::Whole { len: answered.consumed });
                }
                Ok(Some(Decoded::Long { head, tag: theirs, consumed }))
                    if theirs == Some(tag) && decode::gives_long_value(kind) =>
                {
                    return Ok(Said::Value { line: consumed, len: head.len });
                }
                Ok(Some(_)) => return Err(garbage(ProtocolError::Mismatch)),
                Ok(None) => self.more(scratch).await?,
                Err(wrong) => return Err(garbage(wrong)),
            }
        }
    }

    fn heard(&self) -> Result<Option<Decoded<'_>>, ProtocolError> {
        decode::parse(&self.input, ValueLimits { most: self.value_max, whole: 0 })
    }

    /// The answer that [`Own::hear`] has found to be whole.
    pub(crate) fn answer(&self) -> Option<Answered<'_>> {
        match self.heard() {
            Ok(Some(Decoded::Whole(answered))) => Some(answered),
            _ => None,
        }
    }

    /// The head of the value that [`Own::hear`] has found.
    pub(crate) fn head(&self) -> Option<ValueHeader<'_>> {
        match self.heard() {
            Ok(Some(Decoded::Long { head, .. })) => Some(head),
            _ => None,
        }
    }

    /// Gives up to `most` bytes to `take`; reads them first if there are none.
    pub(crate) async fn take<F: FnOnce(&[u8])>(
        &mut self,
        most: usize,
        scratch: &RefCell<Vec<u8>>,
        take: F,
    ) -> Result<usize, Fault> {
        if self.input.is_empty() {
            self.more(scratch).await?;
        }
        let piece = self.input.get(..most).unwrap_or(&self.input);
        take(piece);
        let len = piece.len();
        self.skip(len);
        Ok(len)
    }

    /// Reads what stands behind a value.
    pub(crate) async fn take_value_end(&mut self, scratch: &RefCell<Vec<u8>>) -> Result<(), Fault> {
        while self.input.len() < VALUE_END.len() {
            self.more(scratch).await?;
        }
        if !self.input.starts_with(VALUE_END) {
            return Err(garbage(ProtocolError::Value));
        }
        self.skip(VALUE_END.len());
        Ok(())
    }

    /// Gives the next line, without its end, to `take`.
    pub(crate) async fn take_line<T, F>(&mut self, scratch: &RefCell<Vec<u8>>, take: F) -> Result<T, Fault>
    where
        F: FnOnce(&[u8]) -> ControlFlow<ProtocolError, T>,
    {
        loop {
            if let Some(end) = memchr(b'\n', &self.input) {
                let line = self.input.get(..end).and_then(|line| line.strip_suffix(b"\r"));
                let taken = line.map_or(ControlFlow::Break(ProtocolError::Status), take);
                self.skip(end + 1);
                return match taken {
                    ControlFlow::Continue(taken) => Ok(taken),
                    ControlFlow::Break(wrong) => Err(garbage(wrong)),
                };
            }
            if self.input.len() > LINE_MAX {
                return Err(garbage(ProtocolError::EndlessLine));
            }
            self.more(scratch).await?;
        }
    }

    /// Throws the first `len` bytes away.
    pub(crate) fn skip(&mut self, len: usize) {
        self.input.drain(..len.min(self.input.len()));
        if self.input.is_empty() {
            self.input = Vec::new();
        }
    }

    /// Reads what comes, up to [`BUFFER`].
    async fn more(&mut self, scratch: &RefCell<Vec<u8>>) -> Result<(), Fault> {
        loop {
            let readable = timeout(REPLY_DEADLINE, tcp::readable(&self.stream)).await;
            readable.map_err(|_| Fault::TimedOut)?.map_err(|_| Fault::Unavailable)?;
            let mut scratch = scratch.borrow_mut();
            let Some(room) = scratch.get_mut(..BUFFER) else { return Err(Fault::Unavailable) };
            match tcp::read(&self.stream, room) {
                Ok(0) => return Err(Fault::Unavailable),
                Ok(n) => {
                    self.input.extend_from_slice(room.get(..n).unwrap_or_default());
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(Fault::Unavailable),
            }
        }
    }
}

fn garbage(wrong: ProtocolError) -> Fault {
    tracing::warn!(garbage = %wrong, "a lane ends: memcached said what it can't say here");
    Fault::Unavailable
}
