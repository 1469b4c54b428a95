//! A worker: one thread, one single-threaded runtime, one listener. Connections log in where they were
//! accepted and then move to their instance's home worker; nothing on a request's way is shared.

mod message;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::net::TcpListener as StdListener;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use process::Shutdown;
use socket2::{SockRef, TcpKeepalive};
use store::{Grant, LaneKey, Millis};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::task::TaskTracker;

use crate::certificate::Certificate;
use crate::client::{Client, End, House, State};
use crate::doorman::{Caller, Doorman, Guest, Login, Standing};
use crate::grants::Grants;
use crate::home::{Furniture, Home};
use crate::lane::Buffers;
use crate::ledger::{Entries, Entry};
use crate::lobby::Lobby;
use crate::login;
use crate::metrics::{Counted, LoginOutcome, Metrics};
use crate::outbox::{Outbox, Spare};
use crate::refusals::{self, Whence, Whose};
use crate::stream::Stream;
use crate::throttle::Throttle;
use crate::{Config, DRAIN, Error};
use message::Moving;
pub(crate) use message::{Inbox, Message, channels, home_of, settle, tell};

/// What clients read into: large reads are cheap ones.
const CLIENT_READ: usize = 64 * 1024;
/// A home that nobody has used for so long is given up.
const DESERTED: Duration = Duration::from_secs(60);
/// Between two reports of what was counted.
const GATHER: Duration = Duration::from_secs(1);
/// Between two looks whether a token's time is over.
const ENDS: Duration = Duration::from_millis(250);
/// So long somebody who is told that there is no place may take to hear it.
const FAREWELL: Duration = Duration::from_secs(1);
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
    pub(crate) lobby: Arc<Lobby>,
    pub(crate) ledger: Entries,
    pub(crate) shutdown: Shutdown,
    pub(crate) workers: Vec<mpsc::Sender<Message>>,
}

/// Somebody for whom there is no place.
struct Unseated {
    outbox: Rc<Outbox>,
    /// Where somebody calls from who is to hear that there are too many, as soon as it has said a byte: until
    /// then nobody knows in which dialect.
    is_to_hear: Option<IpAddr>,
}

/// Where a connection is to be attended to.
enum Visit {
    AtTheDoor(Box<Caller>),
    AtHome(Box<Guest>),
}

