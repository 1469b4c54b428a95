//! Floods of connections of every kind, over loopback.

use std::net::Ipv4Addr;
use std::time::Instant;

use axum::body::Bytes;
use axum::routing::{get, post};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::TcpSocket;

use super::*;

/// Time limit of everything that has to happen soon.
const DEADLINE: Duration = Duration::from_secs(20);
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
const LONG: &[u8] = b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n";

/// A server on loopback.
struct Listener {
    address: SocketAddr,
    shutdown: Shutdown,
    metrics: Registry,
}

impl Listener {
    async fn start(limits: ConnectionLimits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut metrics = Registry::default();
        let connections = ConnectionMetrics::register(&mut metrics);
        let routes = Router::new()
            .route("/", get(|| async { "hello" }))
            .route("/long", get(|| async { "x".repeat(64 * 1024) }))
            .route("/wait", get(|| async { tokio::time::sleep(DEADLINE).await }))
            .route("/upload", post(|body: Bytes| async move { body.len().to_string() }));
        let shutdown = Shutdown::new();
        let until = shutdown.clone();
        shutdown.spawn(async move { serve(listener, routes, limits, connections, &until).await });
        Self { address, shutdown, metrics }
    }

    /// Connects from 127.x.y.z.
    async fn connect(&self, [x, y, z]: [u8; 3]) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.bind((Ipv4Addr::new(127, x, y, z), 0).into()).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    /// Connects and sends.
    async fn send(&self, source: [u8; 3], bytes: &[u8]) -> TcpStream {
        let mut stream = self.connect(source).await;
        stream.write_all(bytes).await.unwrap();
        stream
    }

    /// The response to a request on a connection of its own.
    async fn get(&self, source: [u8; 3], path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        read_to_end(&mut self.send(source, request.as_bytes()).await).await
    }

    /// The value of a metric, with its label if it has one; 0 if it isn't there.
    fn metric(&self, name: &str) -> u64 {
        let mut text = String::new();
        encode(&mut text, &self.metrics).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse().unwrap())
    }

    /// Waits until a metric has a value.
    async fn reach(&self, name: &str, is_reached: impl Fn(u64) -> bool) {
        let started = Instant::now();
        while !is_reached(self.metric(name)) {
            assert!(started.elapsed() < DEADLINE, "{name} is {}", self.metric(name));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// What the peer sends until it closes, or breaks off.
async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut text)).await.expect("the end in time");
    String::from_utf8_lossy(&text).into_owned()
}

fn limits(connections: usize, timeout: Duration) -> ConnectionLimits {
    ConnectionLimits {
        connections,
        connections_per_source: connections,
        head_timeout: timeout,
        body_timeout: timeout,
        write_timeout: timeout,
        ..ConnectionLimits::for_browsers(Vec::new())
    }
}

const SHORT: Duration = Duration::from_millis(300);
const LONG_TIME: Duration = Duration::from_secs(60);

//
#[tokio::test]
async fn unread_responses_end_at_the_time_limit() {
    let server = Listener::start(limits(10, SHORT)).await;
    let mut stream = server.send([0, 0, 2], &LONG.repeat(20)).await;
    server.reach("connections_closed_total{cause=\"write_timeout\"}", |closed| closed == 1).await;
    server.reach("connections", |open| open == 0).await;
    let whole = 20 * 64 * 1024;
    assert!(read_to_end(&mut stream).await.len() < whole);
}

