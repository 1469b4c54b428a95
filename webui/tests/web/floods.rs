//! Floods of connections: other visitors are served all the while, and the flood's connections end.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use daemon::http::ConnectionLimits;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpSocket, TcpStream};

use crate::harness::{Site, eventually};

/// Connections of the flood: more than a web UI accepts.
const CONNECTIONS: usize = 2060;
/// A page is answered in this time, whatever else happens.
const SOON: Duration = Duration::from_secs(5);

/// Raises the limit of open files to its maximum, and returns how many connections it allows both sides of.
fn connections_allowed() -> usize {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let files = limit.maximum.map_or(usize::MAX, |files| usize::try_from(files).unwrap());
    CONNECTIONS.min(files / 4)
}

async fn start(connections: usize, timeout: Duration) -> Site {
    let limit = |limits: &mut ConnectionLimits| {
        limits.connections = limits.connections.min(connections - 12);
        (limits.head_timeout, limits.write_timeout) = (timeout, timeout);
    };
    Site::start_within(tempfile::tempdir().unwrap(), |_| {}, limit).await
}

/// Connects from an address of its own and sends as much as the server takes. Receives next to nothing.
async fn connect(site: &Site, number: usize, bytes: &[u8]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(2048).unwrap();
    let [.., a, b] = u32::try_from(number).unwrap().to_be_bytes();
    socket.bind((Ipv4Addr::new(127, 9, a, b), 0).into()).unwrap();
    let stream = socket.connect(site.address).await.unwrap();
    stream.writable().await.unwrap();
    let _ = stream.try_write(bytes);
    stream
}

async fn assert_served(site: &Site, from: [u8; 4]) {
    let started = Instant::now();
    let page = site.visitor_from(from).get("/sign-in").await;
    assert_eq!(page.status, 200, "{from:?}");
    assert!(started.elapsed() < SOON, "{from:?}: {:?}", started.elapsed());
}

async fn open(site: &Site) -> u64 {
    site.metric("memgate_webui_connections")
}

//
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_answers_keep_nobody_out_and_end() {
    let connections = connections_allowed();
    let site = start(connections, Duration::from_secs(8)).await;
    let requests = b"GET /assets/style.css HTTP/1.1\r\nHost: x\r\n\r\n".repeat(400);
    let mut flood = Vec::new();
    for number in 0..connections {
        flood.push(connect(&site, number, &requests).await);
        if number % 500 == 499 {
            assert_served(&site, [127, 1, 0, 1]).await;
        }
    }
    for from in [[127, 1, 0, 1], [127, 2, 0, 1], [127, 9, 0, 1]] {
        assert_served(&site, from).await;
    }
    eventually("the flood ends", || async { open(&site).await < 10 }).await;
    let ended = site.find_metric("memgate_webui_connections_closed_total{cause=\"write_timeout\"}");
    assert!(ended.is_some_and(|ended| ended > 100), "{ended:?}");
    drop(flood);
}

//
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_requests_and_idle_connections_keep_nobody_out_and_end() {
    let connections = connections_allowed();
    let site = start(connections, Duration::from_secs(8)).await;
    for sent in [&b"GET /sign-in HTTP/1.1\r\nHost: "[..], b"GET /assets/icon.svg HTTP/1.1\r\nHost: x\r\n\r\n"]
    {
        let mut flood = Vec::new();
        for number in 0..connections {
            flood.push(connect(&site, number, sent).await);
        }
        for from in [[127, 1, 0, 1], [127, 2, 0, 1], [127, 9, 0, 1]] {
            assert_served(&site, from).await;
        }
        eventually("the flood ends", || async { open(&site).await == 0 }).await;
        drop(flood);
    }
}
