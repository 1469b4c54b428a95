//! The health endpoint under a flood of connections.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;

/// Time limit of everything that has to happen soon.
const DEADLINE: Duration = Duration::from_secs(20);
/// As many connections as the endpoint has.
const CONNECTIONS_MAX: u64 = 16;

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // Without `Connection: close`: the endpoint closes by itself.
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
    let mut response = String::new();
    let read = stream.read_to_string(&mut response);
    tokio::time::timeout(DEADLINE, read).await.expect("a response in time").unwrap();
    response
}

//
#[tokio::test]
async fn idle_connections_neither_silence_it_nor_use_up_file_descriptors() {
    let (shutdown, readiness) = (Shutdown::new(), Readiness::default());
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    serve(free, readiness.clone(), Registry::default(), &shutdown).await.unwrap();
    readiness.ready();
    let mut idle = Vec::new();
    for number in 0..300 {
        let mut stream = TcpStream::connect(free).await.unwrap();
        if number % 2 == 0 {
            stream.write_all(b"GET /metrics HT").await.unwrap();
        }
        idle.push(stream);
    }
    assert!(get(free, "/readyz").await.ends_with("ready\n"));
    let metrics = get(free, "/metrics").await;
    let value = |name: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {metrics}")).trim().parse::<u64>().unwrap()
    };
    assert!(value("memgate_health_connections ") <= CONNECTIONS_MAX + 1, "{metrics}");
    assert!(value("memgate_health_connections_closed_total{cause=\"source_limit\"}") > 200, "{metrics}");
    // The last ones end at the time limit.
    for mut stream in idle {
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest)).await.expect("the end");
    }
    shutdown.begin();
    assert!(shutdown.finished(DEADLINE).await);
}