//
#[tokio::test]
async fn slow_readers_finish_while_they_make_progress() {
    let server = Listener::start(limits(10, Duration::from_secs(2))).await;
    let mut stream =
        server.send([0, 0, 2], b"GET /long HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    let (mut received, mut buffer) = (0, [0; 4096]);
    loop {
        let read = stream.read(&mut buffer).await.unwrap();
        if read == 0 {
            break;
        }
        received += read;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(received > 64 * 1024, "{received}");
}

//
#[tokio::test]
async fn half_heads_and_half_bodies_and_idle_connections_end() {
    let server = Listener::start(limits(10, SHORT)).await;
    for sent in [&b""[..], b"GET / HTTP/1.1\r\nHost", GET] {
        let mut stream = server.send([0, 0, 2], sent).await;
        let said = read_to_end(&mut stream).await;
        assert_eq!(said.starts_with("HTTP/1.1 200"), sent == GET, "{said}");
    }
    let ended = |cause: &str| server.metric(&format!("connections_closed_total{{cause=\"{cause}\"}}"));
    assert_eq!(
        (ended("head_timeout"), ended("idle_timeout")),
        (1, 2),
        "a half head; a silent and a kept one"
    );
    let mut upload =
        server.send([0, 0, 2], b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf").await;
    assert!(read_to_end(&mut upload).await.starts_with("HTTP/1.1 400"));
    server.reach("connections_closed_total{cause=\"body_timeout\"}", |closed| closed == 1).await;
}

//
#[tokio::test]
async fn new_connection_takes_the_place_of_an_idle_connection_of_the_most_crowded_network() {
    let server = Listener::start(limits(8, LONG_TIME)).await;
    let mut idle = Vec::new();
    for source in [[9, 0, 1], [1, 1, 1], [1, 1, 2], [1, 1, 3], [1, 1, 3], [8, 0, 1]] {
        let mut stream = server.send(source, GET).await;
        assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
        idle.push(stream);
    }
    let mut busy = server.send([1, 1, 3], b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let mut newest = server.send([1, 1, 4], b"GET / HT").await;
    server.reach("connections", |open| open == 8).await;
    let response = server.get([7, 0, 1], "/").await;
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    // The oldest idle one of the network 127.1.1.0/24, and there of the source with two.
    assert_eq!(idle[3].read(&mut [0; 1024]).await.unwrap(), 0);
    assert_eq!(server.metric("connections_closed_total{cause=\"total_limit\"}"), 1);
    for kept in [0, 1, 2, 4, 5] {
        idle[kept].write_all(GET).await.unwrap();
        assert!(idle[kept].read(&mut [0; 1024]).await.unwrap() > 0, "{kept}");
    }
    newest.write_all(b"TP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(newest.read(&mut [0; 1024]).await.unwrap() > 0);
    let unanswered = tokio::time::timeout(SHORT, busy.read(&mut [0; 1024])).await;
    assert!(unanswered.is_err(), "the request in progress goes on");
}

/// Fills a listener of four places with peers that send or take a few bytes now and then.
async fn fill_slowly(server: &Listener, uploads: u8) -> JoinSet<()> {
    let head = b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n";
    let mut slow = JoinSet::new();
    for z in 1..=4 {
        let is_upload = z <= uploads;
        let sent = if is_upload { head.to_vec() } else { LONG.repeat(20) };
        let mut stream = server.send([1, 1, z], &sent).await;
        slow.spawn(async move {
            loop {
                let went_on = if is_upload {
                    stream.write_all(b"x").await.is_ok()
                } else {
                    stream.read(&mut [0; 512]).await.is_ok_and(|read| read > 0)
                };
                if !went_on {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
    }
    slow
}

//
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_now_and_then_hold_no_place() {
    for uploads in [4, 0, 2] {
        let server = Listener::start(limits(4, LONG_TIME)).await;
        let slow = fill_slowly(&server, uploads).await;
        let (started, mut served) = (Instant::now(), 0);
        while served < 10 {
            assert!(started.elapsed() < DEADLINE, "{uploads} uploads: {served} served");
            let response = server.get([7, 0, served], "/").await;
            served += u8::from(response.starts_with("HTTP/1.1 200"));
        }
        assert!(server.metric("connections_closed_total{cause=\"total_limit\"}") > 0);
        drop(slow);
    }
}

//
#[tokio::test]
async fn connections_of_a_source_are_limited() {
    let proxy: IpAddr = "127.0.0.9".parse().unwrap();
    let limits =
        ConnectionLimits { connections_per_source: 2, trusted_proxies: vec![proxy], ..limits(10, LONG_TIME) };
    let server = Listener::start(limits).await;
    let wait = b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut held = Vec::new();
    for source in [[0, 0, 2], [0, 0, 2], [0, 0, 9], [0, 0, 9], [0, 0, 9]] {
        held.push(server.send(source, wait).await);
    }
    server.reach("connections", |open| open == 5).await;
    let refused = server.get([0, 0, 2], "/").await;
    assert!(refused.starts_with("HTTP/1.1 429 ") && refused.contains("\r\nRetry-After: 5\r\n"), "{refused}");
    assert_eq!(server.metric("connections_refused_total{cause=\"source_limit\"}"), 1);
    assert!(server.get([0, 0, 3], "/").await.starts_with("HTTP/1.1 200"), "another source");
    assert!(server.get([0, 0, 9], "/").await.starts_with("HTTP/1.1 200"), "the trusted proxy");
}

//
#[tokio::test]
async fn full_listener_says_so_while_every_request_is_in_progress() {
    let server = Listener::start(limits(3, LONG_TIME)).await;
    let mut held = Vec::new();
    for z in 1..=3 {
        held.push(server.send([0, 0, z], b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n").await);
    }
    server.reach("connections", |open| open == 3).await;
    // Each request has begun: an idle connection would make room.
    let started = Instant::now();
    loop {
        let response = server.get([0, 0, 4], "/").await;
        if response.starts_with("HTTP/1.1 503 ") {
            assert!(response.contains("\r\nRetry-After: 5\r\n"), "{response}");
            break;
        }
        assert!(started.elapsed() < DEADLINE);
    }
}

//
#[tokio::test]
async fn connection_that_waits_for_a_place_holds_up_no_other() {
    let limits = ConnectionLimits { connections_per_source: 1, ..limits(1, LONG_TIME) };
    let server = Listener::start(limits).await;
    let held = server.send([0, 0, 1], b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n").await;
    server.reach("connections", |open| open == 1).await;
    let mut waiting = Vec::new();
    for z in 2..6 {
        waiting.push(server.send([0, 1, z], b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await);
    }
    server.reach("connections_waiting", |waiting| waiting == 4).await;
    assert!(server.get([0, 0, 1], "/").await.starts_with("HTTP/1.1 429 "), "answered meanwhile");
    assert!(server.get([0, 1, 9], "/").await.starts_with("HTTP/1.1 503 "), "four of a network wait");
    for stream in &waiting {
        let received = stream.try_read(&mut [0; 1]).map_err(|error| error.kind());
        assert_eq!(received, Err(std::io::ErrorKind::WouldBlock), "still waits");
    }
    drop(held);
    for mut stream in waiting {
        assert!(read_to_end(&mut stream).await.starts_with("HTTP/1.1 "), "has its turn, or is told");
    }
    server.reach("connections_waiting", |waiting| waiting == 0).await;
}

//
#[tokio::test]
async fn connections_that_wait_get_places_in_the_order_of_their_coming() {
    const WAITING: u8 = 16;
    let server = Listener::start(limits(1, LONG_TIME)).await;
    let held = server.send([0, 0, 1], b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n").await;
    server.reach("connections", |open| open == 1).await;
    let (order, mut responses) = (Arc::new(std::sync::Mutex::new(Vec::new())), JoinSet::new());
    for nth in 1..=WAITING {
        let request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let mut stream = server.send([nth, 0, 1], request).await;
        server.reach("connections_waiting", |waiting| waiting == u64::from(nth)).await;
        let order = order.clone();
        responses.spawn(async move {
            assert!(!read_to_end(&mut stream).await.starts_with("HTTP/1.1 503 "));
            order.lock().unwrap().push(nth);
        });
    }
    drop(held);
    responses.join_all().await;
    assert_eq!(*order.lock().unwrap(), (1..=WAITING).collect::<Vec<_>>());
}

//
#[tokio::test]
async fn shutdown_ends_the_wait_for_a_place() {
    let server = Listener::start(limits(1, LONG_TIME)).await;
    let held = server.send([0, 0, 1], b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n").await;
    server.reach("connections", |open| open == 1).await;
    let mut first = server.send([0, 0, 3], GET).await;
    assert!(read_to_end(&mut first).await.starts_with("HTTP/1.1 503 "), "no place in time");
    let mut second = server.send([0, 0, 4], GET).await;
    server.reach("connections_waiting", |waiting| waiting == 1).await;
    server.shutdown.begin();
    assert_eq!(read_to_end(&mut second).await, "", "closed, not told after a while");
    assert!(server.shutdown.finished(DEADLINE).await);
    drop(held);
}

//
#[tokio::test]
async fn shutdown_finishes_the_response_under_way() {
    let server = Listener::start(limits(10, LONG_TIME)).await;
    let idle = server.send([0, 0, 2], GET).await;
    server.reach("connections", |open| open == 1).await;
    server.shutdown.begin();
    assert!(server.shutdown.finished(DEADLINE).await);
    drop(idle);
}
