//! A worker: one thread with a single-threaded runtime and a listener. A connection logs in on the worker that accepted it,
//! then moves to the worker that owns its tenant, so nothing on a request's way is shared between threads.

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
use store::{Grant, LaneKey, Timestamp};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::task::TaskTracker;

use crate::auth::admission::AdmissionLimiter;
use crate::auth::authenticated::AuthenticatedConnection;
use crate::auth::backoff::Throttle;
use crate::auth::{Admission, PendingConnection};
use crate::backend::BackendDeps;
use crate::backend::dedicated_pool::DedicatedLanes;
use crate::buffers::{BufferBudget, WorkerBuffers};
use crate::grants::Grants;
use crate::lane::ReadBufferPool;
use crate::login::outcome::LoginOutcome;
use crate::mailbox::{Handoff, Inbox, Message};
use crate::metrics::{ConnectionGuard, Metrics};
use crate::report::usage::{UsageDelta, UsageSender};
use crate::responses::BufferPool;
use crate::tenant::Tenant;
use crate::transport::Stream;
use crate::transport::tls_config::Certificate;
use crate::{Config, DRAIN_TIMEOUT, Error};
use connection::Phase;

/// Size of the buffer into which all sessions of a worker read, in bytes. Large reads save system calls.
const CLIENT_READ_MAX: usize = 64 * 1024;
/// A tenant without sessions is dropped after this time.
const TENANT_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Interval between two usage reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Interval of the expiry sweep.
const EXPIRY_SWEEP_INTERVAL: Duration = Duration::from_millis(250);
/// Sweeps for stalled connections in the time after which a connection counts as stalled.
const STALL_SWEEPS: u32 = 12;
/// Delay before accepting again after an error, such as too many open files.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
/// TCP keepalive of clients: idle time before the first probe, and interval of further probes.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Shared by all workers, read-only.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) certificate: Arc<Certificate>,
    pub(crate) grants: Arc<Grants>,
    pub(crate) lane_key: LaneKey,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) throttle: Throttle,
    pub(crate) admission_limiter: Arc<AdmissionLimiter>,
    pub(crate) buffers: BufferBudget,
    pub(crate) dedicated_lanes: DedicatedLanes,
    pub(crate) usage: UsageSender,
    pub(crate) shutdown: Shutdown,
    pub(crate) workers: Vec<mpsc::Sender<Message>>,
}

/// One worker thread.
pub(crate) struct Worker {
    index: usize,
    shared: Arc<Shared>,
    tenants: RefCell<HashMap<String, Rc<Tenant>>>,
    /// Shutdown has begun. Cheaper to read than the shutdown itself, which all workers share.
    closing: Cell<bool>,
    /// No token or certificate of a session here expires before this time.
    next_expiry: Cell<Timestamp>,
    clients: TaskTracker,
    lanes: TaskTracker,
    client_scratch: RefCell<Vec<u8>>,
    buffers: Rc<ReadBufferPool>,
    /// What the connections of its tenants hold in memory.
    held: Rc<WorkerBuffers>,
    spare: Rc<BufferPool>,
}

