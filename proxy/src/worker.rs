//! A worker: one thread with a single-threaded runtime, which owns some tenants. Acceptors hand it the connections that have
//! logged in to them, so nothing on a request's way is shared between threads.

mod connection;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use daemon::health::Health;
use daemon::{Shutdown, Takeover};
use store::{Grant, LaneKey, Timestamp};
use tokio::sync::mpsc;
use tokio::task::{spawn_local, yield_now};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::task::TaskTracker;

use crate::auth::admission::AdmissionLimiter;
use crate::auth::authenticated::AuthenticatedConnection;
use crate::auth::backoff::Throttle;
use crate::auth::{Admission, Authenticator};
use crate::backend::BackendDeps;
use crate::backend::dedicated_pool::DedicatedLanes;
use crate::backend::wake::WakeRequester;
use crate::buffers::{BufferBudget, WorkerBuffers};
use crate::grants::Grants;
use crate::lane::ReadBufferPool;
use crate::mailbox::{Handoff, Inbox, Message};
use crate::metrics::Metrics;
use crate::report::usage::{UsageDelta, UsageSender};
use crate::responses::BufferPool;
use crate::session_budget::SessionBudget;
use crate::takeover::LeavingSender;
use crate::tenant::Tenant;
use crate::tenant::turns::WorkerTurns;
use crate::transport::tls_config::Certificate;
use crate::{Config, Error, thread};
use connection::Phase;

/// Size of the buffer into which all sessions of a worker read, in bytes. Large reads save system calls.
const CLIENT_READ_MAX: usize = 64 * 1024;
/// A tenant without sessions is dropped after this time, unless it exceeded a rate and that time isn't over.
const TENANT_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Interval between two usage reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Messages that a worker receives before its sessions run again.
const MESSAGES_MAX: usize = 8;
/// Interval of the expiry sweep.
const EXPIRY_SWEEP_INTERVAL: Duration = Duration::from_millis(250);
/// Sweeps for stalled connections in the time after which a connection counts as stalled.
const STALL_SWEEPS: u32 = 12;
/// At shutdown, a client that neither reads its replies nor sends the rest of a request is closed after this time.
const DRAIN_STALL_TIMEOUT: Duration = Duration::from_secs(5);
/// At shutdown, no further large value is sent to a client after this time: what can't be finished in time isn't begun (F-32).
const LAST_VALUE_TIMEOUT: Duration = Duration::from_secs(20);
/// Time limit for closing the lanes, once no session is left.
const LANE_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a worker that stops waits until its last report is taken.
const LAST_REPORT_TIMEOUT: Duration = Duration::from_secs(2);

/// Shared by all acceptors and workers, read-only.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) health: Health,
    pub(crate) certificate: Arc<Certificate>,
    pub(crate) grants: Arc<Grants>,
    pub(crate) lane_key: LaneKey,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) throttle: Throttle,
    pub(crate) admission_limiter: Arc<AdmissionLimiter>,
    pub(crate) buffers: BufferBudget,
    pub(crate) sessions: SessionBudget,
    pub(crate) dedicated_lanes: DedicatedLanes,
    pub(crate) usage: UsageSender,
    pub(crate) wake_requester: WakeRequester,
    pub(crate) shutdown: Shutdown,
    /// Begins when connections that are still open are closed at once.
    pub(crate) drained: Shutdown,
    pub(crate) takeover: Takeover,
    /// Takes sessions that leave this process.
    pub(crate) leaving: LeavingSender,
    pub(crate) workers: Vec<mpsc::Sender<Message>>,
}

impl Shared {
    /// What authenticates connections that read into `scratch`.
    pub(crate) fn authenticator<'a>(&'a self, scratch: &'a RefCell<Vec<u8>>) -> Authenticator<'a> {
        Authenticator {
            grants: &self.grants,
            metrics: &self.metrics,
            throttle: &self.throttle,
            admission_limiter: &self.admission_limiter,
            config: &self.config,
            certificate: &self.certificate,
            scratch,
        }
    }
}

