//! The door: reads what a connection says before it is known, with little memory and little time, and
//! either hands it on logged in or ends it. The thinking is in `login`; here are the clock and the socket.

pub(crate) mod admission;
pub(crate) mod authenticated;
pub(crate) mod backoff;
pub(crate) mod login;
pub(crate) mod outcome;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use store::{Grant, Millis};
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

use crate::Config;
use crate::grants::{CertificateBinding, Grants, Verdict};
use crate::metrics::Metrics;
use crate::protocol::Protocol;
use crate::protocol::binary::header::{Header, Status};
use crate::report::denials::{self, ClientInfo, Subject};
use crate::transport::Stream;
use crate::transport::address::is_private;
use crate::transport::proxy_protocol;
use crate::transport::tls_config::Certificate;
use admission::Permit;
use authenticated::{AuthenticatedConnection, Login};
use backoff::{FAILURE_DELAY, Failure, Throttle};
use login::{Credential, Handshake, NONCE_LEN, Proof, Replies, Step};
use outcome::LoginOutcome;

/// From accept to login.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(5);
/// So many answers before login, then the connection ends.
const ANSWERS_MAX: u32 = 16;
/// So many failed logins, likewise.
const FAILURES_MAX: u32 = 3;
/// So many names whose salt was asked for, likewise.
const LOOKUPS_MAX: u32 = 6;
/// So long somebody for whom there is no room may take to say the byte that he is answered to.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// The first byte of a TLS record that begins a handshake.
const TLS_HANDSHAKE: u8 = 0x16;
/// What one read takes.
const READ: usize = 2048;

/// Why nobody listens to a caller, in both protocols.
struct Rejection {
    text: &'static [u8],
    binary: Status,
}

const TLS_REQUIRED: Rejection =
    Rejection { text: b"CLIENT_ERROR TLS required\r\n", binary: Status::AUTH_FAILURE };
const OVERLOADED: Rejection =
    Rejection { text: b"SERVER_ERROR too many connections\r\n", binary: Status::TEMPORARY };
const UNAVAILABLE: Rejection =
    Rejection { text: b"SERVER_ERROR authentication unavailable\r\n", binary: Status::TEMPORARY };

/// What a caller is to the context.
pub(crate) enum Admission {
    /// New here, with a place among the strangers.
    Unauthenticated(Permit),
    /// New here, and there is no room.
    Rejected(#[expect(dead_code, reason = "held until the connection ends")] Permit),
    /// Logged in before, and about to log in anew.
    Reauthenticating,
}

/// Somebody at the door.
pub(crate) struct PendingConnection {
    pub(crate) stream: Stream,
    /// Where it calls from, by a balancer's word if it came through one: found out once, and kept as long
    /// as the connection lives.
    pub(crate) source: IpAddr,
    pub(crate) admission: Admission,
    /// What has been read already.
    pub(crate) input: Vec<u8>,
}

pub(crate) struct Authenticator<'a> {
    pub(crate) grants: &'a Arc<Grants>,
    pub(crate) metrics: &'a Metrics,
    pub(crate) throttle: &'a Throttle,
    pub(crate) config: &'a Config,
    pub(crate) certificate: &'a Certificate,
    /// What is read passes through here: a stranger has no buffer but for what has come.
    pub(crate) scratch: &'a RefCell<Vec<u8>>,
}

