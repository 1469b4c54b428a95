//! Authenticates a connection within 5 s: PROXY header, admission, TLS, then the login dialogue. Before login a
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

use store::Timestamp;
use tokio::time::{Instant, timeout_at};

use crate::Config;
use crate::grants::{CertificateBinding, Grants, Verdict};
use crate::login::Login;
use crate::login::outcome::LoginOutcome;
use crate::metrics::Metrics;
use crate::metrics::denials::{self, ClientInfo, Subject};
use crate::protocol::Protocol;
use crate::transport::Stream;
use crate::transport::address::is_private;
use crate::transport::tls_config::Certificate;
use authenticated::AuthenticatedConnection;
use backoff::Throttle;
pub(crate) use pending::{Admission, PendingConnection};
use rejection::{OVERLOADED, Rejection, TLS_REQUIRED, UNAVAILABLE};

/// Time limit from accept to login, TLS handshake included.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit for the first byte of a connection that will be rejected.
const REJECT_TIMEOUT: Duration = Duration::from_secs(1);
/// First byte of a TLS handshake record.
const TLS_HANDSHAKE: u8 = 0x16;

/// What authentication needs of its worker.
pub(crate) struct Authenticator<'a> {
    pub(crate) grants: &'a Arc<Grants>,
    pub(crate) metrics: &'a Metrics,
    pub(crate) throttle: &'a Throttle,
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
        if self.requires_proxy_header(&pending)
            && pending.read_proxy_header(deadline, self.scratch).await.is_err()
        {
            self.metrics.login(LoginOutcome::MissingProxyHeader);
            return None;
        }
        let has_slot = match &mut pending.admission {
            Admission::Unauthenticated(permit) => permit.acquire_source_slot(pending.source).await,
            Admission::Rejected(_) => false,
            Admission::Reauthenticating => true,
        };
        if !has_slot {
            self.metrics.login(LoginOutcome::Overloaded);
            if let Admission::Unauthenticated(permit) = pending.admission {
                pending.admission = Admission::Rejected(permit.downgrade()?);
            }
            self.reject_overloaded(pending).await;
            return None;
        }
        let mut first = pending.peek_first_byte(deadline, self.scratch).await?;
        if first == TLS_HANDSHAKE && !pending.stream.is_tls() {
            pending = self.accept_tls(pending, deadline).await?;
            let (ends_at, verdict) = timeout_at(deadline, self.check_certificate(&pending)).await.ok()?;
            match verdict {
                Verdict::Granted(grant) => {
                    let PendingConnection { stream, source, .. } = pending;
                    return Some(AuthenticatedConnection { stream, source, grant, login: None, ends_at });
                }
                Verdict::Unavailable => {
                    self.reject(pending, &UNAVAILABLE).await;
                    return None;
                }
                // A login may follow.
                Verdict::Denied(_) => {}
            }
            first = pending.peek_first_byte(deadline, self.scratch).await?;
        }
        let protocol = Protocol::detect(first);
        if !self.config.allow_plaintext && !pending.stream.is_tls() && !is_private(pending.source) {
            let client = pending.client_info(protocol);
            self.record_denial(LoginOutcome::Plaintext, client, None, &pending.input);
            pending.reject(&TLS_REQUIRED, protocol, deadline, self.scratch).await;
            return None;
        }
        match timeout_at(deadline, self.run_dialogue(&mut pending, protocol, deadline)).await {
            Ok(Some((grant, replies))) => {
                let PendingConnection { stream, source, input: rest, .. } = pending;
                let login = Some(Login { protocol, rest, replies });
                Some(AuthenticatedConnection { stream, source, grant, login, ends_at: Timestamp::MAX })
            }
            Ok(None) => {
                pending.linger(self.scratch).await;
                None
            }
            Err(_) => {
                self.metrics.login(LoginOutcome::TimedOut);
                None
            }
        }
    }

    /// Whether the peer is a load balancer that must send a PROXY header. It sends one header per connection, so a
    /// second one, when the client logs in again, isn't accepted.
    fn requires_proxy_header(&self, pending: &PendingConnection) -> bool {
        let new = !matches!(pending.admission, Admission::Reauthenticating);
        new && self.config.proxy_protocol_from.iter().any(|balancers| balancers.contains(pending.source))
    }

    /// Replies that there are too many connections, then closes.
    pub(crate) async fn reject_overloaded(&self, pending: PendingConnection) {
        self.reject(pending, &OVERLOADED).await;
    }

    /// Waits for the first byte, which tells the protocol. A TLS client is closed without a reply.
    async fn reject(&self, mut pending: PendingConnection, rejection: &Rejection) -> Option<()> {
        let deadline = Instant::now() + REJECT_TIMEOUT;
        let first =
            pending.peek_first_byte(deadline, self.scratch).await.filter(|first| *first != TLS_HANDSHAKE)?;
        pending.reject(rejection, Protocol::detect(first), deadline, self.scratch).await
    }

    /// The verdict on the certificate of the TLS handshake, and when that certificate expires.
    async fn check_certificate(&self, pending: &PendingConnection) -> (Timestamp, Verdict) {
        let Some(fingerprint) = pending.stream.fingerprint() else {
            return (Timestamp::EPOCH, Verdict::Denied(LoginOutcome::Unknown));
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
        (binding.map_or(Timestamp::EPOCH, |binding| binding.not_after), verdict)
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
