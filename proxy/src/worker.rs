//! A worker: one thread, one single-threaded runtime, one listener. Connections log in where they were
//! accepted and then move to their instance's tenant worker; nothing on a request's way is shared.

mod connection;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::net::TcpListener as StdListener;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use daemon::Shutdown;
use socket2::{SockRef, TcpKeepalive};
use store::{Grant, LaneKey, Millis};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::task::TaskTracker;

use crate::auth::admission::AdmissionLimiter;
use crate::auth::authenticated::AuthenticatedConnection;
use crate::auth::backoff::Throttle;
use crate::auth::{Admission, PendingConnection};
use crate::grants::Grants;
use crate::lane::Buffers;
use crate::login::outcome::LoginOutcome;
use crate::mailbox::{Handoff, Inbox, Message};
use crate::metrics::{ConnectionGuard, Metrics};
use crate::report::usage::{UsageDelta, UsageSender};
use crate::responses::BufferPool;
use crate::tenant::{BackendDeps, Tenant};
use crate::transport::Stream;
use crate::transport::tls_config::Certificate;
use crate::{Config, DRAIN_TIMEOUT, Error};
use connection::Phase;

/// What clients read into: large reads are cheap ones.
const CLIENT_READ: usize = 64 * 1024;
/// A tenant that nobody has used for so long is given up.
const TENANT_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two reports of what was counted.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Interval of the expiry sweep.
const EXPIRY_SWEEP_INTERVAL: Duration = Duration::from_millis(250);
/// How long accepting rests when the process has no file left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// A client silent for so long is asked whether it still is there, and then so often.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// What all workers share, read-only.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) certificate: Arc<Certificate>,
    pub(crate) grants: Arc<Grants>,
    pub(crate) lane_key: LaneKey,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) throttle: Throttle,
    pub(crate) admission_limiter: Arc<AdmissionLimiter>,
    pub(crate) usage: UsageSender,
    pub(crate) shutdown: Shutdown,
    pub(crate) workers: Vec<mpsc::Sender<Message>>,
}

pub(crate) struct Worker {
    index: usize,
    shared: Arc<Shared>,
    tenants: RefCell<HashMap<String, Rc<Tenant>>>,
    /// The stop has begun: cheaper to ask than the shutdown, which all workers share.
    closing: Cell<bool>,
    /// No token of anybody here ends before.
    next_end: Cell<Millis>,
    clients: TaskTracker,
    lanes: TaskTracker,
    client_scratch: RefCell<Vec<u8>>,
    buffers: Rc<Buffers>,
    spare: Rc<BufferPool>,
}

