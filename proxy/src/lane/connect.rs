//! Connects a lane: opens the connection, makes sure that an instance answers, authenticates with the instance's own
//! secret, asks for the version.

use std::io;
use std::time::Duration;

use memchr::memchr;
use store::LaneCredential;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Route;
use crate::protocol::request::FlagSet;
use crate::transport::tcp;

/// Time limit of the whole handshake.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(1);
/// Time limit of the connect alone, which is the kernel's business and takes no time. To a container that is being started
/// again the first packet is lost, and the next one leaves a second later: another dial finds it sooner.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(100);
const LINE_MAX: usize = 128;

/// Why a lane can't be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Another container has the address: it would store what it is sent, and could read the secret.
    #[error("what answers there is no instance: it serves without a login")]
    NotAnInstance,
    /// The memcached there is another instance's.
    #[error("memcached refused the lane's login")]
    WrongSecret,
}

/// Connects along `route`. Also returns the meta flags that the memcached there knows.
pub(crate) async fn connect(route: &Route) -> Result<(TcpStream, FlagSet), ConnectError> {
    let connected = timeout(HANDSHAKE_TIMEOUT, handshake(route)).await;
    connected.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
}

/// The secret is sent only to what refuses a request without it, as each instance does.
async fn handshake(route: &Route) -> Result<(TcpStream, FlagSet), ConnectError> {
    let connecting = timeout(CONNECT_TIMEOUT, TcpStream::connect(route.address));
    let stream = connecting.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    write(&stream, LaneCredential::VERSION_REQUEST.as_bytes()).await?;
    if read_line(&stream).await? != LaneCredential::UNAUTHENTICATED.as_bytes() {
        return Err(ConnectError::NotAnInstance);
    }
    write(&stream, route.credential.login_command().as_bytes()).await?;
    if read_line(&stream).await? != LaneCredential::LOGIN_OK.as_bytes() {
        return Err(ConnectError::WrongSecret);
    }
    write(&stream, LaneCredential::VERSION_REQUEST.as_bytes()).await?;
    let reply = read_line(&stream).await?;
    let version = reply.strip_prefix(LaneCredential::VERSION_PREFIX.as_bytes());
    let version = version.ok_or(io::Error::from(io::ErrorKind::InvalidData))?;
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