impl Authenticator<'_> {
    /// Sees to a connection until it is known (`Some`) or ended (`None`).
    pub(crate) async fn admit(&self, mut caller: PendingConnection) -> Option<AuthenticatedConnection> {
        let deadline = Instant::now() + LOGIN_TIMEOUT;
        if self.requires_proxy_header(&caller) && caller.read_header(deadline, self.scratch).await.is_err() {
            self.metrics.login(LoginOutcome::MissingProxyHeader);
            return None;
        }
        let has_turn = match &mut caller.admission {
            Admission::Unauthenticated(place) => place.acquire_source_slot(caller.source).await,
            Admission::Rejected(_) => false,
            Admission::Reauthenticating => true,
        };
        if !has_turn {
            self.metrics.login(LoginOutcome::Overloaded);
            if let Admission::Unauthenticated(place) = caller.admission {
                caller.admission = Admission::Rejected(place.downgrade()?);
            }
            return self.reject_overloaded(caller).await;
        }
        let mut first = caller.first(deadline, self.scratch).await?;
        if first == TLS_HANDSHAKE && !caller.stream.is_tls() {
            caller = self.encrypt(caller, deadline).await?;
            let (ends_at, verdict) = timeout_at(deadline, self.check_certificate(&caller)).await.ok()?;
            match verdict {
                Verdict::Granted(grant) => {
                    let PendingConnection { stream, source, .. } = caller;
                    return Some(AuthenticatedConnection { stream, source, grant, login: None, ends_at });
                }
                Verdict::Unavailable => return self.reject(caller, &UNAVAILABLE).await,
                // It may log in yet.
                Verdict::Refused(_) => {}
            }
            first = caller.first(deadline, self.scratch).await?;
        }
        let protocol = Protocol::detect(first);
        if !self.config.allow_plaintext && !caller.stream.is_tls() && !is_private(caller.source) {
            let client = caller.client(protocol);
            self.refused(LoginOutcome::Plaintext, client, None, &caller.input);
            return caller.refuse(&TLS_REQUIRED, protocol, deadline, self.scratch).await;
        }
        match timeout_at(deadline, self.talk(&mut caller, protocol, deadline)).await {
            Ok(Some((grant, replies))) => {
                let PendingConnection { stream, source, input: rest, .. } = caller;
                let login = Some(Login { protocol, rest, replies });
                Some(AuthenticatedConnection { stream, source, grant, login, ends_at: Millis::MAX })
            }
            Ok(None) => {
                caller.linger(self.scratch).await;
                None
            }
            Err(_) => {
                self.metrics.login(LoginOutcome::TimedOut);
                None
            }
        }
    }

    /// Whether a balancer of ours must say first for whom it calls. It has done so when the client logs in
    /// anew, and then nobody is believed a second time.
    fn requires_proxy_header(&self, caller: &PendingConnection) -> bool {
        let new = !matches!(caller.admission, Admission::Reauthenticating);
        new && self.config.proxy_protocol_from.iter().any(|balancers| balancers.contains(caller.source))
    }

    /// Says that there is no room.
    pub(crate) async fn reject_overloaded(
        &self,
        caller: PendingConnection,
    ) -> Option<AuthenticatedConnection> {
        self.reject(caller, &OVERLOADED).await
    }

    /// Before TLS nothing can be said.
    async fn reject(
        &self,
        mut caller: PendingConnection,
        rejection: &Rejection,
    ) -> Option<AuthenticatedConnection> {
        let deadline = Instant::now() + REFUSAL_TIMEOUT;
        let first = caller.first(deadline, self.scratch).await.filter(|first| *first != TLS_HANDSHAKE)?;
        caller.refuse(rejection, Protocol::detect(first), deadline, self.scratch).await
    }

    /// What the certificate is worth that the handshake was made with, if with any, and until when.
    async fn check_certificate(&self, caller: &PendingConnection) -> (Millis, Verdict) {
        let Some(fingerprint) = caller.stream.fingerprint() else {
            return (0, Verdict::Refused(LoginOutcome::Unknown));
        };
        let (issued, verdict) = self.grants.check_certificate(fingerprint, caller.source).await;
        match (&verdict, issued) {
            (Verdict::Unavailable, _) => self.metrics.login(LoginOutcome::Unavailable),
            (Verdict::Refused(outcome), Some(CertificateBinding { token, .. })) => {
                self.metrics.login(*outcome);
                if let Some(cause) = outcome.cause() {
                    let client = ClientInfo::new(caller.source, None, &caller.stream);
                    let form = denials::CERTIFICATE;
                    self.metrics.denials.note(Subject::Token(token), cause, client, form);
                }
            }
            // One that isn't ours may be for something else.
            (Verdict::Refused(_), None) | (Verdict::Granted(_), _) => {}
        }
        (issued.map_or(0, |issued| issued.not_after), verdict)
    }

    /// The connection as TLS. Without a certificate, or when the handshake fails, there is none.
    async fn encrypt(&self, caller: PendingConnection, deadline: Instant) -> Option<PendingConnection> {
        let certificate = self.certificate.current()?;
        let PendingConnection { stream, source, admission, input } = caller;
        let handshake = stream.into_tls(certificate, &input);
        let shaken =
            timeout_at(deadline, handshake).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        self.metrics.handshake(shaken.as_ref().ok().and_then(Stream::handshake));
        Some(PendingConnection { stream: shaken.ok()?, source, admission, input: Vec::new() })
    }

    async fn talk(
        &self,
        caller: &mut PendingConnection,
        protocol: Protocol,
        deadline: Instant,
    ) -> Option<(Arc<Grant>, Replies)> {
        let mut stage = Handshake::new(protocol, self.config.scram);
        let (mut answers, mut failures, mut lookups) = (0, 0, 0);
        let mut last_byte = Instant::now();
        loop {
            match stage.step(&caller.input) {
                Step::More => {
                    caller.read(deadline, self.scratch).await.ok()?;
                    last_byte = Instant::now();
                    continue;
                }
                Step::Close { reply } => {
                    caller.write(&reply).await.ok()?;
                    return None;
                }
                Step::Answer { consumed, reply } => {
                    caller.input.drain(..consumed);
                    caller.write(&reply).await.ok()?;
                }
                Step::LookUp { name, unavailable } => {
                    let mut answer = pin!(sleep_until(last_byte + FAILURE_DELAY));
                    set(answer.as_mut()).await;
                    let keys = self.grants.scram_keys(&name, caller.source).await;
                    // Said now, it would tell by the clock whether the name is somebody's.
                    answer.await;
                    let (Ok(keys), Some(nonce)) = (keys, nonce()) else {
                        self.metrics.login(LoginOutcome::Unavailable);
                        caller.write(&unavailable).await.ok()?;
                        return None;
                    };
                    stage.learn(keys, nonce);
                    lookups += 1;
                    if lookups >= LOOKUPS_MAX {
                        return None;
                    }
                    continue;
                }
                Step::Attempt { consumed, credential, replies } => {
                    let attempt = caller.input.drain(..consumed).collect::<Vec<u8>>();
                    let mut answer = pin!(sleep_until(last_byte + FAILURE_DELAY));
                    set(answer.as_mut()).await;
                    match self.check(credential.as_ref(), caller.source).await {
                        Verdict::Granted(grant) => return Some((grant, replies)),
                        Verdict::Unavailable => {
                            self.metrics.login(LoginOutcome::Unavailable);
                            caller.write(&replies.unavailable).await.ok()?;
                            return None;
                        }
                        Verdict::Refused(outcome) => {
                            self.refused(outcome, caller.client(protocol), credential.as_ref(), &attempt);
                            let delay = self.delay(caller.source, credential.as_ref(), &attempt);
                            answer.await;
                            if delay > FAILURE_DELAY {
                                sleep_until(last_byte + delay).await;
                            }
                            caller.write(&replies.refused).await.ok()?;
                            failures += 1;
                            // The next may have come along with this one: its time begins here.
                            last_byte = Instant::now();
                        }
                    }
                }
            }
            answers += 1;
            if answers >= ANSWERS_MAX || failures >= FAILURES_MAX {
                return None;
            }
        }
    }

    /// How long the rejection of `attempt` waits.
    fn delay(&self, source: IpAddr, credential: Option<&Credential>, attempt: &[u8]) -> Duration {
        let tried = match credential.map(|credential| &credential.proof) {
            Some(Proof::Secret(secret)) => secret.reveal().as_bytes(),
            Some(Proof::Scram(_) | Proof::Failed) | None => attempt,
        };
        let token = credential.map(|credential| credential.id);
        self.throttle.delay(&Failure { source, token, tried }, Instant::now().into_std())
    }

    /// Counts a refused login, and notes it for the token's owner. `words` are what the caller has said, where
    /// they are no credential.
    fn refused(
        &self,
        outcome: LoginOutcome,
        client: ClientInfo,
        credential: Option<&Credential>,
        words: &[u8],
    ) {
        self.metrics.login(outcome);
        let Some(cause) = outcome.cause() else { return };
        let subject = match credential {
            Some(_) if outcome == LoginOutcome::Unknown => Subject::None,
            Some(credential) => Subject::Token(credential.id),
            None => login::claimed(words).map_or(Subject::None, Subject::Unverified),
        };
        self.metrics.denials.note(subject, cause, client, denials::form(client.protocol, credential));
    }

    async fn check(&self, credential: Option<&Credential>, source: IpAddr) -> Verdict {
        match credential {
            Some(credential) => self.grants.check(credential, source).await,
            None => Verdict::Refused(LoginOutcome::Malformed),
        }
    }
}

