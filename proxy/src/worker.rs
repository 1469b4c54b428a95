//! A worker: one thread, one single-threaded runtime, one listener. Connections log in where they were
//! accepted and then move to their instance's tenant worker; nothing on a request's way is shared.

pub(crate) mod mailbox;

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
use crate::auth::authenticated::{AuthenticatedConnection, Login};
use crate::auth::backoff::Throttle;
use crate::auth::login;
use crate::auth::outcome::LoginOutcome;
use crate::auth::{Admission, Authenticator, PendingConnection};
use crate::grants::Grants;
use crate::lane::Buffers;
use crate::metrics::{ConnectionGuard, Metrics};
use crate::report::denials::{self, ClientInfo, Subject};
use crate::report::usage::{Entries, Entry};
use crate::responses::{BufferPool, ResponseQueue};
use crate::session::{Client, End, State, WorkerContext};
use crate::tenant::{BackendDeps, Tenant};
use crate::transport::Stream;
use crate::transport::tls_config::Certificate;
use crate::{Config, DRAIN, Error};
use mailbox::{Handoff, Inbox, Message, worker_for};

/// What clients read into: large reads are cheap ones.
const CLIENT_READ: usize = 64 * 1024;
/// A tenant that nobody has used for so long is given up.
const TENANT_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two reports of what was counted.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Between two looks whether a token's time is over.
const ENDS: Duration = Duration::from_millis(250);
/// So long somebody who is told that there is no place may take to hear it.
const REJECT_TIMEOUT: Duration = Duration::from_secs(1);
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
    pub(crate) usage_reporter: Entries,
    pub(crate) shutdown: Shutdown,
    pub(crate) workers: Vec<mpsc::Sender<Message>>,
}

/// Somebody for whom there is no place.
struct Unplaced {
    responses: Rc<ResponseQueue>,
    /// Where somebody calls from who is to hear that there are too many, as soon as it has said a byte: until
    /// then nobody knows in which protocol.
    is_to_hear: Option<IpAddr>,
}

/// Where a connection is to be attended to.
enum Phase {
    AtTheDoor(Box<PendingConnection>),
    AtHome(Box<AuthenticatedConnection>),
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
        let mut ends = interval(ENDS);
        ends.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut refusing = false;
        loop {
            tokio::select! {
                () = self.shared.shutdown.begun() => break,
                Some(message) = inbox.recv() => self.receive(message),
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        refusing = false;
                        self.welcome(stream, peer.ip().to_canonical());
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
        let _ = timeout(DRAIN, self.clients.wait()).await;
        self.report();
        self.tenants.borrow_mut().drain().for_each(|(_, tenant)| tenant.close());
        self.lanes.close();
        let _ = timeout(DRAIN, self.lanes.wait()).await;
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
            Message::Barrier(settled) => drop(settled),
            Message::List { instance_id, proxy, reply } => {
                let tenants = self.tenants.borrow();
                let _ = reply
                    .send(tenants.get(&instance_id).map(|tenant| tenant.list(&proxy)).unwrap_or_default());
            }
            Message::End { instance_id, id, reply } => {
                if let Some(tenant) = self.tenants.borrow().get(&instance_id) {
                    tenant.end(&id);
                }
                let _ = reply.send(());
            }
            Message::AuthenticatedConnection(moving) => {
                let Handoff { stream, source, grant, login, ends_at, counted } = *moving;
                let Ok(stream) = stream.attach() else { return };
                let connection = Box::new(AuthenticatedConnection { stream, source, grant, login, ends_at });
                self.receive_visit(Phase::AtHome(connection), counted);
            }
        }
    }

    /// A new connection: to the authenticator with it.
    fn welcome(self: &Rc<Self>, stream: TcpStream, source: IpAddr) {
        let counted = ConnectionGuard::new(&self.shared.metrics.connections);
        let connections = usize::try_from(self.shared.metrics.connections.get()).unwrap_or(0);
        let place = self.shared.admission_limiter.enter(connections).map(Admission::Unauthenticated);
        let place =
            place.or_else(|| self.shared.admission_limiter.admit_for_rejection().map(Admission::Rejected));
        let Some(admission) = place else { return self.shared.metrics.login(LoginOutcome::Overloaded) };
        let kept_alive = SockRef::from(&stream).set_tcp_keepalive(&keepalive());
        if kept_alive.and_then(|()| stream.set_nodelay(true)).is_ok() {
            let caller =
                PendingConnection { stream: Stream::plain(stream), source, admission, input: Vec::new() };
            self.receive_visit(Phase::AtTheDoor(Box::new(caller)), counted);
        }
    }

    fn receive_visit(self: &Rc<Self>, visit: Phase, counted: ConnectionGuard) {
        let worker = self.clone();
        self.clients.spawn_local(async move { worker.attend(visit, counted).await });
    }

    /// At the door, at tenant, and at the door again whenever the client logs in anew. A loop: nothing of
    /// one login is left when the next begins. What it waits for is boxed: an idle client's task holds
    /// no room for its login.
    async fn attend(self: Rc<Self>, mut visit: Phase, counted: ConnectionGuard) {
        loop {
            let connection = match visit {
                Phase::AtHome(connection) => connection,
                Phase::AtTheDoor(caller) => match Box::pin(self.admit(caller)).await {
                    Some(connection) => connection,
                    None => return,
                },
            };
            let tenant = worker_for(&connection.grant.instance_id, self.shared.workers.len());
            if tenant != self.index {
                return Box::pin(self.hand_off(tenant, connection, counted)).await;
            }
            let serving = match self.session(*connection) {
                Ok(client) => Box::pin(self.serve(client)),
                Err(unseated) => return Box::pin(self.deliver_rejection(unseated)).await,
            };
            match serving.await {
                Some(again) => visit = Phase::AtTheDoor(again),
                None => return,
            }
        }
    }

