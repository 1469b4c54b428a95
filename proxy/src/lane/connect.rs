//! The beginning of every lane: connect, log in with the instance's own secret, ask for the version.

use std::io;
use std::time::Duration;

use memchr::memchr;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Target;
use crate::protocol::request::FlagSet;
use crate::transport::tcp;

/// For all of it: a killed container makes connects hang, so they have a limit of their own.
const TIMEOUT: Duration = Duration::from_secs(1);
/// The user name of memcached's `-Y` file.
const USER: &str = "lane";
const WELCOME: &[u8] = b"STORED";
const LINE_MAX: usize = 128;

/// Opens a connection to `target`; also says which flags the memcached there knows.
pub(super) async fn dial(target: &Target) -> io::Result<(TcpStream, FlagSet)> {
    timeout(TIMEOUT, greet(target)).await?
}

/// An answer to the login other than `STORED` is somebody else's memcached: refused.
async fn greet(target: &Target) -> io::Result<(TcpStream, FlagSet)> {
    let stream = TcpStream::connect(target.address).await?;
    stream.set_nodelay(true)?;
    let payload = format!("{USER} {}", target.secret);
    write(&stream, format!("set auth 0 0 {}\r\n{payload}\r\n", payload.len()).as_bytes()).await?;
    if read_line(&stream).await? != WELCOME {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the lane's login was refused"));
    }
    write(&stream, b"version\r\n").await?;
    let said = read_line(&stream).await?;
    let version = said.strip_prefix(b"VERSION ").ok_or(io::ErrorKind::InvalidData)?;
    Ok((stream, FlagSet::from_version(version)))
}

pub(super) async fn write(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        tcp::writable(stream).await?;
        match stream.try_write(bytes) {
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads one line; nothing may follow it, for nothing else was asked.
async fn read_line(stream: &TcpStream) -> io::Result<Vec<u8>> {
    let mut line = Vec::with_capacity(LINE_MAX);
    loop {
        tcp::readable(stream).await?;
        match stream.try_read_buf(&mut line) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        match memchr(b'\n', &line) {
            Some(end) if end + 1 == line.len() => {
                line.truncate(line.trim_ascii_end().len());
                return Ok(line);
            }
            None if line.len() < LINE_MAX => {}
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}