/// From the system; `None` if it has none to give, and then nobody logs in that way.
fn nonce() -> Option<[u8; NONCE_LEN]> {
    let mut nonce = [0; NONCE_LEN];
    let filled = rustix::rand::getrandom(&mut nonce, rustix::rand::GetRandomFlags::empty());
    (filled == Ok(NONCE_LEN)).then_some(nonce)
}

impl PendingConnection {
    /// Reads what a balancer says first, and from then on is where that says.
    async fn read_header(&mut self, deadline: Instant, scratch: &RefCell<Vec<u8>>) -> io::Result<()> {
        loop {
            match proxy_protocol::Header::read(&self.input) {
                Ok(Some(header)) => {
                    self.input.drain(..header.consumed);
                    self.source = header.source.map_or(self.source, |source| source.to_canonical());
                    return Ok(());
                }
                Ok(None) => self.read(deadline, scratch).await?,
                Err(proxy_protocol::Malformed) => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }

    fn client(&self, protocol: Protocol) -> ClientInfo {
        ClientInfo::new(self.source, Some(protocol), &self.stream)
    }

    /// Its first byte, which is left there.
    async fn first(&mut self, deadline: Instant, scratch: &RefCell<Vec<u8>>) -> Option<u8> {
        if self.input.is_empty() {
            self.read(deadline, scratch).await.ok()?;
        }
        self.input.first().copied()
    }

    /// The end of a conversation, for which nobody else of its source need wait.
    async fn linger(&mut self, scratch: &RefCell<Vec<u8>>) {
        if let Admission::Unauthenticated(place) = &mut self.admission {
            place.release_source_slot();
        }
        self.stream.linger(scratch).await;
    }

    /// Reads what there is, at least a byte. The buffer grows by what arrives, never by what is declared.
    async fn read(&mut self, deadline: Instant, scratch: &RefCell<Vec<u8>>) -> io::Result<()> {
        if self.input.len() >= Handshake::BUFFER_MAX {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        loop {
            timeout_at(deadline, self.stream.readable()).await.map_err(|_| io::ErrorKind::TimedOut)??;
            let mut scratch = scratch.borrow_mut();
            let chunk = scratch.get_mut(..READ).unwrap_or_default();
            match self.stream.read(chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    self.input.extend_from_slice(chunk.get(..n).unwrap_or_default());
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn write(&self, mut words: &[u8]) -> io::Result<()> {
        while !words.is_empty() {
            self.stream.writable().await?;
            match self.stream.write(words) {
                Ok(n) => words = words.get(n..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        while let Err(error) = self.stream.flush() {
            if error.kind() != io::ErrorKind::WouldBlock {
                return Err(error);
            }
            self.stream.writable().await?;
        }
        Ok(())
    }

    async fn refuse(
        mut self,
        rejection: &Rejection,
        protocol: Protocol,
        deadline: Instant,
        scratch: &RefCell<Vec<u8>>,
    ) -> Option<AuthenticatedConnection> {
        match protocol {
            Protocol::Text => {
                timeout_at(deadline, self.write(rejection.text)).await.ok()?.ok()?;
            }
            Protocol::Binary => {
                let header = loop {
                    match Header::read(&self.input) {
                        Some(header) => break header,
                        None => self.read(deadline, scratch).await.ok()?,
                    }
                };
                timeout_at(deadline, self.write(&header.status(rejection.binary))).await.ok()?.ok()?;
            }
        }
        self.linger(scratch).await;
        None
    }
}

/// Sets a timer before anything is looked up: those of one millisecond fire in the order in which they were set,
/// and that order must not tell who had to be looked up.
async fn set(mut timer: Pin<&mut Sleep>) {
    poll_fn(|context| {
        let _pending = timer.as_mut().poll(context);
        Poll::Ready(())
    })
    .await;
}