pub(crate) struct Worker {
    index: usize,
    shared: Arc<Shared>,
    homes: RefCell<HashMap<String, Rc<Home>>>,
    /// The stop has begun: cheaper to ask than the shutdown, which all workers share.
    closing: Cell<bool>,
    /// No token of anybody here ends before.
    next_end: Cell<Millis>,
    clients: TaskTracker,
    lanes: TaskTracker,
    client_scratch: RefCell<Vec<u8>>,
    buffers: Rc<Buffers>,
    spare: Rc<Spare>,
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
                    homes: RefCell::default(),
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
        let mut sweep = interval(DESERTED / 2);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut gather = interval(GATHER);
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
                _ = ends.tick() => self.turn_out_expired(),
                _ = sweep.tick() => self.leave_deserted(),
            }
        }
        drop(listener);
        self.closing.set(true);
        self.homes.borrow().values().for_each(|home| home.rouse());
        // Whoever has logged in and not arrived yet is answered too.
        inbox.close();
        while let Some(message) = inbox.recv().await {
            self.receive(message);
        }
        self.clients.close();
        let _ = timeout(DRAIN, self.clients.wait()).await;
        self.report();
        self.homes.borrow_mut().drain().for_each(|(_, home)| home.close());
        self.lanes.close();
        let _ = timeout(DRAIN, self.lanes.wait()).await;
    }

    fn receive(self: &Rc<Self>, message: Message) {
        match message {
            Message::Changed(grant) => {
                if let Some(home) = self.homes.borrow().get(&grant.instance_id) {
                    home.follow(&grant);
                    home.hold_to(&grant);
                    self.expect_end(&grant);
                }
            }
            Message::Settle(settled) => drop(settled),
            Message::List { instance_id, proxy, reply } => {
                let homes = self.homes.borrow();
                let _ = reply.send(homes.get(&instance_id).map(|home| home.list(&proxy)).unwrap_or_default());
            }
            Message::End { instance_id, id, reply } => {
                if let Some(home) = self.homes.borrow().get(&instance_id) {
                    home.end(&id);
                }
                let _ = reply.send(());
            }
            Message::Guest(moving) => {
                let Moving { stream, source, grant, login, ends_at, counted } = *moving;
                let Ok(stream) = stream.arrive() else { return };
                let guest = Box::new(Guest { stream, source, grant, login, ends_at });
                self.receive_visit(Visit::AtHome(guest), counted);
            }
        }
    }

    /// A new connection: to the doorman with it.
    fn welcome(self: &Rc<Self>, stream: TcpStream, source: IpAddr) {
        let counted = Counted::new(&self.shared.metrics.connections);
        let connections = usize::try_from(self.shared.metrics.connections.get()).unwrap_or(0);
        let place = self.shared.lobby.enter(connections).map(Standing::Stranger);
        let place = place.or_else(|| self.shared.lobby.be_refused().map(Standing::Unwanted));
        let Some(standing) = place else { return self.shared.metrics.login(LoginOutcome::Crowded) };
        let kept_alive = SockRef::from(&stream).set_tcp_keepalive(&keepalive());
        if kept_alive.and_then(|()| stream.set_nodelay(true)).is_ok() {
            let caller = Caller { stream: Stream::plain(stream), source, standing, input: Vec::new() };
            self.receive_visit(Visit::AtTheDoor(Box::new(caller)), counted);
        }
    }

    fn receive_visit(self: &Rc<Self>, visit: Visit, counted: Counted) {
        let worker = self.clone();
        self.clients.spawn_local(async move { worker.attend(visit, counted).await });
    }

    /// At the door, at home, and at the door again whenever the client logs in anew. A loop: nothing of
    /// one login is left when the next begins. What it waits for is boxed: an idle client's task holds
    /// no room for its login.
    async fn attend(self: Rc<Self>, mut visit: Visit, counted: Counted) {
        loop {
            let guest = match visit {
                Visit::AtHome(guest) => guest,
                Visit::AtTheDoor(caller) => match Box::pin(self.admit(caller)).await {
                    Some(guest) => guest,
                    None => return,
                },
            };
            let home = home_of(&guest.grant.instance_id, self.shared.workers.len());
            if home != self.index {
                return Box::pin(self.send_home(home, guest, counted)).await;
            }
            let serving = match self.seat(*guest) {
                Ok(client) => Box::pin(self.serve(client)),
                Err(unseated) => return Box::pin(self.see_off(unseated)).await,
            };
            match serving.await {
                Some(again) => visit = Visit::AtTheDoor(again),
                None => return,
            }
        }
    }

    /// Until it is known who it is; `None` when the connection has ended.
    async fn admit(&self, caller: Box<Caller>) -> Option<Box<Guest>> {
        let doorman = self.doorman();
        tokio::select! {
            guest = doorman.admit(*caller) => guest.map(Box::new),
            () = self.shared.shutdown.begun() => None,
        }
    }

    fn doorman(&self) -> Doorman<'_> {
        Doorman {
            grants: &self.shared.grants,
            metrics: &self.shared.metrics,
            throttle: &self.shared.throttle,
            config: &self.shared.config,
            certificate: &self.shared.certificate,
            scratch: &self.client_scratch,
        }
    }

    /// To the worker where its instance lives.
    async fn send_home(&self, home: usize, guest: Box<Guest>, counted: Counted) {
        if let (Ok(moving), Some(worker)) = (Moving::new(*guest, counted), self.shared.workers.get(home)) {
            let _ = worker.send(Message::Guest(Box::new(moving))).await;
        }
    }

    /// Serves a client to its end, or until it logs in anew.
    async fn serve(&self, mut client: Box<Client>) -> Option<Box<Caller>> {
        let house =
            House { grants: &self.shared.grants, closing: &self.closing, scratch: &self.client_scratch };
        match client.run(&house).await {
            End::Gone => None,
            End::Login(input) => {
                let source = client.source;
                client
                    .into_stream()
                    .map(|stream| Box::new(Caller { stream, source, standing: Standing::Known, input }))
            }
        }
    }

    /// Gives a guest its place, or tells it why there is none, if it has said how to tell it.
    fn seat(&self, guest: Guest) -> Result<Box<Client>, Unseated> {
        let Guest { stream, source, grant, login, ends_at } = guest;
        let outbox = Outbox::new(stream, self.spare.clone());
        let dialect = login.as_ref().map(|login| login.dialect);
        let whence = Whence::new(source, dialect, outbox.stream());
        let form = dialect.map_or(refusals::CERTIFICATE, |dialect| refusals::form(dialect, None));
        let token = grant.token;
        let refuse = |outcome: LoginOutcome, words: Option<&[u8]>| {
            self.shared.metrics.login(outcome);
            if let Some(cause) = outcome.cause() {
                self.shared.metrics.refusals.note(Whose::Token(token), cause, whence, form);
            }
            if let Some(words) = words {
                outbox.say(words);
            }
        };
        // It may have travelled while its route changed, or its token was revoked.
        let grant = match self.shared.grants.newest(&grant, source) {
            Ok(grant) => grant,
            Err(outcome) => {
                refuse(outcome, login.as_ref().map(|login| &*login.replies.refused));
                return Err(Unseated { outbox, is_to_hear: None });
            }
        };
        let home = self.home(&grant);
        let limit = usize::try_from(grant.connections).unwrap_or(0);
        let Some(seat) = home.enter(limit, (&grant, ends_at), whence, &outbox) else {
            refuse(LoginOutcome::Full, login.as_ref().map(|login| &*login.replies.full));
            return Err(Unseated { outbox, is_to_hear: login.is_none().then_some(source) });
        };
        self.expect_end(&grant);
        self.next_end.set(self.next_end.get().min(ends_at));
        self.shared.metrics.login(LoginOutcome::Welcome);
        let input = match login {
            Some(Login { rest, replies, .. }) => {
                outbox.say(&replies.welcome);
                rest
            }
            None => Vec::new(),
        };
        let item_size_max = u64::try_from(grant.item_size_max).unwrap_or(0);
        let mechanisms = login::mechanisms(self.shared.config.scram);
        let state = State::default();
        Ok(Box::new(Client { outbox, source, dialect, home, seat, item_size_max, mechanisms, input, state }))
    }

    /// The end of a conversation with somebody for whom there is no place.
    async fn see_off(&self, Unseated { outbox, is_to_hear }: Unseated) {
        let Some(source) = is_to_hear else {
            let _ = timeout(FAREWELL, outbox.drain()).await;
            return outbox.stream().linger(&self.client_scratch).await;
        };
        if let Some(stream) = outbox.into_stream() {
            let caller = Caller { stream, source, standing: Standing::Known, input: Vec::new() };
            self.doorman().say_crowded(caller).await;
        }
    }

    /// Somebody's token may end then.
    fn expect_end(&self, grant: &Grant) {
        let end = grant.powers.expires_at.unwrap_or(Millis::MAX);
        self.next_end.set(self.next_end.get().min(end));
    }

    /// Ends the connections of all tokens and certificates whose time is over.
    fn turn_out_expired(&self) {
        let now = self.shared.grants.now();
        if now < self.next_end.get() {
            return;
        }
        let homes = self.homes.borrow();
        let ends = homes.values().filter_map(|home| home.turn_out_expired(now));
        self.next_end.set(ends.min().unwrap_or(Millis::MAX));
    }

    fn home(&self, grant: &Grant) -> Rc<Home> {
        let mut homes = self.homes.borrow_mut();
        let home = homes.entry(grant.instance_id.clone()).or_insert_with(|| {
            Home::new(Furniture {
                lane_key: self.shared.lane_key.clone(),
                metrics: self.shared.metrics.clone(),
                tasks: self.lanes.clone(),
                buffers: self.buffers.clone(),
            })
        });
        home.follow(grant);
        home.clone()
    }

    /// Hands on what was counted. A full ledger has it the next time.
    fn report(&self) {
        let Ok(ledger) = self.shared.ledger.try_reserve() else { return };
        let homes = self.homes.borrow();
        let entries: Vec<Entry> = homes.iter().filter_map(|(id, home)| home.report(id)).collect();
        if !entries.is_empty() {
            ledger.send(entries);
        }
    }

    fn leave_deserted(&self) {
        self.homes.borrow_mut().retain(|_, home| {
            home.tidy();
            let deserted = home.is_deserted(DESERTED);
            if deserted {
                home.close();
            }
            !deserted
        });
    }
}

/// A client that has vanished without a word is found out within a minute.
fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(2)
}
