//! One side of a comparison: a memcached, reached directly or through the proxy, with an admin
//! connection.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::differences::End;
use super::stream::{Item, Protocol, keys};
use testkit::{AdminConnection, Rng, chunks};

/// Time limit for replies.
const REPLY_TIMEOUT: Duration = Duration::from_secs(8);
/// Without a close within this time, the connection counts as open.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(40);
/// Bytes that a socket accepts although the other end reads none.
const SOCKET_BUFFER: usize = 16 * 1024;

pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    /// Login in text and in binary, and the length of its reply.
    pub(crate) logins: Option<[(Vec<u8>, usize); 2]>,
    pub(crate) control: AdminConnection,
}

impl Endpoint {
    /// Returns the last cas that was assigned.
    pub(crate) fn last_cas(&mut self) -> u64 {
        let reply = String::from_utf8(self.control.run(b"ms counter 0 c\r\n\r\n")).unwrap();
        let digits = reply.strip_prefix("HD c").unwrap_or_else(|| panic!("{reply}"));
        digits.trim_end().parse().unwrap()
    }

    /// Assigns `many` cas values.
    pub(crate) fn advance_cas(&mut self, many: u64) {
        self.control.run(&b"ms counter 0 q\r\n\r\n".repeat(usize::try_from(many).unwrap()));
    }

    /// Fills the cache with `items`; returns the cas of each key, in the order of `keys`.
    pub(crate) fn fill(&mut self, protocol: Protocol, items: &[Item]) -> Vec<Option<u64>> {
        let mut lines = Vec::new();
        for Item { key, value, flags, exptime } in items {
            let (key, encoded) = name(key);
            let head = format!(" {} q F{flags} T{exptime}{encoded}\r\n", value.len());
            lines.extend([b"ms ", &key[..], head.as_bytes(), value, b"\r\n"].concat());
        }
        for key in keys(protocol) {
            let (key, encoded) = name(&key);
            lines.extend([b"mg ", &key[..], b" c", encoded.as_bytes(), b"\r\n"].concat());
        }
        let reply = self.control.run(&lines);
        let cas = |line: &str| line.strip_prefix("HD c")?.split(' ').next()?.parse().ok();
        let all: Vec<_> = String::from_utf8(reply).unwrap().lines().map(cas).collect();
        assert_eq!(all.len(), keys(protocol).len(), "the cache can't be filled");
        all
    }

    pub(crate) fn flush(&mut self) {
        self.control.run(b"flush_all\r\n");
    }

    /// Returns the items under `keys` (values, flags, TTL, cas) and deletes them: a flush would take
    /// longer than most streams.
    pub(crate) fn take(&mut self, keys: &[Vec<u8>]) -> Vec<u8> {
        let line = |key: &Vec<u8>| {
            let (key, encoded) = name(key);
            let [read, delete] = [(&b"mg "[..], " v f t c"), (b"md ", " q")].map(|(verb, flags)| {
                [verb, &key[..], flags.as_bytes(), encoded.as_bytes(), b"\r\n"].concat()
            });
            [read, delete].concat()
        };
        self.control.run(&keys.iter().flat_map(line).collect::<Vec<u8>>())
    }

    /// Sends `bytes` in chunks on a new connection and returns all bytes until the peer closes. Ends
    /// sending if nothing else would close the connection.
    pub(crate) fn exchange(
        &self,
        protocol: Protocol,
        bytes: &[u8],
        end: End,
        rng: Option<&mut Rng>,
    ) -> Result<Vec<u8>, String> {
        let mut stream = TcpStream::connect(self.address).map_err(|error| error.to_string())?;
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(REPLY_TIMEOUT)).unwrap();
        if let Some(logins) = &self.logins {
            let (login, welcome) = &logins[usize::from(protocol == Protocol::Binary)];
            stream.write_all(login).unwrap();
            stream.read_exact(&mut vec![0; *welcome]).map_err(|error| format!("no login: {error}"))?;
        }
        let parts = match rng {
            Some(rng) => split(bytes, rng),
            None => vec![bytes],
        };
        if bytes.len() <= SOCKET_BUFFER {
            send(&stream, &parts, end);
            return read_to_end(&mut stream);
        }
        let writing = stream.try_clone().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || send(&writing, &parts, end));
            read_to_end(&mut stream)
        })
    }

    /// Whether the peer closes by itself within a request.
    pub(crate) fn closes(&self, protocol: Protocol, bytes: &[u8]) -> bool {
        let mut stream = TcpStream::connect(self.address).unwrap();
        if let Some(logins) = &self.logins {
            stream.write_all(&logins[usize::from(protocol == Protocol::Binary)].0).unwrap();
        }
        let mut reading = stream.try_clone().unwrap();
        reading.set_read_timeout(Some(CLOSE_TIMEOUT)).unwrap();
        std::thread::scope(|scope| {
            let closed = scope.spawn(move || {
                let mut reply = vec![0; SOCKET_BUFFER];
                loop {
                    match reading.read(&mut reply) {
                        Ok(0) => return true,
                        Ok(_) => {}
                        Err(error) => return error.kind() != ErrorKind::WouldBlock,
                    }
                }
            });
            let _ = stream.write_all(bytes);
            closed.join().unwrap()
        })
    }
}

fn send(mut stream: &TcpStream, parts: &[&[u8]], end: End) {
    // The peer may close before the last chunk: the reader notices.
    let sent = parts.iter().try_for_each(|part| stream.write_all(part));
    if sent.is_ok() && end != End::Closed {
        let _ = stream.shutdown(Shutdown::Write);
    }
}

fn read_to_end(stream: &mut TcpStream) -> Result<Vec<u8>, String> {
    let mut reply = Vec::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(reply),
            Ok(n) => reply.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Err(format!("no end after {}", reply.escape_ascii()));
            }
            // Closed with unread bytes: counts as closed.
            Err(_) => return Ok(reply),
        }
    }
}

/// Random chunks: sometimes tiny ones, but never very many.
fn split<'a>(bytes: &'a [u8], rng: &mut Rng) -> Vec<&'a [u8]> {
    const PIECES: usize = 30;
    let len_max = match rng.below(8) {
        0..3 => return vec![bytes],
        3..6 => 1 + bytes.len() / (1 + rng.below(6)),
        _ => 1 + 2 * bytes.len() / PIECES,
    };
    chunks(bytes, len_max, rng)
}

/// The key as a meta command sends it, and the flag for base64.
fn name(key: &[u8]) -> (Vec<u8>, &'static str) {
    if key.iter().all(|byte| *byte > b' ') {
        return (key.to_vec(), "");
    }
    (STANDARD.encode(key).into_bytes(), " b")
}
