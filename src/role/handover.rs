//! What `memgate up` hands to a role through a socket in the place of stdin: listening sockets, then the settings as JSON, so
//! that a role neither reads the settings file nor sees another role's section. Sockets arrive in messages: a role inherits no
//! file, and needs to tell none apart.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Accompanies a socket. JSON may begin with it.
const SPACE: &[u8] = b" ";
const CHUNK: usize = 8 << 10;

/// Sends a duplicate of a listening socket.
///
/// # Errors
/// If the role has ended, or the system refuses.
pub(crate) fn send(to: &UnixStream, listener: &TcpListener) -> io::Result<()> {
    let listener = [listener.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&listener));
    retry_on_intr(|| sendmsg(to, &[IoSlice::new(SPACE)], &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Receives bytes and listening sockets until the other side closes.
///
/// # Errors
/// If it is no socket, or not all could be received.
pub(super) fn receive(from: impl AsFd) -> io::Result<(Vec<u8>, Vec<TcpListener>)> {
    let (mut bytes, mut listeners, mut chunk) = (Vec::new(), Vec::new(), [0; CHUNK]);
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut buffers = [IoSliceMut::new(&mut chunk)];
        let receive = || recvmsg(from.as_fd(), &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC);
        let received = retry_on_intr(receive)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(sockets) = message {
                listeners.extend(sockets.map(TcpListener::from));
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(io::Error::other("no file descriptor is left"));
        }
        if received.bytes == 0 {
            return Ok((bytes, listeners));
        }
        bytes.extend_from_slice(&chunk[..received.bytes]);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    //
    #[test]
    fn sockets_and_settings_arrive_in_their_order() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let bound: Vec<_> = (0..70).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        bound.iter().for_each(|listener| send(&near, listener).unwrap());
        let settings = serde_json::json!({ "long": "x".repeat(3 * CHUNK) });
        near.write_all(settings.to_string().as_bytes()).unwrap();
        drop(near);
        let (bytes, received) = receive(&far).unwrap();
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&bytes).unwrap(), settings);
        let ports = |listeners: &[TcpListener]| -> Vec<_> {
            listeners.iter().map(|listener| listener.local_addr().unwrap()).collect()
        };
        assert_eq!(ports(&received), ports(&bound));
    }
}
