//! Authenticates a connection within 5 s: PROXY header, first byte, admission, TLS, then the login dialogue. Before login a
//! connection has one small buffer. What the bytes mean is decided in `login`; clock and socket are here.

pub(crate) mod admission;
pub(crate) mod authenticated;
pub(crate) mod backoff;
mod dialogue;
mod pending;
mod rejection;

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::Config;
use crate::client_certificate::ClientCertificate;
use crate::grants::{CertificateBinding, Grants, Verdict};
use crate::login::Login;
use crate::login::outcome::LoginOutcome;
use crate::metrics::Metrics;
use crate::metrics::admission::EvictionCause;
use crate::metrics::denials::{self, ClientInfo, Subject};
use crate::protocol::Protocol;
use crate::transport::Stream;
use crate::transport::address::is_private;
use crate::transport::tls_config::Certificate;
use admission::AdmissionLimiter;
use authenticated::AuthenticatedConnection;
use backoff::Throttle;
pub(crate) use dialogue::arm;
pub(crate) use pending::{Admission, PendingConnection};
use rejection::{OVERLOADED, Rejection, TLS_REQUIRED, UNAVAILABLE};

/// Time limit from accept to login, TLS handshake included.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit for the first byte of a connection while the proxy is under pressure, see [`AdmissionLimiter`].
const SILENT_TIMEOUT_UNDER_PRESSURE: Duration = Duration::from_secs(1);
/// Time limit for delivering a rejection, with the wait for the first byte, which tells the protocol.
pub(crate) const REJECT_TIMEOUT: Duration = Duration::from_secs(1);
/// First byte of a TLS handshake record.
const TLS_HANDSHAKE: u8 = 0x16;

/// What authentication needs of its worker.
pub(crate) struct Authenticator<'a> {
    pub(crate) grants: &'a Arc<Grants>,
    pub(crate) metrics: &'a Metrics,
    pub(crate) throttle: &'a Throttle,
    pub(crate) admission_limiter: &'a AdmissionLimiter,
    pub(crate) config: &'a Config,
    pub(crate) certificate: &'a Certificate,
    /// Shared read buffer of the worker; only received bytes are copied to the connection's own.
    pub(crate) scratch: &'a RefCell<Vec<u8>>,
}

