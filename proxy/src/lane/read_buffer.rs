//! What a lane reads into. A large reply is handed on from where it was read: nothing is copied unless a
//! buffer ends in the middle of it.

use std::cell::RefCell;
use std::io;

use tokio::net::TcpStream;

use crate::transport::tcp;

/// Large reads are cheap ones.
const SIZE: usize = 256 * 1024;
/// With less room than this, what is left over is moved to the front first.
const ROOM_MIN: usize = SIZE / 2;
/// Buffers that wait for the next lane: one is in use between two awaits, others only while a reply has
/// arrived by half.
const SPARE_MAX: usize = 8;

/// The buffers of one worker's lanes.
#[derive(Debug, Default)]
pub(crate) struct Buffers(RefCell<Vec<Vec<u8>>>);

impl Buffers {
    fn take(&self) -> Vec<u8> {
        self.0.borrow_mut().pop().unwrap_or_else(|| vec![0; SIZE])
    }

    fn give(&self, buffer: Vec<u8>) {
        let mut spare = self.0.borrow_mut();
        if spare.len() < SPARE_MAX && buffer.len() == SIZE {
            spare.push(buffer);
        }
    }
}

/// One lane's.
pub(super) struct ReadBuffer<'a> {
    buffers: &'a Buffers,
    /// Empty while there is nothing in it.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl<'a> ReadBuffer<'a> {
    pub(super) fn new(buffers: &'a Buffers) -> Self {
        Self { buffers, buffer: Vec::new(), start: 0, end: 0 }
    }

    /// Reads once.
    pub(super) fn read(&mut self, stream: &TcpStream) -> io::Result<()> {
        if self.buffer.is_empty() {
            self.buffer = self.buffers.take();
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

    /// What has been read and not consumed.
    pub(super) fn unread(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    pub(super) fn consume(&mut self, len: usize) {
        self.start = self.start.saturating_add(len).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            self.buffers.give(std::mem::take(&mut self.buffer));
        }
    }
}

impl Drop for ReadBuffer<'_> {
    fn drop(&mut self) {
        self.buffers.give(std::mem::take(&mut self.buffer));
    }
}
