//! The bytes on their way to one client: a buffer in front of the client's stream.

use std::cell::{Cell, OnceCell, RefCell};
use std::io::{self, IoSlice};
use std::rc::Rc;

use crate::buffers::HeldBytes;
use crate::metrics::usage::Usage;
use crate::transport::Stream;

/// Buffers that a worker keeps for reuse.
const POOL_MAX: usize = 64;
/// The largest buffer that is kept, in bytes.
const POOLED_BUFFER_MAX: usize = 256 * 1024;
/// The largest buffer that is taken for a few bytes, in bytes.
const KEPT_BUFFER_MAX: usize = 16 * 1024;
/// The most bytes that rustls keeps of records that the socket hasn't accepted.
const TLS_PENDING_MAX: usize = 64 * 1024;

/// A worker's buffers for reuse: an idle session holds none.
#[derive(Default)]
pub(crate) struct BufferPool(RefCell<Vec<Vec<u8>>>);

impl BufferPool {
    pub(crate) fn take(&self) -> Vec<u8> {
        self.0.borrow_mut().pop().unwrap_or_default()
    }

    /// A buffer for `bytes` bytes that stay a while: not one that is much larger, since all of it counts.
    pub(crate) fn take_for(&self, bytes: usize) -> Vec<u8> {
        let mut pool = self.0.borrow_mut();
        let fits = |buffer: &Vec<u8>| buffer.capacity() <= bytes.max(KEPT_BUFFER_MAX);
        if pool.last().is_some_and(fits) { pool.pop().unwrap_or_default() } else { Vec::new() }
    }

    pub(crate) fn give(&self, mut buffer: Vec<u8>) {
        let mut pool = self.0.borrow_mut();
        if pool.len() < POOL_MAX && (1..=POOLED_BUFFER_MAX).contains(&buffer.capacity()) {
            buffer.clear();
            pool.push(buffer);
        }
    }
}

pub(super) struct WriteBuffer {
    pub(super) stream: Stream,
    pub(super) pool: Rc<BufferPool>,
    pub(super) buffer: RefCell<Vec<u8>>,
    /// Bytes of the buffer that the socket has accepted.
    sent: Cell<usize>,
    /// Whether the socket accepts no more bytes for now.
    pub(super) blocked: Cell<bool>,
    /// Whether the connection is closed. Nothing more is written.
    pub(super) broken: Cell<bool>,
    /// Counts the bytes that the client's socket accepts, and those that it doesn't.
    pub(super) account: OnceCell<Account>,
}

/// Where the bytes of an authenticated connection are counted.
pub(super) struct Account {
    pub(super) usage: Rc<Usage>,
    pub(super) held: HeldBytes,
}

impl WriteBuffer {
    pub(super) fn new(stream: Stream, pool: Rc<BufferPool>) -> Self {
        Self {
            stream,
            pool,
            buffer: RefCell::default(),
            sent: Cell::new(0),
            blocked: Cell::new(false),
            broken: Cell::new(false),
            account: OnceCell::new(),
        }
    }

    /// Bytes that the socket hasn't accepted. Encrypted bytes count as one.
    pub(super) fn unsent(&self) -> usize {
        self.buffer.borrow().len() - self.sent.get() + usize::from(self.stream.has_pending_tls())
    }

    /// Discards all bytes and marks the connection as closed.
    pub(super) fn abort(&self) {
        self.broken.set(true);
        self.buffer.borrow_mut().clear();
        self.sent.set(0);
        self.blocked.set(false);
        if let Some(account) = self.account.get() {
            account.held.clear_output();
        }
    }

    /// Lets `write` append to the buffer, unless the connection is closed.
    pub(super) fn append<F: FnOnce(&mut Vec<u8>)>(&self, write: F) {
        if self.broken.get() {
            return;
        }
        let mut buffer = self.buffer.borrow_mut();
        if buffer.capacity() == 0 {
            *buffer = self.pool.take();
        }
        write(&mut buffer);
    }

    /// Writes the buffer, `data` and `tail` at once. Only what the socket doesn't accept is copied.
    pub(super) fn write_through(&self, data: &[u8], tail: &[u8]) {
        if self.broken.get() {
            return;
        }
        let mut buffer = self.buffer.borrow_mut();
        let waiting = buffer.get(self.sent.get()..).unwrap_or_default();
        let slices = [waiting, data, tail];
        let written = if self.blocked.get() {
            0
        } else {
            // The next flush meets the same error, and handles it.
            self.stream.write_vectored(&slices.map(IoSlice::new)).unwrap_or(0)
        };
        self.count(written);
        let of_waiting = written.min(waiting.len());
        let of_data = (written - of_waiting).min(data.len());
        let of_tail = written - of_waiting - of_data;
        self.sent.set(self.sent.get() + of_waiting);
        if self.sent.get() == buffer.len() {
            buffer.clear();
            self.sent.set(0);
        }
        buffer.extend_from_slice(data.get(of_data..).unwrap_or_default());
        buffer.extend_from_slice(tail.get(of_tail..).unwrap_or_default());
    }

    /// Writes the buffer until the socket accepts no more. Returns whether all of it was written; otherwise
    /// the buffer is `blocked` or `broken`.
    pub(super) fn flush(&self) -> bool {
        let mut ok = true;
        let mut read = 0;
        let mut buffer = self.buffer.borrow_mut();
        loop {
            let rest = buffer.get(self.sent.get()..).unwrap_or_default();
            let written =
                if rest.is_empty() { self.stream.flush().map(|()| 0) } else { self.stream.write(rest) };
            match written {
                Ok(0) if rest.is_empty() => break,
                Ok(n) if n > 0 => {
                    self.sent.set(self.sent.get() + n);
                    self.count(n);
                    read += n;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked.set(true);
                    // Under steady load the buffer may never become empty.
                    if self.sent.get() >= buffer.len() / 2 {
                        buffer.drain(..self.sent.take());
                    }
                    self.hold(buffer.capacity(), read);
                    return false;
                }
                _ => {
                    self.broken.set(true);
                    ok = false;
                    break;
                }
            }
        }
        self.blocked.set(false);
        self.sent.set(0);
        self.pool.give(std::mem::take(&mut *buffer));
        if let Some(account) = self.account.get() {
            account.held.clear_output();
        }
        ok
    }

    #[inline]
    fn count(&self, written: usize) {
        if let Some(account) = self.account.get() {
            account.usage.written(written);
        }
    }

    /// Counts what the client has left unread, and the `read` bytes that it has just read.
    fn hold(&self, bytes: usize, read: usize) {
        if let Some(account) = self.account.get() {
            let tls = if self.stream.has_pending_tls() { TLS_PENDING_MAX } else { 0 };
            account.held.set_output(bytes.saturating_add(tls), read, account.usage.now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //
    #[test]
    fn few_bytes_take_no_large_buffer() {
        let pool = BufferPool::default();
        pool.give(Vec::with_capacity(POOLED_BUFFER_MAX));
        assert_eq!(pool.take_for(10).capacity(), 0);
        assert_eq!(pool.take_for(POOLED_BUFFER_MAX).capacity(), POOLED_BUFFER_MAX);
        pool.give(Vec::with_capacity(KEPT_BUFFER_MAX));
        assert_eq!(pool.take_for(10).capacity(), KEPT_BUFFER_MAX);
    }
}
