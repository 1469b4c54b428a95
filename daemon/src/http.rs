//! HTTP/1 server of every role: serves routes on a listener within limits, and stops gracefully. Knows no page.
//!
//! Nothing that a peer does, or leaves undone, holds a connection for ever, and when all connections are in use a
//! new one takes the place of an idle one (`http/admission.rs`) instead of waiting.

mod activity;
mod admission;
mod body;
mod connection;
mod metrics;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::process::{Resource, getrlimit};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Shutdown;
use admission::{ConnectionTable, Rejection, Slot, Waiting};

pub use metrics::ConnectionMetrics;

/// Bytes of a request's head, and of responses that aren't sent yet: a pipeline waits when they are used up.
const BUFFER_MAX: usize = 32 * 1024;
/// Unsent bytes in the kernel up to which it takes more, so that a slow peer's progress is seen soon.
const UNSENT_MAX: u32 = 8 * 1024;
/// Time limit for responses that are under way at shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
/// Wait after a failed accept (no file descriptors, for example), so that the loop doesn't spin.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// How long a new connection waits for a place: longer than it takes until a peer that doesn't read counts as idle.
const ADMISSION_TIMEOUT: Duration = Duration::from_secs(2);
/// Time after which the first that waits looks again whether a connection is idle now: nothing tells it.
const ADMISSION_INTERVAL: Duration = Duration::from_millis(20);
/// Connections being rejected with a response; beyond this they are closed without.
const REJECTING_MAX: usize = 16;
/// Time limit for delivering that response.
const REJECT_TIMEOUT: Duration = Duration::from_secs(1);
/// `Retry-After` of a rejected connection.
const RETRY_AFTER_SECONDS: u64 = 5;

/// Limits of a listener.
#[derive(Debug, Clone)]
pub struct ConnectionLimits {
    /// Open connections; at most half of the process's file descriptors.
    pub connections: usize,
    /// Open connections of one source: an IPv4 address or an IPv6 /64.
    pub connections_per_source: usize,
    /// Time limit for a request's head, and for an idle connection.
    pub head_timeout: Duration,
    /// Time limit for a request's body.
    pub body_timeout: Duration,
    /// A connection ends if its peer takes no byte of a response for this time.
    pub write_timeout: Duration,
    /// Whether a connection may serve several requests.
    pub keep_alive: bool,
    /// Proxies that forward the requests of many sources: they have no limit of their own.
    pub trusted_proxies: Vec<IpAddr>,
}

impl ConnectionLimits {
    /// Limits for a listener that browsers use.
    #[must_use]
    pub fn for_browsers(trusted_proxies: Vec<IpAddr>) -> Self {
        Self {
            connections: 2048,
            connections_per_source: 256,
            head_timeout: Duration::from_secs(20),
            body_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
            keep_alive: true,
            trusted_proxies,
        }
    }

    /// Limits for a listener that only operators and their monitoring use.
    #[must_use]
    pub fn for_operators() -> Self {
        let timeout = Duration::from_secs(5);
        Self {
            connections: 16,
            connections_per_source: 16,
            head_timeout: timeout,
            body_timeout: timeout,
            write_timeout: timeout,
            keep_alive: false,
            trusted_proxies: Vec::new(),
        }
    }

    /// Leaves at least half of the process's file descriptors to the rest of it.
    fn within_open_files(mut self) -> Self {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        self.connections = self.connections.min(usize::try_from(files / 2).unwrap_or(usize::MAX)).max(1);
        self
    }
}

/// Remote address of the connection; an extension of every request.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// Own address of the connection; an extension of every request.
#[derive(Debug, Clone, Copy)]
pub struct Local(pub SocketAddr);

/// Serves `routes` until shutdown, then waits up to 3 s for responses under way.
pub async fn serve(
    listener: TcpListener,
    routes: Router,
    limits: ConnectionLimits,
    metrics: ConnectionMetrics,
    shutdown: &Shutdown,
) {
    let limits = limits.within_open_files();
    let table = Arc::new(ConnectionTable::new(&limits));
    let rejecting = Semaphore::new(REJECTING_MAX);
    let server = Arc::new(Server { limits, routes, metrics, table, rejecting });
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            () = shutdown.begun() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tokio::time::sleep(ACCEPT_BACKOFF).await;
                // `memgate up` makes the socket stop just before it tells the role to.
                if !shutdown.has_begun() {
                    tracing::warn!(%error, "failed to accept a connection");
                }
                continue;
            }
        };
        let (server, stop) = (server.clone(), shutdown.token().clone());
        match server.table.admit(peer.ip(), &server.metrics) {
            Ok(slot) => {
                connections.spawn(async move { server.serve_connection(stream, peer, slot, stop).await });
            }
            Err(rejection) => {
                connections.spawn(async move { server.serve_later(stream, peer, rejection, stop).await });
            }
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN_TIMEOUT, drained).await.is_err() {
        tracing::warn!("shutdown: aborted responses that took too long");
    }
}

