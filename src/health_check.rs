//! Asks the health endpoint of a role how it is, and checks who answers.

use std::net::SocketAddr;
use std::time::Duration;

use daemon::health::Report;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::role::Role;

const TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of a response that are read. Ours are far shorter.
const RESPONSE_MAX: u64 = 64 << 10;
/// Bytes of metrics, and how long they may take.
const METRICS_MAX: u64 = 8 << 20;
const METRICS_TIMEOUT: Duration = Duration::from_secs(5);

/// What the process at this address says of itself.
///
/// # Errors
/// Why nothing of memgate answers.
pub(crate) async fn ask(health: SocketAddr) -> Result<Report, String> {
    let response = tokio::time::timeout(TIMEOUT, response(health, "/status", RESPONSE_MAX)).await;
    let response = match response {
        Ok(Ok(response)) => response,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            return Err("not running".into());
        }
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err("no response within a second: it hangs, or this machine is very busy".into()),
    };
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or((&response, ""));
    let is_success = head.split(' ').nth(1) == Some("200");
    let report = serde_json::from_str(body).ok().filter(|_| is_success);
    report.ok_or_else(|| format!("another program answers on {health}"))
}

/// Why a report isn't that of an installation's role, if it isn't (F-27).
pub(crate) fn foreign(report: &Report, role: Role, installation: &str) -> Option<String> {
    let process = &report.process;
    if process.installation != installation {
        return Some(format!(
            "not running here: the {} of another installation ({}) answers, process {}",
            process.role, process.installation, process.pid
        ));
    }
    (process.role != role.name()).then(|| {
        format!("not running here: the {} answers in its place, process {}", process.role, process.pid)
    })
}

/// What the process at this address answers to a request for a path.
///
/// # Errors
/// Why nothing answers.
pub(crate) async fn get(health: SocketAddr, path: &str) -> Result<String, String> {
    match tokio::time::timeout(METRICS_TIMEOUT, response(health, path, METRICS_MAX)).await {
        Ok(Ok(response)) => Ok(response.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no response".to_owned()),
    }
}

async fn response(health: SocketAddr, path: &str, most: u64) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(health).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {health}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut response = Vec::new();
    stream.take(most).read_to_end(&mut response).await?;
    Ok(String::from_utf8_lossy(&response).into_owned())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use daemon::Shutdown;
    use daemon::health::{self, Health, ProcessInfo};

    use super::*;

    // F-27.
    #[tokio::test]
    async fn roles_of_another_installation_are_told_apart() {
        let health = Health::new(ProcessInfo::new("abc234", "proxy", "1.2.3"));
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let shutdown = Shutdown::new();
        health::serve(address, &health, &shutdown).await.unwrap();
        let report = ask(address).await.unwrap();
        assert_eq!(report, health.report());
        assert_eq!(foreign(&report, Role::Proxy, "abc234"), None);
        let other = foreign(&report, Role::Proxy, "xyz567").unwrap();
        assert!(other.contains("the proxy of another installation (abc234) answers"), "{other}");
        let swapped = foreign(&report, Role::Webui, "abc234").unwrap();
        assert!(swapped.contains("the proxy answers in its place"), "{swapped}");
        shutdown.begin();
    }

    // F-27, F-25.
    #[tokio::test]
    async fn silence_and_other_programs_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(ask(address).await.unwrap_err().contains("no response within a second"));
        let web = std::thread::spawn(move || {
            // The one that was asked above waits in the backlog.
            for mut stream in listener.incoming().take(2).flatten() {
                let _ = stream.read(&mut [0; 1024]);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nready");
            }
        });
        assert_eq!(ask(address).await.unwrap_err(), format!("another program answers on {address}"));
        web.join().unwrap();
        assert_eq!(ask(address).await.unwrap_err(), "not running");
    }
}
