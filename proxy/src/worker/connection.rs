//! A connection's life after its login on one screen: open a session, serve it, log in again, hand off to another worker or
//! process, close. [`Worker::run_connection`] has the order; each step is a function below it.

use std::net::IpAddr;
use std::rc::Rc;

use store::Grant;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Worker;
use crate::auth::admission::Permit;
use crate::auth::authenticated::AuthenticatedConnection;
use crate::auth::{Admission, PendingConnection, REJECT_TIMEOUT};
use crate::login::outcome::LoginOutcome;
use crate::login::{self, Login};
use crate::mailbox::{Handoff, Message, worker_for};
use crate::metrics::denials::{self, ClientInfo, Subject};
use crate::metrics::{ConnectionGuard, PanicGuard};
use crate::protocol::Protocol;
use crate::responses::ResponseQueue;
use crate::session::{End, Session, State, WorkerContext};
use crate::takeover::{LeavingSession, MovedSession, ResumedSession};
use crate::tenant::{SessionHandle, Tenant};
use crate::transport::Stream;

/// How far a connection has come.
pub(super) enum Phase {
    /// Logging in again.
    Pending(Box<PendingConnection>),
    /// Logged in, and not yet served by the worker that owns its tenant.
    Authenticated(Box<AuthenticatedConnection>),
    /// Another process has served it until now.
    Resumed(Box<Session>),
}

/// What a session is made of, beside its grant.
struct SessionParts {
    tenant: Rc<Tenant>,
    handle: SessionHandle,
    responses: Rc<ResponseQueue>,
    source: IpAddr,
    protocol: Option<Protocol>,
    input: Vec<u8>,
}

/// How serving a session ended.
enum Served {
    Ended,
    LogsInAgain(Box<PendingConnection>, SessionHandle),
    Moved(MovedSession),
}

/// An authenticated connection that can't have a session.
struct Rejected {
    responses: Rc<ResponseQueue>,
    /// Where it counts while it is told so; if nowhere, it closes at once.
    closing: Option<Permit>,
    /// Set if the `too many connections` reply must wait for the first byte, which tells the protocol.
    await_protocol_of: Option<IpAddr>,
}

impl Worker {
    /// Runs a connection to its end in a task of its own.
    pub(super) fn spawn_connection(self: &Rc<Self>, phase: Phase, guard: ConnectionGuard) {
        let worker = self.clone();
        self.clients.spawn_local(async move {
            let _panic_guard = PanicGuard::new(&worker.shared.metrics);
            worker.run_connection(phase, guard).await;
        });
    }

    /// A client that logs in again starts over, so that nothing of the first login remains, but for its session's place
    /// in the plan: it is kept until the new login is decided, so that the connection counts at every moment. Futures are
    /// boxed so that the task of an idle client holds no memory for its login.
    async fn run_connection(self: Rc<Self>, mut phase: Phase, guard: ConnectionGuard) {
        let mut previous: Option<SessionHandle> = None;
        loop {
            let connection = match phase {
                Phase::Authenticated(connection) => Ok(connection),
                Phase::Pending(pending) => {
                    match Box::pin(self.authenticate(pending, previous.as_ref())).await {
                        Some(connection) => Ok(connection),
                        None => return,
                    }
                }
                Phase::Resumed(session) => Err(session),
            };
            let client = match connection {
                Ok(connection) => {
                    let owner = worker_for(&connection.grant.instance_id, self.shared.workers.len());
                    if owner != self.index {
                        return Box::pin(self.hand_off(owner, connection, previous, guard)).await;
                    }
                    match self.open_session(*connection, previous.take()) {
                        Ok(client) => client,
                        Err(rejected) => return Box::pin(self.reject(rejected)).await,
                    }
                }
                Err(session) => session,
            };
            match Box::pin(self.serve(client)).await {
                Served::Ended => return,
                Served::LogsInAgain(pending, session) => {
                    phase = Phase::Pending(pending);
                    previous = Some(session);
                }
                Served::Moved(session) => {
                    let _ = self.shared.leaving.send(LeavingSession { session, guard }).await;
                    return;
                }
            }
        }
    }