/// One worker thread.
pub(crate) struct Worker {
    index: usize,
    shared: Arc<Shared>,
    tenants: RefCell<HashMap<String, Rc<Tenant>>>,
    /// Shutdown has begun. Cheaper to read than the shutdown itself, which all workers share.
    closing: Cell<bool>,
    /// Another process takes over: sessions that can move to it do.
    moving: Cell<bool>,
    /// Shutdown takes long: no further large value is sent to a client.
    begins_no_value: Cell<bool>,
    /// Tenants with sessions, in the last report.
    active: Cell<i64>,
    /// No token or certificate of a session here expires before this time.
    next_expiry: Cell<Timestamp>,
    clients: TaskTracker,
    lanes: TaskTracker,
    client_scratch: RefCell<Vec<u8>>,
    buffers: Rc<ReadBufferPool>,
    /// What the connections of its tenants hold in memory.
    held: Rc<WorkerBuffers>,
    turns: Rc<WorkerTurns>,
    spare: Rc<BufferPool>,
}

impl Worker {
    /// Starts the thread. It ends after shutdown, when its clients have been served or the drain time limit has passed.
    ///
    /// # Errors
    ///
    /// If the thread or its runtime can't be started.
    pub(crate) fn start(index: usize, inbox: Inbox, shared: Arc<Shared>) -> Result<JoinHandle<()>, Error> {
        thread::start(format!("worker-{index}"), move || async move {
            let worker = Rc::new(Self {
                index,
                held: WorkerBuffers::new(shared.buffers.clone()),
                shared,
                tenants: RefCell::default(),
                closing: Cell::new(false),
                moving: Cell::new(false),
                begins_no_value: Cell::new(false),
                active: Cell::new(0),
                next_expiry: Cell::new(Timestamp::MAX),
                clients: TaskTracker::new(),
                lanes: TaskTracker::new(),
                client_scratch: RefCell::new(vec![0; CLIENT_READ_MAX]),
                buffers: Rc::default(),
                turns: Rc::default(),
                spare: Rc::default(),
            });
            worker.run(inbox).await;
        })
    }

    async fn run(self: &Rc<Self>, mut inbox: Inbox) {
        let mut idle_sweep = interval(TENANT_IDLE_TIMEOUT / 2);
        idle_sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut report = interval(REPORT_INTERVAL);
        report.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut expiry_sweep = interval(EXPIRY_SWEEP_INTERVAL);
        expiry_sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stall_timeout = self.shared.config.stall_timeout();
        let mut stall_sweep = interval(stall_timeout / STALL_SWEEPS);
        stall_sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let passes = spawn_local(self.turns.clone().run());
        // The sweeps make it run several times a second.
        let progress = self.shared.health.watch_loop(format!("worker {}", self.index));
        let mut received = 0;
        let mut takeover = pin!(self.shared.takeover.begun());
        let mut has_successor = false;
        loop {
            progress.mark();
            // The inbox alone would yield after 128 messages, each of which may open a session.
            if received == MESSAGES_MAX {
                received = 0;
                yield_now().await;
            }
            tokio::select! {
                () = self.shared.shutdown.begun() => break,
                () = &mut takeover, if !has_successor => {
                    has_successor = true;
                    self.moving.set(true);
                    self.tenants.borrow().values().for_each(|tenant| tenant.wake_all());
                }
                Some(message) = inbox.recv() => {
                    received += 1;
                    self.receive(message);
                }
                _ = report.tick() => self.report(),
                _ = expiry_sweep.tick() => self.close_expired(),
                _ = stall_sweep.tick() => {
                    self.tenants.borrow().values().for_each(|tenant| tenant.end_stalled(stall_timeout));
                }
                _ = idle_sweep.tick() => self.drop_idle_tenants(),
            }
        }
        drop(progress);
        self.closing.set(true);
        self.tenants.borrow().values().for_each(|tenant| tenant.wake_all());
        self.drain(inbox).await;
        self.report_last().await;
        self.tenants.borrow_mut().drain().for_each(|(_, tenant)| tenant.backend.close());
        self.lanes.close();
        let _ = timeout(LANE_CLOSE_TIMEOUT, self.lanes.wait()).await;
        passes.abort();
    }

    /// Serves what was received before the shutdown. Revocation, expiry and requests to close are obeyed meanwhile.
    async fn drain(self: &Rc<Self>, mut inbox: Inbox) {
        let mut report = interval(REPORT_INTERVAL);
        let mut sweep = interval(EXPIRY_SWEEP_INTERVAL);
        let mut last_value = pin!(sleep(LAST_VALUE_TIMEOUT));
        self.clients.close();
        loop {
            tokio::select! {
                biased;
                // Connections that are being handed off are served too.
                Some(message) = inbox.recv() => self.receive(message),
                () = self.clients.wait() => break,
                () = self.shared.drained.begun() => break,
                () = &mut last_value, if !self.begins_no_value.get() => self.begins_no_value.set(true),
                _ = report.tick() => self.report(),
                _ = sweep.tick() => {
                    self.close_expired();
                    self.tenants.borrow().values().for_each(|tenant| tenant.end_stalled(DRAIN_STALL_TIMEOUT));
                }
            }
        }
    }

