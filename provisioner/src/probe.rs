//! Health: a memcached is well if it takes its lane's login and tells its version in time.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};

use crate::Error;

/// One attempt; a killed container makes connects hang.
const ATTEMPT: Duration = Duration::from_secs(1);
/// A memcached that has just been started listens within milliseconds.
const BETWEEN: Duration = Duration::from_millis(5);
/// No reply of a healthy one is longer.
const LINE_MAX: u64 = 256;
/// Versions are shown to people: this much and no more of what a container says.
const VERSION_MAX: usize = 32;

/// Logs in and asks for the version, again and again until it answers or `within` has passed.
pub(crate) async fn version(address: SocketAddr, secret: &str, within: Duration) -> Result<String, Error> {
    let deadline = Instant::now() + within;
    loop {
        let attempt = timeout_at(deadline.min(Instant::now() + ATTEMPT), ask(address, secret)).await;
        match attempt {
            Ok(Ok(Some(version))) => return Ok(version),
            Ok(Ok(None)) => return Err(Error::WrongSecret { address: address.to_string() }),
            Ok(Err(_)) | Err(_) if Instant::now() + BETWEEN < deadline => sleep(BETWEEN).await,
            Ok(Err(_)) | Err(_) => return Err(Error::NoAnswer { address: address.to_string() }),
        }
    }
}

/// `None` if it doesn't take the secret.
async fn ask(address: SocketAddr, secret: &str) -> io::Result<Option<String>> {
    let mut lane = BufReader::new(TcpStream::connect(address).await?);
    let login = format!("lane {secret}");
    let request = format!("set auth 0 0 {}\r\n{login}\r\n", login.len());
    lane.write_all(request.as_bytes()).await?;
    let reply = line(&mut lane).await?;
    if reply != "STORED" {
        return Ok(None);
    }
    lane.write_all(b"version\r\n").await?;
    let reply = line(&mut lane).await?;
    let version = reply.strip_prefix("VERSION ").ok_or(io::ErrorKind::InvalidData)?;
    let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+' | '_');
    Ok(Some(version.chars().filter(plain).take(VERSION_MAX).collect()))
}

async fn line(lane: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut text = String::new();
    lane.take(LINE_MAX).read_line(&mut text).await?;
    match text.strip_suffix("\r\n") {
        Some(line) => Ok(line.to_owned()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