    /// Goes on with a session that another process has begun. Its client notices nothing.
    pub(super) fn resume(self: &Rc<Self>, ResumedSession { session, grant, guard, is_back }: ResumedSession) {
        if is_back {
            self.moving.set(false);
        }
        let MovedSession { stream, source, protocol, since, operations, input, .. } = session;
        // During the way here its token may have been revoked.
        let Ok(grant) = self.shared.grants.newest(&grant, source) else { return };
        let Ok(stream) = TcpStream::from_std(stream) else { return };
        let responses = ResponseQueue::new(Stream::plain(stream), self.spare.clone());
        responses.set_operations(operations);
        let tenant = self.tenant(&grant);
        let client = ClientInfo::new(source, Some(protocol), responses.stream());
        let handle = tenant.register_resumed(&grant, client, since, &responses);
        self.note_expiry(&tenant, grant.permissions.expires_at);
        let protocol = Some(protocol);
        let parts = SessionParts { tenant, handle, responses, source, protocol, input };
        let session = self.session(&grant, parts);
        self.spawn_connection(Phase::Resumed(session), guard);
    }

    /// Returns `None` when the connection has ended without a login, its `previous` session is closed, or the proxy stops.
    async fn authenticate(
        &self,
        pending: Box<PendingConnection>,
        previous: Option<&SessionHandle>,
    ) -> Option<Box<AuthenticatedConnection>> {
        let authenticator = self.shared.authenticator(&self.client_scratch);
        let previous = previous?;
        let client = ClientInfo::new(pending.source, None, &pending.stream);
        tokio::select! {
            connection = authenticator.authenticate(*pending) => connection.map(Box::new),
            ending = previous.closed() => {
                if let Some(ending) = ending {
                    let subject = Subject::Token(previous.permissions.token());
                    self.shared.metrics.denials.record(subject, ending.cause(), client, "");
                }
                None
            }
            () = self.shared.shutdown.begun() => None,
        }
    }

    /// Sends the connection to the worker that owns its tenant. Until its session is registered there, it counts as
    /// unauthenticated, no longer in the plan of its `previous` session.
    async fn hand_off(
        &self,
        owner: usize,
        connection: Box<AuthenticatedConnection>,
        previous: Option<SessionHandle>,
        guard: ConnectionGuard,
    ) {
        let AuthenticatedConnection { stream, source, grant, login, certificate, admission } = *connection;
        let limiter = &self.shared.admission_limiter;
        let admitted = match admission {
            Admission::Unauthenticated(permit) | Admission::Closing(permit) => Ok(permit),
            Admission::Reauthenticating => {
                limiter.admit_authenticated(source, self.shared.metrics.connections_open())
            }
        };
        let Ok(permit) = admitted else {
            self.shared.metrics.login(LoginOutcome::Overloaded);
            let responses = ResponseQueue::new(stream, self.spare.clone());
            if let Some(login) = &login {
                responses.write_raw(&login.replies.connection_limit);
            }
            let closing = limiter.admit_closing(source);
            return self.reject(Rejected { responses, closing, await_protocol_of: None }).await;
        };
        drop(previous);
        if let (Ok(stream), Some(worker)) = (stream.detach(), self.shared.workers.get(owner)) {
            let handoff = Handoff { stream, source, grant, login, certificate, permit, guard };
            let _ = worker.send(Message::Handoff(Box::new(handoff))).await;
        }
    }

