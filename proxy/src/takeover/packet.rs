//! A moved session as one message: a line of JSON, then its input; its socket comes with it.

use std::io;
use std::net::{IpAddr, TcpStream};

use daemon::fd_passing::Received;
use serde::{Deserialize, Serialize};
use socket2::{SockRef, Type};
use store::{Timestamp, TokenId};

use super::{INPUT_MAX, MovedSession};
use crate::protocol::Protocol;

/// Bytes of the longest line.
const HEAD_MAX: usize = 512;
/// Bytes of the longest message. Its sender checks what it sends: a longer one is refused.
pub(super) const PACKET_MAX: usize = HEAD_MAX + INPUT_MAX;

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    token: String,
    source: IpAddr,
    is_binary: bool,
    since: Timestamp,
    operations: u64,
}

/// The message without the socket.
///
/// # Errors
/// If it would be too long.
pub(super) fn encode(session: &MovedSession) -> io::Result<Vec<u8>> {
    let head = Head {
        token: session.token.as_str().to_owned(),
        source: session.source,
        is_binary: session.protocol == Protocol::Binary,
        since: session.since,
        operations: session.operations,
    };
    let mut packet = serde_json::to_vec(&head)?;
    packet.push(b'\n');
    if packet.len() > HEAD_MAX || session.input.len() > INPUT_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    packet.extend_from_slice(&session.input);
    Ok(packet)
}

/// The session in a message.
///
/// # Errors
/// If the old process, of another version perhaps, has sent something else.
pub(super) fn decode(buffer: &[u8], received: Received) -> io::Result<MovedSession> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let packet = buffer.get(..received.length).unwrap_or_default();
    let end = packet.iter().take(HEAD_MAX).position(|byte| *byte == b'\n').ok_or_else(invalid)?;
    let (head, input) = packet.split_at_checked(end).ok_or_else(invalid)?;
    let head: Head = serde_json::from_slice(head)?;
    let stream = TcpStream::from(received.file.ok_or_else(invalid)?);
    if SockRef::from(&stream).r#type()? != Type::STREAM {
        return Err(invalid());
    }
    // Fails if it is no socket of IP, or was closed meanwhile.
    stream.peer_addr()?;
    stream.set_nonblocking(true)?;
    Ok(MovedSession {
        stream,
        token: TokenId::parse(&head.token).ok_or_else(invalid)?,
        source: head.source,
        protocol: if head.is_binary { Protocol::Binary } else { Protocol::Text },
        since: head.since,
        operations: head.operations,
        input: input.get(1..).unwrap_or_default().to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::os::fd::OwnedFd;

    use super::*;

    fn session(input: Vec<u8>) -> (MovedSession, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let session = MovedSession {
            stream: listener.accept().unwrap().0,
            token: TokenId::parse("0123456789ab").unwrap(),
            source: "2001:db8::1".parse().unwrap(),
            protocol: Protocol::Binary,
            since: Timestamp::from_millis(i64::MAX),
            operations: u64::MAX,
            input,
        };
        (session, client)
    }

    fn received(length: usize, file: Option<OwnedFd>) -> Received {
        Received { length, file }
    }

    // F-38.
    #[test]
    fn a_session_arrives_as_it_was_sent() {
        let (sent, _client) = session(b"\n{set k 0 0 5\r\nhe".to_vec());
        let packet = encode(&sent).unwrap();
        let socket = sent.stream.try_clone().unwrap().into();
        let arrived = decode(&packet, received(packet.len(), Some(socket))).unwrap();
        assert_eq!(arrived.stream.peer_addr().unwrap(), sent.stream.peer_addr().unwrap());
        let said = |session: MovedSession| {
            let MovedSession { token, source, protocol, since, operations, input, .. } = session;
            (token, source, protocol, since, operations, input)
        };
        assert_eq!(said(arrived), said(sent));
    }

    // F-38.
    #[test]
    fn input_that_is_too_long_stays() {
        let (most, _client) = session(vec![b'x'; INPUT_MAX]);
        assert!(encode(&most).unwrap().len() <= PACKET_MAX);
        let (more, _client) = session(vec![b'x'; INPUT_MAX + 1]);
        assert!(encode(&more).is_err());
    }

    // F-38: a process that was broken into sends something else.
    #[test]
    fn anything_else_is_refused() {
        let (sent, _client) = session(Vec::new());
        let packet = encode(&sent).unwrap();
        let socket = || OwnedFd::from(sent.stream.try_clone().unwrap());
        let pipe = || OwnedFd::from(io::pipe().unwrap().0);
        assert!(decode(&packet, received(packet.len(), None)).is_err());
        assert!(decode(&packet, received(packet.len(), Some(pipe()))).is_err());
        assert!(decode(&packet, received(packet.len() - 1, Some(socket()))).is_err());
        assert!(decode(b"", received(0, Some(socket()))).is_err());
        assert!(decode(b"\n", received(9, Some(socket()))).is_err());
        let other = String::from_utf8(packet).unwrap().replace("0123456789ab", "0123456789a\\u0000");
        assert!(decode(other.as_bytes(), received(other.len(), Some(socket()))).is_err());
    }
}
