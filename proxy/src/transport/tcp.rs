//! What a socket is asked for all over: whether there is something to read, what it is, and a gentle end.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A closed connection's unread bytes are thrown away for so long, so that the last words attach.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_BYTES: usize = 256 * 1024;

/// Waits for something to read. One task waits at a time for each socket and direction, so this needs no
/// place in a list of those who wait: less to hold for an idle client, and less to do for a busy one.
pub(crate) async fn readable(stream: &TcpStream) -> io::Result<()> {
    poll_fn(|context| stream.poll_read_ready(context)).await
}

/// Waits for room to write, likewise.
pub(crate) async fn writable(stream: &TcpStream) -> io::Result<()> {
    poll_fn(|context| stream.poll_write_ready(context)).await
}

/// Reads what there is; `WouldBlock` when that is nothing.
///
/// Less than asked for means that the kernel has no more: noting it here saves the read that would only
/// say so. The next bytes make epoll report the socket anew.
pub(crate) fn read(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let read = stream.try_read(buffer)?;
    if (1..buffer.len()).contains(&read) {
        let _ = stream.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
    }
    Ok(read)
}

/// Ends the sending side and throws away what still comes for a moment: closing with unread bytes
/// would make the kernel reset the connection, and the client would never read our last words.
pub(crate) async fn linger(stream: &TcpStream, scratch: &RefCell<Vec<u8>>) {
    if socket2::SockRef::from(stream).shutdown(Shutdown::Write).is_err() {
        return;
    }
    let drain = async {
        let mut thrown = 0;
        while thrown < LINGER_BYTES && readable(stream).await.is_ok() {
            match read(stream, &mut scratch.borrow_mut()) {
                Ok(0) => return,
                Ok(n) => thrown += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    };
    let _ = timeout(LINGER, drain).await;
}