/// What all connections of a listener share.
struct Server {
    limits: ConnectionLimits,
    routes: Router,
    metrics: ConnectionMetrics,
    table: Arc<ConnectionTable>,
    rejecting: Semaphore,
}

impl Server {
    /// Serves a connection once there is a place for it, if it may wait. Others are accepted meanwhile.
    async fn serve_later(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        rejection: Rejection,
        stop: CancellationToken,
    ) {
        let waiting = self.table.wait(peer.ip(), rejection, &self.metrics);
        let admitted = match waiting {
            None => Err(rejection),
            Some(waiting) => tokio::select! {
                () = stop.cancelled() => return,
                admitted = self.admit(&waiting) => admitted,
            },
        };
        match admitted {
            Ok(slot) => self.serve_connection(stream, peer, slot, stop).await,
            Err(rejection) => self.reject(stream, rejection).await,
        }
    }

    /// A place for a new connection, for which it waits a while.
    async fn admit(&self, waiting: &Waiting) -> Result<Slot, Rejection> {
        let admitted = async {
            // Not the place of one that has just been admitted, and hasn't begun its request.
            let mut may_evict = false;
            loop {
                match waiting.admit(may_evict) {
                    None => waiting.woken().await,
                    Some(Err(Rejection::TotalLimit)) => {
                        may_evict = tokio::time::timeout(ADMISSION_INTERVAL, waiting.woken()).await.is_err();
                    }
                    Some(admitted) => return admitted,
                }
            }
        };
        tokio::time::timeout(ADMISSION_TIMEOUT, admitted).await.unwrap_or(Err(Rejection::TotalLimit))
    }

    /// Tells a peer that there are too many connections, unless too many are being told.
    async fn reject(&self, stream: TcpStream, rejection: Rejection) {
        self.metrics.count_rejection(rejection.cause());
        if let Ok(_permit) = self.rejecting.try_acquire() {
            let _ = tokio::time::timeout(REJECT_TIMEOUT, reject(stream, rejection)).await;
        }
    }

    fn http(&self) -> hyper::server::conn::http1::Builder {
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(self.limits.head_timeout)
            .max_buf_size(BUFFER_MAX)
            .keep_alive(self.limits.keep_alive);
        http
    }

    /// The stream's options. What fails here fails for a closed connection only, which the next read finds.
    fn set_options(&self, stream: &TcpStream) {
        // Responses are written whole: Nagle's algorithm would only delay them.
        let _ = stream.set_nodelay(true);
        let socket = SockRef::from(stream);
        let keepalive = TcpKeepalive::new().with_time(self.limits.write_timeout);
        let _ = socket.set_tcp_keepalive(&keepalive.with_interval(self.limits.write_timeout));
        let _ = socket.set_tcp_user_timeout(Some(self.limits.write_timeout));
        let _ = socket.set_tcp_notsent_lowat(UNSENT_MAX);
    }
}

/// Tells a peer that there are too many connections, and waits until it closes.
async fn reject(mut stream: TcpStream, rejection: Rejection) -> std::io::Result<()> {
    let (status, text) = match rejection {
        Rejection::SourceLimit => ("429 Too Many Requests", "too many connections from this address\n"),
        Rejection::TotalLimit => ("503 Service Unavailable", "too many connections\n"),
    };
    let response = format!(
        "HTTP/1.1 {status}\r\nRetry-After: {RETRY_AFTER_SECONDS}\r\nConnection: close\r\n\
         Content-Type: text/plain\r\nContent-Length: {}\r\n\r\n{text}",
        text.len()
    );
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await?;
    // Closed with unread bytes, it would be reset before the peer has read the response.
    let mut discarded = [0; 1024];
    while stream.read(&mut discarded).await? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests;
