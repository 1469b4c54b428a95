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
const METRICS_MAX: u64 = 8 << 20;
/// How long an answer may take that nobody waits for at a terminal.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What the process at this address says of itself.
///
/// # Errors
/// Why nothing of memgate answers.
pub(crate) async fn ask(health: SocketAddr) -> Result<Report, String> {
    let body = get(health, "/status", RESPONSE_MAX).await?;
    let report = body.and_then(|body| serde_json::from_str(&body).ok());
    report.ok_or_else(|| format!("another program answers on {health}"))
}

/// The metrics of the process at this address, in Prometheus's older text format.
///
/// # Errors
/// Why nothing of memgate answers.
pub(crate) async fn metrics(health: SocketAddr) -> Result<String, String> {
    let body = get(health, "/metrics", METRICS_MAX).await?;
    body.ok_or_else(|| format!("another program answers on {health}"))
}

/// What the process at this address answers to a request for a path, whatever the status.
///
/// # Errors
/// Why nothing answers.
pub(crate) async fn answer(health: SocketAddr, path: &str) -> Result<String, String> {
    match tokio::time::timeout(ANSWER_TIMEOUT, exchange(health, path, METRICS_MAX)).await {
        Ok(Ok(response)) => Ok(response.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no response".to_owned()),
    }
}

/// The value of a series, whose labels are written as there.
pub(crate) fn value(metrics: &str, series: &str) -> Option<f64> {
    let mut values = metrics.lines().filter_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    values.next()?.parse().ok().filter(|value: &f64| value.is_finite())
}

/// The body of a response, `None` if it isn't a success.
async fn get(health: SocketAddr, path: &str, bytes_max: u64) -> Result<Option<String>, String> {
    let response = tokio::time::timeout(TIMEOUT, exchange(health, path, bytes_max)).await;
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
    Ok(is_success.then(|| body.to_owned()))
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

async fn exchange(health: SocketAddr, path: &str, bytes_max: u64) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(health).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {health}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut response = Vec::new();
    stream.take(bytes_max).read_to_end(&mut response).await?;
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

    #[test]
    fn series_are_found_by_their_whole_name() {
        let metrics = "# TYPE a gauge\na_limit 7\na 5.5\nb{kind=\"x\"} 1e3\nc NaN\n";
        let found = ["a", "b{kind=\"x\"}", "b", "c", "d"].map(|series| value(metrics, series));
        assert_eq!(found, [Some(5.5), Some(1000.0), None, None, None]);
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