    /// Registers a session in place of the `previous` one, and queues the reply to the login: success, or why there is no
    /// session.
    fn open_session(
        &self,
        connection: AuthenticatedConnection,
        previous: Option<SessionHandle>,
    ) -> Result<Box<Session>, Rejected> {
        let AuthenticatedConnection { stream, source, grant, login, certificate, admission } = connection;
        let closing = || match admission {
            Admission::Unauthenticated(permit) | Admission::Closing(permit) => permit.close(),
            Admission::Reauthenticating => self.shared.admission_limiter.admit_closing(source),
        };
        let responses = ResponseQueue::new(stream, self.spare.clone());
        let protocol = login.as_ref().map(|login| login.protocol);
        let client = ClientInfo::new(source, protocol, responses.stream());
        let detail =
            protocol.map_or(denials::CERTIFICATE_LOGIN, |protocol| denials::login_form(protocol, None));
        let token = grant.token;
        let deny = |outcome: LoginOutcome, reply: Option<&[u8]>| {
            self.shared.metrics.login(outcome);
            if let Some(cause) = outcome.cause() {
                self.shared.metrics.denials.record(Subject::Token(token), cause, client, detail);
            }
            if let Some(reply) = reply {
                responses.write_raw(reply);
            }
        };
        // During the hand-off its route may have changed, or its token or certificate may have been revoked.
        let newest = match &certificate {
            Some(certificate) if !self.shared.grants.is_current(certificate) => Err(LoginOutcome::Revoked),
            _ => self.shared.grants.newest(&grant, source),
        };
        let grant = match newest {
            Ok(grant) => grant,
            Err(outcome) => {
                deny(outcome, login.as_ref().map(|login| &*login.replies.denied));
                return Err(Rejected { responses, closing: closing(), await_protocol_of: None });
            }
        };
        // What a session had read when its client began to log in again was counted then.
        let is_first = previous.is_none();
        drop(previous);
        let tenant = self.tenant(&grant);
        let session = match tenant.register((&grant, certificate), client, &responses) {
            Ok(session) => session,
            Err(outcome) => {
                deny(outcome, login.as_ref().map(|login| &*login.replies.connection_limit));
                let await_protocol_of = login.is_none().then_some(source);
                return Err(Rejected { responses, closing: closing(), await_protocol_of });
            }
        };
        self.note_expiry(&tenant, grant.permissions.expires_at);
        self.note_expiry(&tenant, certificate.map(|certificate| certificate.not_after));
        self.shared.metrics.login(LoginOutcome::Success);
        let input = match login {
            Some(Login { rest, replies, .. }) => {
                if is_first {
                    responses.record_read(rest.len());
                }
                responses.write_raw(&replies.success);
                rest
            }
            None => Vec::new(),
        };
        let handle = session;
        Ok(self.session(&grant, SessionParts { tenant, handle, responses, source, protocol, input }))
    }

    fn session(&self, grant: &Grant, parts: SessionParts) -> Box<Session> {
        let SessionParts { tenant, handle, responses, source, protocol, input } = parts;
        Box::new(Session {
            responses,
            source,
            protocol,
            tenant,
            handle,
            item_size_max: u64::try_from(grant.item_size_max).unwrap_or(0),
            wait_timeout: self.shared.config.wait_timeout(),
            mechanisms: login::mechanisms(self.shared.config.scram),
            input,
            state: State::default(),
        })
    }

    /// Serves a session until it ends, moves or its client logs in again. It stays registered then.
    async fn serve(&self, mut client: Box<Session>) -> Served {
        let context = WorkerContext {
            grants: &self.shared.grants,
            throttle: &self.shared.throttle,
            closing: &self.closing,
            moving: &self.moving,
            begins_no_value: &self.begins_no_value,
            scratch: &self.client_scratch,
        };
        match client.run(&context).await {
            End::Gone => Served::Ended,
            End::Moved => client.into_moved().map_or(Served::Ended, Served::Moved),
            End::Login(input) => {
                let source = client.source;
                let admission = Admission::Reauthenticating;
                let Some((stream, handle)) = client.into_login(&input) else { return Served::Ended };
                let pending = PendingConnection { stream, source, admission, input };
                Served::LogsInAgain(Box::new(pending), handle)
            }
        }
    }

    /// Sends the rejection, then closes.
    async fn reject(&self, Rejected { responses, closing, await_protocol_of }: Rejected) {
        let Some(closing) = closing else { return responses.flush() };
        let Some(source) = await_protocol_of else {
            let _ = timeout(REJECT_TIMEOUT, responses.drain()).await;
            return responses.stream().linger(&self.client_scratch).await;
        };
        if let Some(stream) = responses.into_stream() {
            let admission = Admission::Closing(closing);
            let pending = PendingConnection { stream, source, admission, input: Vec::new() };
            self.shared.authenticator(&self.client_scratch).reject_overloaded(pending).await;
        }
    }
}
