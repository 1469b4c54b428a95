//! One side of a comparison: a memcached, spoken to directly or through the door, and its back door.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::dice::Dice;
use super::differences::End;
use super::direct::Control;
use super::pieces::pieces;
use super::stream::{Item, Protocol, keys};

/// Whoever hasn't answered until then won't.
const PATIENCE: Duration = Duration::from_secs(8);
/// Whoever hasn't closed until then, in the middle of something, won't.
const SILENCE: Duration = Duration::from_millis(40);
/// What a socket takes without anybody reading at the other end.
const AT_ONCE: usize = 16 * 1024;

pub(crate) struct Side {
    pub(crate) address: SocketAddr,
    /// What logs in, in text and in binary, and how long its answer is.
    pub(crate) logins: Option<[(Vec<u8>, usize); 2]>,
    pub(crate) control: Control,
}

impl Side {
    /// The last cas that was given out.
    pub(crate) fn counter(&mut self) -> u64 {
        let said = String::from_utf8(self.control.run(b"ms counter 0 c\r\n\r\n")).unwrap();
        let digits = said.strip_prefix("HD c").unwrap_or_else(|| panic!("{said}"));
        digits.trim_end().parse().unwrap()
    }

    /// Gives out so many for nothing.
    pub(crate) fn count(&mut self, many: u64) {
        self.control.run(&b"ms counter 0 q\r\n\r\n".repeat(usize::try_from(many).unwrap()));
    }

    /// Fills the cache with `items`; the cas of each key, by place.
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
        let said = self.control.run(&lines);
        let cas = |line: &str| line.strip_prefix("HD c")?.split(' ').next()?.parse().ok();
        let all: Vec<_> = String::from_utf8(said).unwrap().lines().map(cas).collect();
        assert_eq!(all.len(), keys(protocol).len(), "the cache can't be filled");
        all
    }

    pub(crate) fn flush(&mut self) {
        self.control.run(b"flush_all\r\n");
    }

    /// What was in the cache under `keys`: values, flags, times to live, cas. It is gone then: a flush would
    /// take longer than most streams do.
    pub(crate) fn empty(&mut self, keys: &[Vec<u8>]) -> Vec<u8> {
        let line = |key: &Vec<u8>| {
            let (key, encoded) = name(key);
            let [read, delete] = [(&b"mg "[..], " v f t c"), (b"md ", " q")].map(|(verb, flags)| {
                [verb, &key[..], flags.as_bytes(), encoded.as_bytes(), b"\r\n"].concat()
            });
            [read, delete].concat()
        };
        self.control.run(&keys.iter().flat_map(line).collect::<Vec<u8>>())
    }

    /// Sends `bytes` in pieces on a new connection; all that comes until its end. Ends sending when
    /// nothing else would end it.
    pub(crate) fn converse(
        &self,
        protocol: Protocol,
        bytes: &[u8],
        end: End,
        dice: Option<&mut Dice>,
    ) -> Result<Vec<u8>, String> {
        let mut stream = TcpStream::connect(self.address).map_err(|error| error.to_string())?;
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        if let Some(logins) = &self.logins {
            let (login, welcome) = &logins[usize::from(protocol == Protocol::Binary)];
            stream.write_all(login).unwrap();
            stream.read_exact(&mut vec![0; *welcome]).map_err(|error| format!("no login: {error}"))?;
        }
        let pieces = match dice {
            Some(dice) => split(bytes, dice),
            None => vec![bytes],
        };
        if bytes.len() <= AT_ONCE {
            send(&stream, &pieces, end);
            return read_to_end(&mut stream);
        }
        let writing = stream.try_clone().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || send(&writing, &pieces, end));
            read_to_end(&mut stream)
        })
    }

    /// Whether the other end closes by itself, in the middle of something.
    pub(crate) fn hangs_up(&self, protocol: Protocol, bytes: &[u8]) -> bool {
        let mut stream = TcpStream::connect(self.address).unwrap();
        if let Some(logins) = &self.logins {
            stream.write_all(&logins[usize::from(protocol == Protocol::Binary)].0).unwrap();
        }
        let mut reading = stream.try_clone().unwrap();
        reading.set_read_timeout(Some(SILENCE)).unwrap();
        std::thread::scope(|scope| {
            let hung_up = scope.spawn(move || {
                let mut said = vec![0; AT_ONCE];
                loop {
                    match reading.read(&mut said) {
                        Ok(0) => return true,
                        Ok(_) => {}
                        Err(error) => return error.kind() != ErrorKind::WouldBlock,
                    }
                }
            });
            let _ = stream.write_all(bytes);
            hung_up.join().unwrap()
        })
    }
}

fn send(mut stream: &TcpStream, pieces: &[&[u8]], end: End) {
    // The other end may be gone before the last piece: seen by who reads.
    let sent = pieces.iter().try_for_each(|piece| stream.write_all(piece));
    if sent.is_ok() && end != End::Closed {
        let _ = stream.shutdown(Shutdown::Write);
    }
}

fn read_to_end(stream: &mut TcpStream) -> Result<Vec<u8>, String> {
    let mut said = Vec::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(said),
            Ok(n) => said.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Err(format!("hangs after {}", said.escape_ascii()));
            }
            // It closed with something unread: an end like another.
            Err(_) => return Ok(said),
        }
    }
}

/// Random pieces: now and then tiny ones, but never very many.
fn split<'a>(bytes: &'a [u8], dice: &mut Dice) -> Vec<&'a [u8]> {
    const PIECES: usize = 30;
    let longest = match dice.below(8) {
        0..3 => return vec![bytes],
        3..6 => 1 + bytes.len() / (1 + dice.below(6)),
        _ => 1 + 2 * bytes.len() / PIECES,
    };
    pieces(bytes, longest, dice)
}

/// A key as a meta command names it.
fn name(key: &[u8]) -> (Vec<u8>, &'static str) {
    if key.iter().all(|byte| *byte > b' ') {
        return (key.to_vec(), "");
    }
    (STANDARD.encode(key).into_bytes(), " b")
}
