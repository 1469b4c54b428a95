//! Messages on a Unix socket that carry an open file (`SCM_RIGHTS`): how one process gives another a socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::retry_on_intr;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

/// A message that was received.
#[derive(Debug)]
pub struct Received {
    /// How many bytes of the buffer it has filled; 0 once the other side has closed.
    pub length: usize,
    /// The file that came with it.
    pub file: Option<OwnedFd>,
}

/// Two connected sockets that keep the bounds of messages.
///
/// # Errors
/// If the system refuses.
pub fn message_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends bytes, at least one, with a duplicate of a file.
///
/// # Errors
/// If the other side has closed, or the system refuses. A message that is too large for the socket is an error.
pub fn send(to: impl AsFd, bytes: &[u8], file: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let files: Vec<BorrowedFd<'_>> = file.into_iter().collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&files));
    }
    retry_on_intr(|| sendmsg(to.as_fd(), &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Receives a message if there is one: `None` if not.
///
/// # Errors
/// As [`receive`].
pub fn receive_now(from: impl AsFd, buffer: &mut [u8]) -> io::Result<Option<Received>> {
    match receive_with(from, buffer, RecvFlags::DONTWAIT) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        received => received.map(Some),
    }
}

/// Receives a message, or from a stream some bytes: those that came with one file are told apart from all others.
///
/// # Errors
/// If it is no socket, the message is longer than the buffer, or this process has no file descriptor left for the file.
pub fn receive(from: impl AsFd, buffer: &mut [u8]) -> io::Result<Received> {
    receive_with(from, buffer, RecvFlags::empty())
}

fn receive_with(from: impl AsFd, buffer: &mut [u8], flags: RecvFlags) -> io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut buffers = [IoSliceMut::new(buffer)];
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let receive = || recvmsg(from.as_fd(), &mut buffers, &mut control, flags);
    let received = retry_on_intr(receive)?;
    let mut file = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut files) = message {
            file = files.next();
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::other("no file descriptor is left"));
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(io::Error::other("the message is too long"));
    }
    Ok(Received { length: received.bytes, file })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read as _;

    use super::*;

    #[test]
    fn messages_keep_their_bounds_and_their_files() {
        let (near, far) = message_pair().unwrap();
        let (pipe, written) = io::pipe().unwrap();
        send(&near, b"with", Some(pipe.as_fd())).unwrap();
        send(&near, b"without", None).unwrap();
        drop((near, pipe));
        let mut buffer = [0; 16];
        let Received { length, file } = receive(&far, &mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"with");
        drop(written);
        let mut text = String::new();
        File::from(file.unwrap()).read_to_string(&mut text).unwrap();
        let Received { length, file } = receive(&far, &mut buffer).unwrap();
        assert_eq!((&buffer[..length], file.is_none()), (b"without".as_slice(), true));
        assert_eq!(receive(&far, &mut buffer).unwrap().length, 0);
    }

    #[test]
    fn a_message_that_does_not_fit_is_an_error() {
        let (near, far) = message_pair().unwrap();
        send(&near, b"0123456789", None).unwrap();
        assert!(receive(&far, &mut [0; 4]).is_err());
        assert!(send(&near, &vec![0; 64 << 20], None).is_err());
    }
}