impl Authenticator<'_> {
    /// Authenticates a connection; `None` when it has ended without a login.
    pub(crate) async fn authenticate(
        &self,
        mut pending: PendingConnection,
    ) -> Option<AuthenticatedConnection> {
        let deadline = Instant::now() + LOGIN_TIMEOUT;
        if matches!(pending.admission, Admission::Closing(_)) {
            Box::pin(self.reject_overloaded(pending)).await;
            return None;
        }
        if self.requires_proxy_header(&pending) {
            if pending.read_proxy_header(deadline, self.scratch).await.is_err() {
                self.metrics.login(LoginOutcome::MissingProxyHeader);
                return None;
            }
            if let Admission::Unauthenticated(permit) = &mut pending.admission {
                permit.set_source(pending.source);
            }
        }
        let first = self.wait_for_first_byte(&mut pending, deadline).await?;
        if !pending.begin_login() {
            self.metrics.login(LoginOutcome::Overloaded);
            Box::pin(self.reject_overloaded(pending)).await;
            return None;
        }
        // Boxed, so that a silent connection holds no memory for its login.
        let connection = Box::pin(self.log_in(pending, first, deadline)).await?;
        if let Admission::Unauthenticated(permit) = &connection.admission {
            permit.set_authenticated();
        }
        Some(connection)
    }

    /// Waits for a connection's first byte; `None` when it has closed, or must close. The time limit is shorter under
    /// pressure.
    async fn wait_for_first_byte(&self, pending: &mut PendingConnection, deadline: Instant) -> Option<u8> {
        let eviction = pending.eviction();
        loop {
            let limit = deadline.min(Instant::now() + SILENT_TIMEOUT_UNDER_PRESSURE);
            let peeked = eviction.unless_evicted(pending.peek_first_byte(limit, self.scratch)).await;
            match peeked {
                Some(Ok(first)) => return Some(first),
                Some(Err(error)) if error.kind() == io::ErrorKind::TimedOut => {
                    if limit == deadline || self.admission_limiter.is_under_pressure() {
                        self.metrics.admission.evicted(EvictionCause::SilentTimedOut);
                        return None;
                    }
                }
                Some(Err(_)) => return None,
                // It isn't silent if its first byte has just arrived.
                None if pending.stream.has_unread_input() => {
                    return pending.peek_first_byte(deadline, self.scratch).await.ok();
                }
                None => return None,
            }
        }
    }

    /// Runs the TLS handshake and the dialogue of a connection that has sent its `first` byte. It may be evicted.
    async fn log_in(
        &self,
        mut pending: PendingConnection,
        mut first: u8,
        deadline: Instant,
    ) -> Option<AuthenticatedConnection> {
        let eviction = pending.eviction();
        if first == TLS_HANDSHAKE && !pending.stream.is_tls() {
            pending =
                self.or_evicted(eviction.unless_evicted(self.accept_tls(pending, deadline)).await)??;
            let checked = timeout_at(deadline, self.check_certificate(&pending)).await;
            let (certificate, verdict) = checked.ok()?;
            match verdict {
                Verdict::Granted(grant) => {
                    let PendingConnection { stream, source, admission, .. } = pending;
                    let login = None;
                    return Some(AuthenticatedConnection {
                        stream,
                        source,
                        grant,
                        login,
                        certificate,
                        admission,
                    });
                }
                Verdict::Unavailable => {
                    self.reject(pending, &UNAVAILABLE).await;
                    return None;
                }
                // A login may follow.
                Verdict::Denied(_) => {}
            }
            let peeked = eviction.unless_evicted(pending.peek_first_byte(deadline, self.scratch)).await;
            first = self.or_evicted(peeked)?.ok()?;
        }
        let protocol = Protocol::detect(first);
        if !self.config.allow_plaintext && !pending.stream.is_tls() && !is_private(pending.source) {
            let client = pending.client_info(protocol);
            self.record_denial(LoginOutcome::Plaintext, client, None, &pending.input);
            pending.reject(&TLS_REQUIRED, protocol, deadline, self.scratch).await;
            return None;
        }
        let dialogue = timeout_at(deadline, self.run_dialogue(&mut pending, protocol, deadline));
        match self.or_evicted(eviction.unless_evicted(dialogue).await) {
            Some(Ok(Some((grant, replies)))) => {
                let PendingConnection { stream, source, admission, input: rest } = pending;
                let (login, certificate) = (Some(Login { protocol, rest, replies }), None);
                Some(AuthenticatedConnection { stream, source, grant, login, certificate, admission })
            }
            Some(Ok(None)) => {
                pending.linger(self.scratch).await;
                None
            }
            Some(Err(_)) => {
                self.metrics.login(LoginOutcome::TimedOut);
                None
            }
            None => {
                let deadline = Instant::now() + REJECT_TIMEOUT;
                pending.reject(&OVERLOADED, protocol, deadline, self.scratch).await;
                None
            }
        }
    }

    /// Counts a login that was evicted, which is `None`.
    fn or_evicted<T>(&self, done: Option<T>) -> Option<T> {
        if done.is_none() {
            self.metrics.login(LoginOutcome::Evicted);
        }
        done
    }

    /// Whether the peer is a load balancer that must send a PROXY header. It sends one header per connection, so a
    /// second one, when the client logs in again, isn't accepted.
    fn requires_proxy_header(&self, pending: &PendingConnection) -> bool {
        let new = !matches!(pending.admission, Admission::Reauthenticating);
        new && self.config.is_balancer(pending.source)
    }

    /// Replies that there are too many connections, then closes.
    pub(crate) async fn reject_overloaded(&self, pending: PendingConnection) {
        self.reject(pending, &OVERLOADED).await;
    }

    /// Waits for the first byte, which tells the protocol. A TLS client is closed without a reply.
    async fn reject(&self, mut pending: PendingConnection, rejection: &Rejection) -> Option<()> {
        let deadline = Instant::now() + REJECT_TIMEOUT;
        pending = pending.into_closing()?;
        let first = pending.peek_first_byte(deadline, self.scratch).await.ok()?;
        if first == TLS_HANDSHAKE && !pending.stream.is_tls() {
            return None;
        }
        pending.reject(rejection, Protocol::detect(first), deadline, self.scratch).await
    }

    /// The certificate of the TLS handshake, if we issued it, and the verdict on it.
    async fn check_certificate(&self, pending: &PendingConnection) -> (Option<ClientCertificate>, Verdict) {
        let Some(fingerprint) = pending.stream.fingerprint() else {
            return (None, Verdict::Denied(LoginOutcome::Unknown));
        };
        let (binding, verdict) = self.grants.check_certificate(fingerprint, pending.source).await;
        match (&verdict, binding) {
            (Verdict::Unavailable, _) => self.metrics.login(LoginOutcome::Unavailable),
            (Verdict::Denied(outcome), Some(CertificateBinding { token, .. })) => {
                self.metrics.login(*outcome);
                if let Some(cause) = outcome.cause() {
                    let client = ClientInfo::new(pending.source, None, &pending.stream);
                    let detail = denials::CERTIFICATE_LOGIN;
                    self.metrics.denials.record(Subject::Token(token), cause, client, detail);
                }
            }
            // A certificate that we didn't issue may be meant for another service.
            (Verdict::Denied(_), None) | (Verdict::Granted(_), _) => {}
        }
        let certificate = |CertificateBinding { not_after, .. }| ClientCertificate { fingerprint, not_after };
        (binding.map(certificate), verdict)
    }

    /// Performs the TLS handshake; `None` if it fails or the proxy has no certificate.
    async fn accept_tls(&self, pending: PendingConnection, deadline: Instant) -> Option<PendingConnection> {
        let certificate = self.certificate.current()?;
        let PendingConnection { stream, source, admission, input } = pending;
        let handshake = stream.into_tls(certificate, &input);
        let accepted =
            timeout_at(deadline, handshake).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        self.metrics.handshake(accepted.as_ref().ok().and_then(Stream::handshake));
        Some(PendingConnection { stream: accepted.ok()?, source, admission, input: Vec::new() })
    }
}
