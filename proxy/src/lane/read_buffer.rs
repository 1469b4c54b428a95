//! The read buffer of a lane. A large value is written to its client from here. Bytes are only moved when the
//! buffer ends within a reply.

use std::cell::RefCell;
use std::io;

use tokio::net::TcpStream;

use crate::transport::tcp;

/// The size of a buffer in bytes: large reads need fewer system calls.
const SIZE: usize = 256 * 1024;
/// With less room than this, in bytes, the unread bytes are moved to the front before the next read.
const ROOM_MIN: usize = SIZE / 2;
/// Buffers kept for reuse. A lane holds one across an await only while a reply is incomplete.
const POOL_MAX: usize = 8;

/// The read buffers that the lanes of one worker share.
#[derive(Debug, Default)]
pub(crate) struct ReadBufferPool(RefCell<Vec<Vec<u8>>>);

impl ReadBufferPool {
    fn take(&self) -> Vec<u8> {
        self.0.borrow_mut().pop().unwrap_or_else(|| vec![0; SIZE])
    }

    fn give(&self, buffer: Vec<u8>) {
        let mut pool = self.0.borrow_mut();
        if pool.len() < POOL_MAX && buffer.len() == SIZE {
            pool.push(buffer);
        }
    }
}

pub(super) struct ReadBuffer<'a> {
    pool: &'a ReadBufferPool,
    /// Without capacity while there are no unread bytes.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl<'a> ReadBuffer<'a> {
    pub(super) fn new(pool: &'a ReadBufferPool) -> Self {
        Self { pool, buffer: Vec::new(), start: 0, end: 0 }
    }

    /// Reads once from the socket.
    pub(super) fn read(&mut self, stream: &TcpStream) -> io::Result<()> {
        if self.buffer.is_empty() {
            self.buffer = self.pool.take();
        }
        if self.start > 0 && self.buffer.len() - self.end < ROOM_MIN {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let room = self.buffer.get_mut(self.end..).unwrap_or_default();
        let read = tcp::read(stream, room);
        if let Ok(n) = &read {
            self.end += n;
        }
        self.consume(0);
        match read {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            read => read.map(drop),
        }
    }

    /// The bytes that were read and not consumed.
    pub(super) fn unread(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// Drops the first `len` unread bytes.
    pub(super) fn consume(&mut self, len: usize) {
        self.start = self.start.saturating_add(len).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            self.pool.give(std::mem::take(&mut self.buffer));
        }
    }
}

impl Drop for ReadBuffer<'_> {
    fn drop(&mut self) {
        self.pool.give(std::mem::take(&mut self.buffer));
    }
}
