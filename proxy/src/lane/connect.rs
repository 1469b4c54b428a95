//! Connects a lane: opens the connection, authenticates with the instance's own secret, asks for the version.

use std::io;
use std::time::Duration;

use memchr::memchr;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Route;
use crate::protocol::request::FlagSet;
use crate::transport::tcp;

/// Time limit of the whole handshake. A connect to a killed container would hang.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(1);
/// The reply to a successful login.
const AUTH_OK: &[u8] = b"STORED";
const LINE_MAX: usize = 128;

/// Connects along `route`. Also returns the meta flags that the memcached there knows.
pub(super) async fn connect(route: &Route) -> io::Result<(TcpStream, FlagSet)> {
    timeout(HANDSHAKE_TIMEOUT, handshake(route)).await?
}

/// Fails if the login is refused: the memcached at this address is another instance's.
async fn handshake(route: &Route) -> io::Result<(TcpStream, FlagSet)> {
    let stream = TcpStream::connect(route.address).await?;
    stream.set_nodelay(true)?;
    write(&stream, route.credential.login_command().as_bytes()).await?;
    if read_line(&stream).await? != AUTH_OK {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "memcached refused the lane's login"));
    }
    write(&stream, b"version\r\n").await?;
    let reply = read_line(&stream).await?;
    let version = reply.strip_prefix(b"VERSION ").ok_or(io::ErrorKind::InvalidData)?;
    Ok((stream, FlagSet::from_version(version)))
}

/// Writes all of `bytes`.
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

/// Reads one line. More bytes behind it are an error: no other reply is due.
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
