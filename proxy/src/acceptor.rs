//! An acceptor: one thread that accepts connections, authenticates them, and hands each to the worker that owns its tenant.
//!
//! Workers accept nothing, so whatever happens before login competes with requests only for the CPU, where the kernel shares
//! it out between threads: thousands of half-open connections, handshakes or wrong logins don't stand in a queue before
//! anybody's requests.

use std::cell::RefCell;
use std::net::{IpAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use daemon::health::Progress;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use crate::auth::authenticated::AuthenticatedConnection;
use crate::auth::{Admission, PendingConnection};
use crate::login::outcome::LoginOutcome;
use crate::mailbox::{Handoff, Message, worker_for};
use crate::metrics::{ConnectionGuard, PanicGuard};
use crate::transport::Stream;
use crate::worker::Shared;
use crate::{Error, thread};

/// Size of the buffer into which all connections of an acceptor read, in bytes.
const READ_MAX: usize = 16 * 1024;
/// Delay before accepting again after an error, such as too many open files.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
/// Bytes of replies that the kernel takes beyond what it has sent. By default it takes megabytes, for each of the connections
/// whose clients read nothing: memory of all sockets of the host, in no budget.
const UNSENT_IN_KERNEL_MAX: u32 = 64 * 1024;
/// TCP keepalive of clients: idle time before the first probe, and interval of further probes.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// One acceptor thread.
pub(crate) struct Acceptor {
    shared: Arc<Shared>,
    connections: TaskTracker,
    scratch: RefCell<Vec<u8>>,
}

impl Acceptor {
    /// Starts the thread. It ends at shutdown, once the connections that have logged in are handed off; other logins are broken
    /// off. When another process takes over it accepts nothing any more, and ends once all logins have been decided.
    ///
    /// # Errors
    ///
    /// If the thread or its runtime can't be started.
    pub(crate) fn start(
        index: usize,
        listener: StdListener,
        shared: Arc<Shared>,
    ) -> Result<JoinHandle<()>, Error> {
        let progress = shared.health.watch_loop(format!("acceptor {index}"));
        thread::start(format!("acceptor-{index}"), move || async move {
            let scratch = RefCell::new(vec![0; READ_MAX]);
            Rc::new(Self { shared, connections: TaskTracker::new(), scratch }).run(listener, progress).await;
        })
    }

    async fn run(self: Rc<Self>, listener: StdListener, progress: Progress) {
        let listener = match TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "failed to register the listener");
                // Without marks of progress the proxy is restarted.
                return self.shared.shutdown.begun().await;
            }
        };
        tokio::select! {
            () = self.shared.shutdown.begun() => {}
            () = self.shared.takeover.begun() => {}
            () = self.accept_all(&listener) => {}
            never = progress.mark_while_polled() => match never {},
        }
        drop((listener, progress));
        self.connections.close();
        tokio::select! {
            () = self.connections.wait() => {}
            () = self.shared.drained.begun() => {}
        }
    }

    async fn accept_all(self: &Rc<Self>, listener: &TcpListener) {
        let mut is_failing = false;
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    is_failing = false;
                    self.on_accept(stream, peer.ip().to_canonical());
                }
                Err(error) => {
                    // `memgate up` makes the socket stop just before it tells the role to: this ends here then.
                    sleep(ACCEPT_BACKOFF).await;
                    if !std::mem::replace(&mut is_failing, true) {
                        tracing::warn!(%error, "failed to accept connections");
                    }
                }
            }
        }
    }

    /// Admits an accepted connection, or closes it, perhaps with a last reply.
    fn on_accept(self: &Rc<Self>, stream: TcpStream, source: IpAddr) {
        let guard = ConnectionGuard::new(&self.shared.metrics.connections);
        let limiter = &self.shared.admission_limiter;
        let connections = self.shared.metrics.connections_open();
        let admitted = if self.shared.config.is_balancer(source) {
            limiter.admit_balancer(source, connections)
        } else {
            limiter.admit(source, connections)
        };
        let admission = admitted.map(Admission::Unauthenticated).ok().or_else(|| {
            self.shared.metrics.login(LoginOutcome::Overloaded);
            limiter.admit_closing(source).map(Admission::Closing)
        });
        let Some(admission) = admission else { return };
        let socket = SockRef::from(&stream);
        let prepared = socket
            .set_tcp_keepalive(&keepalive())
            .and_then(|()| socket.set_tcp_notsent_lowat(UNSENT_IN_KERNEL_MAX))
            .and_then(|()| stream.set_nodelay(true));
        if prepared.is_ok() {
            let stream = Stream::plain(stream);
            let pending = PendingConnection { stream, source, admission, input: Vec::new() };
            let acceptor = self.clone();
            self.connections.spawn_local(async move {
                let _panic_guard = PanicGuard::new(&acceptor.shared.metrics);
                acceptor.authenticate(pending, guard).await;
            });
        }
    }

    /// Authenticates a connection and hands it off. It ends here without a login, or when the proxy stops.
    async fn authenticate(&self, pending: PendingConnection, guard: ConnectionGuard) {
        let authenticator = self.shared.authenticator(&self.scratch);
        let authenticated = tokio::select! {
            authenticated = authenticator.authenticate(pending) => authenticated,
            () = self.shared.shutdown.begun() => None,
        };
        if let Some(connection) = authenticated {
            self.hand_off(connection, guard).await;
        }
    }

    /// Sends the connection to the worker that owns its tenant. Until its session is registered there, it counts as
    /// unauthenticated.
    async fn hand_off(&self, connection: AuthenticatedConnection, guard: ConnectionGuard) {
        let AuthenticatedConnection { stream, source, grant, login, certificate, admission } = connection;
        let (Admission::Unauthenticated(permit) | Admission::Closing(permit)) = admission else { return };
        let owner = worker_for(&grant.instance_id, self.shared.workers.len());
        if let (Ok(stream), Some(worker)) = (stream.detach(), self.shared.workers.get(owner)) {
            let handoff = Handoff { stream, source, grant, login, certificate, permit, guard };
            let _ = worker.send(Message::Handoff(Box::new(handoff))).await;
        }
    }
}

/// Finds a vanished client within a minute.
fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(2)
}
