//! The health check: a memcached is healthy if it accepts the lane's login and returns its version in time.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};

use store::LaneCredential;

use crate::error::Error;

/// Time limit of one attempt: connecting to a killed container hangs.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);
/// A memcached that was just started listens within milliseconds.
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(5);
/// Bytes of a reply line; no healthy memcached sends more.
const LINE_MAX: u64 = 256;
/// Characters of a version, which is shown to users; the container may send anything.
const VERSION_MAX: usize = 32;

/// Logs in and reads the version; repeats that until memcached answers, for `limit` at most.
pub(crate) async fn version(
    address: SocketAddr,
    credential: &LaneCredential,
    limit: Duration,
) -> Result<String, Error> {
    let deadline = Instant::now() + limit;
    loop {
        let attempt =
            timeout_at(deadline.min(Instant::now() + ATTEMPT_TIMEOUT), probe(address, credential)).await;
        match attempt {
            Ok(Ok(Some(version))) => return Ok(version),
            Ok(Ok(None)) => return Err(Error::WrongSecret { address: address.to_string() }),
            Ok(Err(_)) | Err(_) if Instant::now() + ATTEMPT_INTERVAL < deadline => {
                sleep(ATTEMPT_INTERVAL).await;
            }
            Ok(Err(_)) | Err(_) => return Err(Error::NoAnswer { address: address.to_string() }),
        }
    }
}

/// `None` if the secret is rejected.
async fn probe(address: SocketAddr, credential: &LaneCredential) -> io::Result<Option<String>> {
    let mut lane = BufReader::new(TcpStream::connect(address).await?);
    lane.write_all(credential.login_command().as_bytes()).await?;
    let reply = read_line(&mut lane).await?;
    if reply != "STORED" {
        return Ok(None);
    }
    lane.write_all(b"version\r\n").await?;
    let reply = read_line(&mut lane).await?;
    let version = reply.strip_prefix("VERSION ").ok_or(io::ErrorKind::InvalidData)?;
    let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+' | '_');
    Ok(Some(version.chars().filter(plain).take(VERSION_MAX).collect()))
}

async fn read_line(lane: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut text = String::new();
    lane.take(LINE_MAX).read_line(&mut text).await?;
    match text.strip_suffix("\r\n") {
        Some(line) => Ok(line.to_owned()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
