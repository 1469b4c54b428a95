//! A text login on a connection that has logged in. As memcached would, the parsers read it as a `set` of a credential, but
//! it must never be stored: a reader of that key could log in.

use std::borrow::Cow;
use std::pin::pin;

use store::DenialCause;
use tokio::time::{Instant, sleep_until};

use super::{Session, WorkerContext};
use crate::auth::arm;
use crate::auth::backoff::FAILURE_DELAY;
use crate::grants::Verdict;
use crate::login::outcome::LoginOutcome;
use crate::login::{self, Credential, Proof};
use crate::metrics::denials::{self, ClientInfo, Subject};
use crate::protocol::Protocol;
use crate::protocol::request::{Command, Mode, ReplyFormat, Request, TextFormat};

/// Whether a login is valid and of the same user (D-11), or the reply before the connection closes (D-14).
pub(super) type Relogin = Result<(), &'static [u8]>;

/// The credential of a `set` whose value is a login.
pub(super) fn parse(request: &Request<'_>) -> Option<Credential> {
    match (&request.command, request.format) {
        (Command::Store(store), ReplyFormat::Text(_)) if store.mode == Mode::Set && store.cas.is_none() => {
            login::parse_relogin(request.key.bytes, store.value)
        }
        _ => None,
    }
}

impl Session {
    /// Checks a login as if it were the connection's first. It may be looked up, since one that fails is the connection's
    /// last. A failed one is answered after the shortest time and doesn't count for its source: others may have given the
    /// client this value, and would slow down all that it does.
    pub(super) async fn verify_relogin(
        &self,
        worker: &WorkerContext<'_>,
        credential: &Credential,
    ) -> Relogin {
        let last_byte = Instant::now();
        let mut timer = pin!(sleep_until(last_byte + FAILURE_DELAY));
        arm(timer.as_mut()).await;
        let outcome = match worker.grants.check(credential, self.source).await {
            Verdict::Granted(grant) if grant.user_id == self.handle.permissions.user_id() => return Ok(()),
            Verdict::Granted(_) => LoginOutcome::OtherUser,
            Verdict::Denied(outcome) => outcome,
            Verdict::Unavailable => {
                self.tenant.metrics.login(LoginOutcome::Unavailable);
                return Err(login::UNAVAILABLE);
            }
        };
        self.record_failed_relogin(outcome, credential);
        let attempt = match &credential.proof {
            Proof::Secret(secret) => secret.reveal().as_bytes(),
            Proof::Scram(_) | Proof::Failed => b"",
        };
        worker.throttle.record_for_token(credential.id, attempt, Instant::now().into_std());
        timer.await;
        Err(login::FAILURE)
    }

    /// Answers a repeated login without storing it (D-11).
    pub(super) fn accept_relogin(&mut self, request: &Request<'_>) {
        if request.format == ReplyFormat::Text(TextFormat::Line { noreply: false }) {
            self.reply(Cow::Borrowed(b"STORED\r\n"));
        }
    }

    /// Records the denial for the owner of this connection, and for that of the token that was named.
    fn record_failed_relogin(&self, outcome: LoginOutcome, credential: &Credential) {
        let metrics = &self.tenant.metrics;
        metrics.login(outcome);
        let client = ClientInfo::new(self.source, self.protocol, self.responses.stream());
        let form = denials::login_form(Protocol::Text, Some(credential));
        let own = self.handle.permissions.token();
        metrics.denials.record(Subject::Token(own), DenialCause::ForeignCredential, client, form);
        if let Some(cause) = outcome.cause().filter(|_| outcome != LoginOutcome::Unknown) {
            metrics.denials.record(Subject::Token(credential.id), cause, client, form);
        }
    }
}
