//! Asks a role over its health port whether it can do its work.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const TIMEOUT: Duration = Duration::from_secs(1);
/// A reason is a line; whatever is longer is none of ours.
const LONGEST_ANSWER: u64 = 4096;

/// `Ok` if the role behind this health address is ready, with what there is to see to; else why it isn't.
pub(crate) async fn is_ready(health: SocketAddr) -> Result<Option<String>, String> {
    let answer = tokio::time::timeout(TIMEOUT, ask(health)).await;
    let answer = match answer {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            return Err("not running".into());
        }
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err("no answer within a second".into()),
    };
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.trim().strip_prefix("ready: ").map(str::to_owned)),
        Some("503") => Err(body.trim().to_owned()),
        _ => Err(format!("something else answers on {health}")),
    }
}

async fn ask(health: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(health).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {health}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(LONGEST_ANSWER).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
