//! What `memgate up` hands to a role through a socket in the place of stdin: listening sockets and channels, then the settings as
//! JSON, so that a role neither reads the settings file nor sees another role's section. Sockets arrive in messages: a role
//! inherits no file, and needs to tell none apart.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};

use daemon::fd_passing;

const CHUNK: usize = 8 << 10;

/// What comes with the socket to a successor, through the control channel.
pub(crate) const SUCCESSOR: &[u8] = b"s";
/// What a role says through its control channel once its successor has taken over.
pub(crate) const TAKEN_OVER: &[u8] = b"t";

/// What a socket is for. Its byte is white space, with which JSON may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// It listens.
    Listener,
    /// `memgate up` tells the role of its successor through it.
    Control,
    /// The process that this one takes over from is at its other end.
    Predecessor,
}

/// All that a role was handed.
#[derive(Debug, Default)]
pub(super) struct HandedOver {
    pub(super) settings: Vec<u8>,
    pub(super) listeners: Vec<TcpListener>,
    pub(super) control: Option<OwnedFd>,
    pub(super) predecessor: Option<OwnedFd>,
}

impl Purpose {
    const ALL: [Self; 3] = [Self::Listener, Self::Control, Self::Predecessor];

    fn byte(self) -> u8 {
        match self {
            Self::Listener => b' ',
            Self::Control => b'\t',
            Self::Predecessor => b'\n',
        }
    }
}

/// Sends a duplicate of a socket.
///
/// # Errors
/// If the role has ended, or the system refuses.
pub(crate) fn send(to: impl AsFd, purpose: Purpose, socket: impl AsFd) -> io::Result<()> {
    fd_passing::send(to, &[purpose.byte()], Some(socket.as_fd()))
}

/// Receives sockets and settings until the other side closes.
///
/// # Errors
/// If it is no socket, or not all could be received.
pub(super) fn receive(from: impl AsFd) -> io::Result<HandedOver> {
    let (mut all, mut chunk) = (HandedOver::default(), [0; CHUNK]);
    loop {
        let received = fd_passing::receive(from.as_fd(), &mut chunk)?;
        let bytes = &chunk[..received.length];
        let Some(last) = bytes.last() else { return Ok(all) };
        if let Some(socket) = received.file {
            match Purpose::ALL.into_iter().find(|purpose| purpose.byte() == *last) {
                Some(Purpose::Listener) => all.listeners.push(socket.into()),
                Some(Purpose::Control) => all.control = Some(socket),
                Some(Purpose::Predecessor) => all.predecessor = Some(socket),
                None => return Err(io::Error::other("a socket without a purpose")),
            }
        }
        all.settings.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    //
    #[test]
    fn sockets_and_settings_arrive_in_their_order() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let bound: Vec<_> = (0..70).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        bound.iter().for_each(|listener| send(&near, Purpose::Listener, listener).unwrap());
        let (control, mut role_side) = UnixStream::pair().unwrap();
        send(&near, Purpose::Control, &control).unwrap();
        let settings = serde_json::json!({ "long": "x".repeat(3 * CHUNK) });
        near.write_all(settings.to_string().as_bytes()).unwrap();
        drop((near, control));
        let received = receive(&far).unwrap();
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&received.settings).unwrap(), settings);
        let ports = |listeners: &[TcpListener]| -> Vec<_> {
            listeners.iter().map(|listener| listener.local_addr().unwrap()).collect()
        };
        assert_eq!(ports(&received.listeners), ports(&bound));
        assert!(received.predecessor.is_none());
        assert!(role_side.write_all(b"x").is_ok(), "it is the other end of the channel");
        drop(received);
        assert!(role_side.write_all(b"x").is_err());
    }
}
