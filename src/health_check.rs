//! Queries the readiness endpoint of a role.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of a response. Ours are one line; the rest of a longer one is ignored.
const RESPONSE_MAX: u64 = 4096;

/// Returns `Ok` with an optional warning if the role at this health address is ready, else the reason why not.
pub(crate) async fn is_ready(health: SocketAddr) -> Result<Option<String>, String> {
    let response = tokio::time::timeout(TIMEOUT, get_readyz(health)).await;
    let response = match response {
        Ok(Ok(response)) => response,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            return Err("not running".into());
        }
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err("no response within a second".into()),
    };
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or((&response, ""));
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.trim().strip_prefix("ready: ").map(str::to_owned)),
        Some("503") => Err(body.trim().to_owned()),
        _ => Err(format!("another program answers on {health}")),
    }
}

async fn get_readyz(health: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(health).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {health}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut response = Vec::new();
    stream.take(RESPONSE_MAX).read_to_end(&mut response).await?;
    Ok(String::from_utf8_lossy(&response).into_owned())
}