impl Worker {
    /// Starts the thread. It ends by itself when the shutdown has begun and its clients are gone.
    pub(crate) fn start(
        index: usize,
        listener: StdListener,
        inbox: Inbox,
        shared: Arc<Shared>,
    ) -> Result<JoinHandle<()>, Error> {
        let (started, has_started) = std::sync::mpsc::channel();
        let serve = move || {
            // Not movable between threads, so it is made on its own.
            let runtime =
                match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
                    Ok(runtime) => runtime,
                    Err(error) => return drop(started.send(Err(error))),
                };
            let _ = started.send(Ok(()));
            runtime.block_on(async {
                let worker = Rc::new(Self {
                    index,
                    shared,
                    tenants: RefCell::default(),
                    closing: Cell::new(false),
                    next_end: Cell::new(Millis::MAX),
                    clients: TaskTracker::new(),
                    lanes: TaskTracker::new(),
                    client_scratch: RefCell::new(vec![0; CLIENT_READ]),
                    buffers: Rc::default(),
                    spare: Rc::default(),
                });
                worker.run(listener, inbox).await;
            });
        };
        let thread =
            std::thread::Builder::new().name(format!("proxy-{index}")).spawn(serve).map_err(Error::Worker)?;
        match has_started.recv() {
            Ok(Ok(())) => Ok(thread),
            Ok(Err(error)) => Err(Error::Worker(error)),
            Err(_) => Err(Error::Worker(io::ErrorKind::BrokenPipe.into())),
        }
    }

    async fn run(self: &Rc<Self>, listener: StdListener, mut inbox: Inbox) {
        let listener = match TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "a worker can't use its listener"),
        };
        let mut sweep = interval(TENANT_IDLE_TIMEOUT / 2);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut gather = interval(REPORT_INTERVAL);
        gather.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ends = interval(EXPIRY_SWEEP_INTERVAL);
        ends.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut refusing = false;
        loop {
            tokio::select! {
                () = self.shared.shutdown.begun() => break,
                Some(message) = inbox.recv() => self.receive(message),
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        refusing = false;
                        self.on_accept(stream, peer.ip().to_canonical());
                    }
                    Err(error) => {
                        if !std::mem::replace(&mut refusing, true) {
                            tracing::warn!(%error, "connections can't be accepted");
                        }
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                _ = gather.tick() => self.report(),
                _ = ends.tick() => self.close_expired(),
                _ = sweep.tick() => self.drop_idle_tenants(),
            }
        }
        drop(listener);
        self.closing.set(true);
        self.tenants.borrow().values().for_each(|tenant| tenant.wake_all());
        // Whoever has logged in and not arrived yet is answered too.
        inbox.close();
        while let Some(message) = inbox.recv().await {
            self.receive(message);
        }
        self.clients.close();
        let _ = timeout(DRAIN_TIMEOUT, self.clients.wait()).await;
        self.report();
        self.tenants.borrow_mut().drain().for_each(|(_, tenant)| tenant.close());
        self.lanes.close();
        let _ = timeout(DRAIN_TIMEOUT, self.lanes.wait()).await;
    }

    fn receive(self: &Rc<Self>, message: Message) {
        match message {
            Message::Changed(grant) => {
                if let Some(tenant) = self.tenants.borrow().get(&grant.instance_id) {
                    tenant.follow(&grant);
                    tenant.apply_grant(&grant);
                    self.expect_end(&grant);
                }
            }
            Message::Barrier(barrier) => drop(barrier),
            Message::List { instance_id, proxy, reply } => {
                let tenants = self.tenants.borrow();
                let _ = reply
                    .send(tenants.get(&instance_id).map(|tenant| tenant.list(&proxy)).unwrap_or_default());
            }
            Message::Close { instance_id, id, reply } => {
                if let Some(tenant) = self.tenants.borrow().get(&instance_id) {
                    tenant.end(&id);
                }
                let _ = reply.send(());
            }
            Message::Handoff(handoff) => {
                let Handoff { stream, source, grant, login, ends_at, guard } = *handoff;
                let Ok(stream) = stream.attach() else { return };
                let connection = Box::new(AuthenticatedConnection { stream, source, grant, login, ends_at });
                self.spawn_connection(Phase::Authenticated(connection), guard);
            }
        }
    }

    /// Admits an accepted connection, with or without a slot for its login, or closes it.
    fn on_accept(self: &Rc<Self>, stream: TcpStream, source: IpAddr) {
        let guard = ConnectionGuard::new(&self.shared.metrics.connections);
        let connections = usize::try_from(self.shared.metrics.connections.get()).unwrap_or(0);
        let limiter = &self.shared.admission_limiter;
        let admission = limiter.admit(connections).map(Admission::Unauthenticated);
        let admission = admission.or_else(|| limiter.admit_for_rejection().map(Admission::Rejected));
        let Some(admission) = admission else { return self.shared.metrics.login(LoginOutcome::Overloaded) };
        let kept_alive = SockRef::from(&stream).set_tcp_keepalive(&keepalive());
        if kept_alive.and_then(|()| stream.set_nodelay(true)).is_ok() {
            let stream = Stream::plain(stream);
            let pending = PendingConnection { stream, source, admission, input: Vec::new() };
            self.spawn_connection(Phase::Pending(Box::new(pending)), guard);
        }
    }

    /// Somebody's token may end then.
    fn expect_end(&self, grant: &Grant) {
        let end = grant.permissions.expires_at.unwrap_or(Millis::MAX);
        self.next_end.set(self.next_end.get().min(end));
    }

    /// Ends the connections of all tokens and certificates whose time is over.
    fn close_expired(&self) {
        let now = self.shared.grants.now();
        if now < self.next_end.get() {
            return;
        }
        let tenants = self.tenants.borrow();
        let ends = tenants.values().filter_map(|tenant| tenant.close_expired(now));
        self.next_end.set(ends.min().unwrap_or(Millis::MAX));
    }

    fn tenant(&self, grant: &Grant) -> Rc<Tenant> {
        let mut tenants = self.tenants.borrow_mut();
        let tenant = tenants.entry(grant.instance_id.clone()).or_insert_with(|| {
            Tenant::new(BackendDeps {
                lane_key: self.shared.lane_key.clone(),
                metrics: self.shared.metrics.clone(),
                tasks: self.lanes.clone(),
                buffers: self.buffers.clone(),
            })
        });
        tenant.follow(grant);
        tenant.clone()
    }

    /// Reports what the tenants counted. If the queue is full, the next report includes it.
    fn report(&self) {
        let Ok(permit) = self.shared.usage.try_reserve() else { return };
        let tenants = self.tenants.borrow();
        let deltas: Vec<UsageDelta> = tenants.iter().filter_map(|(id, tenant)| tenant.report(id)).collect();
        if !deltas.is_empty() {
            permit.send(deltas);
        }
    }

    fn drop_idle_tenants(&self) {
        self.tenants.borrow_mut().retain(|_, tenant| {
            tenant.tidy();
            let deserted = tenant.is_idle(TENANT_IDLE_TIMEOUT);
            if deserted {
                tenant.close();
            }
            !deserted
        });
    }
}

/// A client that has vanished without a word is found out within a minute.
fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(2)
}
