//! The health check: a memcached is healthy if it refuses commands before the lane's login, accepts the login,
//! and then returns its version in time. What else happens is told apart: see [`Health`].

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use store::LaneCredential;

use crate::liveness::Health;

/// Time limit of one attempt: connecting to a killed container hangs.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);
/// A memcached that was just started listens within milliseconds.
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(5);
/// Bytes of a reply line; no healthy memcached sends more.
const LINE_MAX: u64 = 256;
/// Characters of a version, which is shown to users; the container may send anything.
const VERSION_MAX: usize = 32;
/// A port on which nothing listens: a container whose network works refuses the connection at once.
const CLOSED_PORT: u16 = 1;

/// Checks a memcached; repeats that until it answers, for `limit` at most.
pub(crate) async fn check(address: SocketAddr, credential: &LaneCredential, limit: Duration) -> Health {
    let deadline = Instant::now() + limit;
    loop {
        let attempt = attempt(address, credential);
        if let Ok(Some(health)) = timeout_at(deadline.min(Instant::now() + ATTEMPT_TIMEOUT), attempt).await {
            return health;
        }
        if Instant::now() + ATTEMPT_INTERVAL >= deadline {
            break;
        }
        sleep(ATTEMPT_INTERVAL).await;
    }
    if is_network_up(SocketAddr::new(address.ip(), CLOSED_PORT)).await {
        Health::Silent
    } else {
        Health::Unreachable
    }
}

/// `None` if it can't be connected to, or answers with something that proves nothing.
async fn attempt(address: SocketAddr, credential: &LaneCredential) -> Option<Health> {
    let stream = TcpStream::connect(address).await.ok()?;
    match talk(BufReader::new(stream), credential).await {
        Ok(health) => health,
        // It lives, and closes the connection.
        Err(error) if is_closed(&error) => Some(Health::Full),
        Err(_) => None,
    }
}

async fn talk(mut lane: BufReader<TcpStream>, credential: &LaneCredential) -> io::Result<Option<Health>> {
    lane.write_all(LaneCredential::VERSION_REQUEST.as_bytes()).await?;
    match read_line(&mut lane).await?.as_str() {
        LaneCredential::UNAUTHENTICATED => {}
        reply if reply.starts_with(LaneCredential::VERSION_PREFIX) => return Ok(Some(Health::Wrong)),
        // "ERROR Too many open connections"
        reply if reply.starts_with("ERROR Too many") => return Ok(Some(Health::Full)),
        _ => return Ok(None),
    }
    lane.write_all(credential.login_command().as_bytes()).await?;
    match read_line(&mut lane).await?.as_str() {
        LaneCredential::LOGIN_OK => {}
        LaneCredential::LOGIN_FAILED => return Ok(Some(Health::Wrong)),
        _ => return Ok(None),
    }
    lane.write_all(LaneCredential::VERSION_REQUEST.as_bytes()).await?;
    let reply = read_line(&mut lane).await?;
    let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+' | '_');
    let version = reply.strip_prefix(LaneCredential::VERSION_PREFIX);
    Ok(version.map(|version| Health::Healthy(version.chars().filter(plain).take(VERSION_MAX).collect())))
}

/// Whether an address refuses or accepts connections, so that its host is alive and there is a way to it.
async fn is_network_up(address: SocketAddr) -> bool {
    match timeout(ATTEMPT_TIMEOUT, TcpStream::connect(address)).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => error.kind() == io::ErrorKind::ConnectionRefused,
        Err(_) => false,
    }
}

fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe)
}

/// Reads a line and drops its end.
///
/// # Errors
/// If it is too long, or the connection ends.
pub(crate) async fn read_line(lane: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut text = String::new();
    read_line_into(lane, &mut text).await.map(str::to_owned)
}

/// The same into a text that is used again, for replies of many lines.
///
/// # Errors
/// As [`read_line`].
pub(crate) async fn read_line_into<'t>(
    lane: &mut BufReader<TcpStream>,
    text: &'t mut String,
) -> io::Result<&'t str> {
    text.clear();
    lane.take(LINE_MAX).read_line(text).await?;
    match text.strip_suffix("\r\n") {
        Some(line) => Ok(line),
        None if text.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use store::LaneKey;
    use tokio::net::TcpListener;

    use super::*;

    /// What the check says of a server that sends `reply` to each connection and then closes it or keeps it open.
    async fn health_of(reply: &'static [u8], closes: bool) -> Health {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = async {
            let mut open = Vec::new();
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let mut request = [0; 4096];
                let _ = client.read(&mut request).await;
                let _ = client.write_all(reply).await;
                if !closes {
                    open.push(client);
                }
            }
        };
        let dir = tempfile::tempdir().unwrap();
        let key = LaneKey::load_or_create(&dir.path().join("lane.key")).unwrap();
        let credential = key.credential("one", 1);
        tokio::select! {
            health = check(address, &credential, Duration::from_millis(200)) => health,
            () = serve => unreachable!(),
        }
    }

    //
    #[tokio::test]
    async fn only_proof_says_that_another_memcached_answers() {
        let refused = b"CLIENT_ERROR unauthenticated\r\n";
        for (reply, closes, expected) in [
            (
                b"CLIENT_ERROR unauthenticated\r\nCLIENT_ERROR authentication failure\r\n".as_slice(),
                false,
                Health::Wrong,
            ),
            (b"VERSION 1.6.18\r\nSTORED\r\n", false, Health::Wrong),
            (b"ERROR Too many open connections\r\n", true, Health::Full),
            (b"", true, Health::Full),
            (refused, true, Health::Full),
            (b"", false, Health::Silent),
            (refused, false, Health::Silent),
            (b"CLIENT_ERROR unauthenticated\r\nSERVER_ERROR out of memory\r\n", false, Health::Silent),
            (b"HTTP/1.1 400 Bad Request\r\n", false, Health::Silent),
            (b"\x80\xff", true, Health::Silent),
        ] {
            let text = String::from_utf8_lossy(reply);
            assert_eq!(health_of(reply, closes).await, expected, "{text:?}, closes: {closes}");
        }
    }

    //
    #[tokio::test]
    async fn a_closed_port_is_silent() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let dir = tempfile::tempdir().unwrap();
        let key = LaneKey::load_or_create(&dir.path().join("lane.key")).unwrap();
        let health = check(address, &key.credential("one", 1), Duration::from_millis(50)).await;
        assert_eq!(health, Health::Silent);
    }
}