    /// Until it is known who it is; `None` when the connection has ended.
    async fn admit(&self, caller: Box<PendingConnection>) -> Option<Box<AuthenticatedConnection>> {
        let authenticator = self.authenticator();
        tokio::select! {
            connection = authenticator.admit(*caller) => connection.map(Box::new),
            () = self.shared.shutdown.begun() => None,
        }
    }

    fn authenticator(&self) -> Authenticator<'_> {
        Authenticator {
            grants: &self.shared.grants,
            metrics: &self.shared.metrics,
            throttle: &self.shared.throttle,
            config: &self.shared.config,
            certificate: &self.shared.certificate,
            scratch: &self.client_scratch,
        }
    }

    /// To the worker where its instance lives.
    async fn hand_off(
        &self,
        tenant: usize,
        connection: Box<AuthenticatedConnection>,
        counted: ConnectionGuard,
    ) {
        if let (Ok(moving), Some(worker)) =
            (Handoff::new(*connection, counted), self.shared.workers.get(tenant))
        {
            let _ = worker.send(Message::AuthenticatedConnection(Box::new(moving))).await;
        }
    }

    /// Serves a client to its end, or until it logs in anew.
    async fn serve(&self, mut client: Box<Client>) -> Option<Box<PendingConnection>> {
        let context = WorkerContext {
            grants: &self.shared.grants,
            closing: &self.closing,
            scratch: &self.client_scratch,
        };
        match client.run(&context).await {
            End::Gone => None,
            End::Login(input) => {
                let source = client.source;
                client.into_stream().map(|stream| {
                    Box::new(PendingConnection {
                        stream,
                        source,
                        admission: Admission::Reauthenticating,
                        input,
                    })
                })
            }
        }
    }

    /// Gives a connection its place, or tells it why there is none, if it has said how to tell it.
    fn session(&self, connection: AuthenticatedConnection) -> Result<Box<Client>, Unplaced> {
        let AuthenticatedConnection { stream, source, grant, login, ends_at } = connection;
        let responses = ResponseQueue::new(stream, self.spare.clone());
        let protocol = login.as_ref().map(|login| login.protocol);
        let client = ClientInfo::new(source, protocol, responses.stream());
        let form = protocol.map_or(denials::CERTIFICATE, |protocol| denials::form(protocol, None));
        let token = grant.token;
        let refuse = |outcome: LoginOutcome, words: Option<&[u8]>| {
            self.shared.metrics.login(outcome);
            if let Some(cause) = outcome.cause() {
                self.shared.metrics.denials.note(Subject::Token(token), cause, client, form);
            }
            if let Some(words) = words {
                responses.say(words);
            }
        };
        // It may have travelled while its route changed, or its token was revoked.
        let grant = match self.shared.grants.newest(&grant, source) {
            Ok(grant) => grant,
            Err(outcome) => {
                refuse(outcome, login.as_ref().map(|login| &*login.replies.refused));
                return Err(Unplaced { responses, is_to_hear: None });
            }
        };
        let tenant = self.tenant(&grant);
        let limit = usize::try_from(grant.connections).unwrap_or(0);
        let Some(session) = tenant.enter(limit, (&grant, ends_at), client, &responses) else {
            refuse(LoginOutcome::ConnectionLimit, login.as_ref().map(|login| &*login.replies.full));
            return Err(Unplaced { responses, is_to_hear: login.is_none().then_some(source) });
        };
        self.expect_end(&grant);
        self.next_end.set(self.next_end.get().min(ends_at));
        self.shared.metrics.login(LoginOutcome::Success);
        let input = match login {
            Some(Login { rest, replies, .. }) => {
                responses.say(&replies.welcome);
                rest
            }
            None => Vec::new(),
        };
        let item_size_max = u64::try_from(grant.item_size_max).unwrap_or(0);
        let mechanisms = login::mechanisms(self.shared.config.scram);
        let state = State::default();
        Ok(Box::new(Client {
            responses,
            source,
            protocol,
            tenant,
            session,
            item_size_max,
            mechanisms,
            input,
            state,
        }))
    }

    /// The end of a conversation with somebody for whom there is no place.
    async fn deliver_rejection(&self, Unplaced { responses, is_to_hear }: Unplaced) {
        let Some(source) = is_to_hear else {
            let _ = timeout(REJECT_TIMEOUT, responses.drain()).await;
            return responses.stream().linger(&self.client_scratch).await;
        };
        if let Some(stream) = responses.into_stream() {
            let caller = PendingConnection {
                stream,
                source,
                admission: Admission::Reauthenticating,
                input: Vec::new(),
            };
            self.authenticator().reject_overloaded(caller).await;
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

    /// Hands on what was counted. A full usage_reporter has it the next time.
    fn report(&self) {
        let Ok(usage_reporter) = self.shared.usage_reporter.try_reserve() else { return };
        let tenants = self.tenants.borrow();
        let entries: Vec<Entry> = tenants.iter().filter_map(|(id, tenant)| tenant.report(id)).collect();
        if !entries.is_empty() {
            usage_reporter.send(entries);
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