    fn receive(self: &Rc<Self>, message: Message) {
        match message {
            Message::Changed(grant) => {
                if let Some(tenant) = self.tenants.borrow().get(&grant.instance_id) {
                    tenant.apply_plan_and_route(&grant);
                    tenant.apply_grant(&grant);
                    self.note_expiry(tenant, grant.permissions.expires_at);
                }
            }
            Message::CertificateEnded(fingerprint) => {
                self.tenants.borrow().values().for_each(|tenant| tenant.close_certificate(&fingerprint));
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
                let Handoff { stream, source, grant, login, certificate, permit, guard } = *handoff;
                let Ok(stream) = stream.attach() else { return };
                let admission = Admission::Unauthenticated(permit);
                let connection =
                    AuthenticatedConnection { stream, source, grant, login, certificate, admission };
                self.spawn_connection(Phase::Authenticated(Box::new(connection)), guard);
            }
            Message::Resume(resumed) => self.resume(*resumed),
        }
    }

    /// Makes sure that the expiry sweep runs when a token or certificate of the tenant expires, if it does.
    fn note_expiry(&self, tenant: &Tenant, end: Option<Timestamp>) {
        if let Some(end) = end {
            tenant.note_expiry(end);
            self.next_expiry.set(self.next_expiry.get().min(end));
        }
    }

    /// Closes the sessions of expired tokens and certificates.
    fn close_expired(&self) {
        let now = self.shared.grants.now();
        if now < self.next_expiry.get() {
            return;
        }
        let tenants = self.tenants.borrow();
        let expiries = tenants.values().map(|tenant| tenant.close_expired(now));
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
                networks: self.shared.config.instance_networks,
                hold: self.shared.config.hold(),
                wake_requester: self.shared.wake_requester.clone(),
            };
            Tenant::new(deps, &self.held, &self.turns, self.shared.sessions.clone())
        });
        tenant.apply_plan_and_route(grant);
        tenant.clone()
    }

    /// Reports what the tenants counted, and frees what they hold for each other. If the queue is full, the next report
    /// includes the counts.
    fn report(&self) {
        self.held.report();
        self.turns.reset();
        let tenants = self.tenants.borrow();
        tenants.values().for_each(|tenant| tenant.make_room());
        self.count_active(&tenants);
        if let Ok(permit) = self.shared.usage.try_reserve() {
            send_counts(&tenants, permit);
        }
    }

    /// Reports what was counted since the last report. There is no next one, so this waits for the queue.
    async fn report_last(&self) {
        if let Ok(Ok(permit)) = timeout(LAST_REPORT_TIMEOUT, self.shared.usage.reserve()).await {
            send_counts(&self.tenants.borrow(), permit);
        }
    }

    /// Reports how many tenants have sessions, as the difference from the last report.
    fn count_active(&self, tenants: &HashMap<String, Rc<Tenant>>) {
        let active = tenants.values().filter(|tenant| !tenant.is_idle(Duration::ZERO)).count();
        let active = i64::try_from(active).unwrap_or(i64::MAX);
        self.shared.metrics.active_caches.inc_by(active - self.active.replace(active));
    }

    fn drop_idle_tenants(&self) {
        self.tenants.borrow_mut().retain(|_, tenant| {
            tenant.sweep();
            let is_idle = tenant.is_idle(TENANT_IDLE_TIMEOUT) && tenant.is_settled() && tenant.is_reported();
            if is_idle {
                tenant.backend.close();
            }
            !is_idle
        });
    }
}

/// Sends what the tenants counted.
fn send_counts(tenants: &HashMap<String, Rc<Tenant>>, permit: mpsc::Permit<'_, Vec<UsageDelta>>) {
    let deltas: Vec<UsageDelta> = tenants.iter().filter_map(|(id, tenant)| tenant.report(id)).collect();
    if !deltas.is_empty() {
        permit.send(deltas);
    }
}
