//! The health endpoint: its answers, and under a flood of connections.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::Shutdown;

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

async fn start(health: &Health) -> (SocketAddr, Shutdown) {
    let shutdown = Shutdown::new();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    serve(free, health, &shutdown).await.unwrap();
    (free, shutdown)
}

//
#[tokio::test]
async fn idle_connections_neither_silence_it_nor_use_up_file_descriptors() {
    let health = Health::default();
    let (free, shutdown) = start(&health).await;
    health.publish_metrics(Registry::default());
    health.ready();
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

// F-26, F-27.
#[tokio::test]
async fn being_alive_being_ready_and_the_store_are_answered_apart() {
    let health = Health::new(ProcessInfo::new("abc234", "proxy", "1.2.3"));
    let (address, _shutdown) = start(&health).await;
    let code = async |path: &str| get(address, path).await[9..12].to_owned();
    let codes = async || [code("/healthz").await, code("/readyz").await, code("/storez").await];
    assert_eq!(codes().await, ["200", "503", "503"], "starting");
    health.ready();
    assert_eq!(codes().await, ["200", "200", "200"]);

    health.set_problem(STORE, Some("the database doesn't answer: check that it runs".into()));
    health.set_notice("certificate", Some("ends soon".into()));
    assert_eq!(codes().await, ["200", "200", "503"], "it still serves");
    let ready = get(address, "/readyz").await;
    let line = "\r\n\r\nready: the database doesn't answer: check that it runs; ends soon\n";
    assert!(ready.contains(line), "{ready}");
    let process = format!("proxy of installation abc234, memgate 1.2.3, process {}", std::process::id());
    for path in ["/healthz", "/readyz", "/storez"] {
        assert!(get(address, path).await.lines().last().unwrap().starts_with(&process), "{path}");
    }
    let status = get(address, "/status").await;
    for part in
        ["\"installation\":\"abc234\"", "\"role\":\"proxy\"", "\"alive\":true", "\"store\":\"the data"]
    {
        assert!(status.contains(part), "{part}: {status}");
    }

    health.set_problem(STORE, None);
    health.not_ready("no grant is known");
    assert_eq!(codes().await, ["200", "503", "503"]);
    assert!(!health.report().waiting);
    health.waiting("the store is away");
    assert!(health.report().waiting && !health.is_ready());
}