impl Worker {
    /// Starts the thread. It ends after shutdown, when its clients have been served or the drain time limit has passed.
    ///
    /// # Errors
    ///
    /// If the thread or its runtime can't be started.
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
                    held: WorkerBuffers::new(shared.buffers.clone()),
                    shared,
                    tenants: RefCell::default(),
                    closing: Cell::new(false),
                    next_expiry: Cell::new(Timestamp::MAX),
                    clients: TaskTracker::new(),
                    lanes: TaskTracker::new(),
                    client_scratch: RefCell::new(vec![0; CLIENT_READ_MAX]),
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
            Err(error) => return tracing::error!(%error, "failed to register the listener"),
        };
        let mut idle_sweep = interval(TENANT_IDLE_TIMEOUT / 2);
        idle_sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut report = interval(REPORT_INTERVAL);
        report.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut expiry_sweep = interval(EXPIRY_SWEEP_INTERVAL);
        expiry_sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stall_timeout = self.shared.config.stall_timeout();
        let mut stall_sweep = interval(stall_timeout / STALL_SWEEPS);
        stall_sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut accept_fails = false;
        loop {
            tokio::select! {
                () = self.shared.shutdown.begun() => break,
                Some(message) = inbox.recv() => self.receive(message),
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        accept_fails = false;
                        self.on_accept(stream, peer.ip().to_canonical());
                    }
                    Err(error) => {
                        if !std::mem::replace(&mut accept_fails, true) {
                            tracing::warn!(%error, "failed to accept connections");
                        }
                        sleep(ACCEPT_BACKOFF).await;
                    }
                },
                _ = report.tick() => self.report(),
                _ = expiry_sweep.tick() => self.close_expired(),
                _ = stall_sweep.tick() => {
                    self.tenants.borrow().values().for_each(|tenant| tenant.end_stalled(stall_timeout));
                }
                _ = idle_sweep.tick() => self.drop_idle_tenants(),
            }
        }
        drop(listener);
        self.closing.set(true);
        self.tenants.borrow().values().for_each(|tenant| tenant.wake_all());
        // Connections that are being handed off are served too.
        inbox.close();
        while let Some(message) = inbox.recv().await {
            self.receive(message);
        }
        self.clients.close();
        let _ = timeout(DRAIN_TIMEOUT, self.clients.wait()).await;
        self.report();
        self.tenants.borrow_mut().drain().for_each(|(_, tenant)| tenant.backend.close());
        self.lanes.close();
        let _ = timeout(DRAIN_TIMEOUT, self.lanes.wait()).await;
    }

    fn receive(self: &Rc<Self>, message: Message) {
        match message {
            Message::Changed(grant) => {
                if let Some(tenant) = self.tenants.borrow().get(&grant.instance_id) {
                    tenant.apply_plan_and_route(&grant);
                    tenant.apply_grant(&grant);
                    self.note_expiry(&grant);
                }
            }
            Message::Barrier(barrier) => drop(barrier),
            Message::List { instance_id, proxy, reply } => {
                let tenants = self.tenants.borrow();
                let _ = reply.send(
                    tenants.get(&instance_id).map(|tenant| tenant.snapshot(&proxy)).unwrap_or_default(),
                );
            }
            Message::Close { instance_id, id, reply } => {
                if let Some(tenant) = self.tenants.borrow().get(&instance_id) {
                    tenant.close_session(&id);
                }
                let _ = reply.send(());
            }
            Message::Handoff(handoff) => {
                let Handoff { stream, source, grant, login, ends_at, permit, guard } = *handoff;
                let Ok(stream) = stream.attach() else { return };
                let admission = Admission::Unauthenticated(permit);
                let connection = AuthenticatedConnection { stream, source, grant, login, ends_at, admission };
                self.spawn_connection(Phase::Authenticated(Box::new(connection)), guard);
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
        let kept_alive = SockRef::from(&stream).set_tcp_keepalive(&keepalive());
        if kept_alive.and_then(|()| stream.set_nodelay(true)).is_ok() {
            let stream = Stream::plain(stream);
            let pending = PendingConnection { stream, source, admission, input: Vec::new() };
            self.spawn_connection(Phase::Pending(Box::new(pending)), guard);
        }
    }

    /// Makes sure that the expiry sweep runs when the grant expires.
    fn note_expiry(&self, grant: &Grant) {
        let end = grant.permissions.expires_at.unwrap_or(Timestamp::MAX);
        self.next_expiry.set(self.next_expiry.get().min(end));
    }

    /// Closes the sessions of expired tokens and certificates.
    fn close_expired(&self) {
        let now = self.shared.grants.now();
        if now < self.next_expiry.get() {
            return;
        }
        let tenants = self.tenants.borrow();
        let expiries = tenants.values().filter_map(|tenant| tenant.close_expired(now));
        self.next_expiry.set(expiries.min().unwrap_or(Timestamp::MAX));
    }

    /// The tenant of the grant's instance, created if need be.
    fn tenant(&self, grant: &Grant) -> Rc<Tenant> {
        let mut tenants = self.tenants.borrow_mut();
        let tenant = tenants.entry(grant.instance_id.clone()).or_insert_with(|| {
            let deps = BackendDeps {
                lane_key: self.shared.lane_key.clone(),
                metrics: self.shared.metrics.clone(),
                tasks: self.lanes.clone(),
                buffers: self.buffers.clone(),
                dedicated: self.shared.dedicated_lanes.clone(),
            };
            Tenant::new(deps, &self.held)
        });
        tenant.apply_plan_and_route(grant);
        tenant.clone()
    }

    /// Reports what the tenants counted, and frees what they hold for each other. If the queue is full, the next report
    /// includes the counts.
    fn report(&self) {
        self.held.report();
        let tenants = self.tenants.borrow();
        tenants.values().for_each(|tenant| tenant.make_room());
        let Ok(permit) = self.shared.usage.try_reserve() else { return };
        let deltas: Vec<UsageDelta> = tenants.iter().filter_map(|(id, tenant)| tenant.report(id)).collect();
        if !deltas.is_empty() {
            permit.send(deltas);
        }
    }

    fn drop_idle_tenants(&self) {
        self.tenants.borrow_mut().retain(|_, tenant| {
            tenant.sweep();
            let is_idle = tenant.is_idle(TENANT_IDLE_TIMEOUT);
            if is_idle {
                tenant.backend.close();
            }
            !is_idle
        });
    }
}

/// Finds a vanished client within a minute.
fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(2)
}
