//! TCP helpers: readiness, reads that save system calls, and a graceful close.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Time limit and byte limit for discarding input after a close, so that the last reply arrives.
const LINGER_TIMEOUT: Duration = Duration::from_millis(500);
const LINGER_BYTES_MAX: usize = 256 * 1024;

/// Waits until there is something to read. Only one task waits for each socket and direction, so this uses tokio's single
/// waker slot instead of its list of waiters, which costs less memory for idle clients and less work for busy ones.
pub(crate) async fn readable(stream: &TcpStream) -> io::Result<()> {
    poll_fn(|context| stream.poll_read_ready(context)).await
}

/// Waits until the socket accepts bytes, in the same way.
pub(crate) async fn writable(stream: &TcpStream) -> io::Result<()> {
    poll_fn(|context| stream.poll_write_ready(context)).await
}

/// Reads available bytes; `WouldBlock` if there are none.
///
/// A short read means that the kernel has no more. Clearing the readiness here saves a read that would only return
/// `WouldBlock`; epoll reports the socket again when more bytes arrive.
pub(crate) fn read(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let read = stream.try_read(buffer)?;
    if (1..buffer.len()).contains(&read) {
        let _ = stream.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
    }
    Ok(read)
}

/// Whether the kernel holds input. Asks the kernel: the runtime learns of new input only when it next polls.
pub(crate) fn has_unread_input(stream: &TcpStream) -> bool {
    let mut byte = [std::mem::MaybeUninit::uninit()];
    socket2::SockRef::from(stream).peek(&mut byte).is_ok_and(|peeked| peeked > 0)
}

/// Waits until there is input, or the peer has closed its side. Returns whether it has.
pub(crate) async fn input_or_end(stream: &TcpStream) -> io::Result<bool> {
    Ok(stream.ready(Interest::READABLE).await?.is_read_closed())
}

/// Whether the peer has closed its side, with or without unread input before that. Asks the kernel.
pub(crate) fn is_closed_by_peer(stream: &TcpStream) -> bool {
    let mut polled = [PollFd::new(stream, PollFlags::RDHUP)];
    poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// Closes the sending side and discards what still arrives for a moment. A close with unread bytes would make the kernel
/// reset the connection, and the client might never read the last reply.
pub(crate) async fn linger(stream: &TcpStream, scratch: &RefCell<Vec<u8>>) {
    if socket2::SockRef::from(stream).shutdown(Shutdown::Write).is_err() {
        return;
    }
    let drain = async {
        let mut discarded = 0;
        while discarded < LINGER_BYTES_MAX && readable(stream).await.is_ok() {
            match read(stream, &mut scratch.borrow_mut()) {
                Ok(0) => return,
                Ok(n) => discarded += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    };
    let _ = timeout(LINGER_TIMEOUT, drain).await;
}
