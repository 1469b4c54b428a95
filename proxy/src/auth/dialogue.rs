//! The login dialogue: feeds the input to [`Handshake`], looks credentials up, and replies at the right time.

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use store::{Grant, ScramKeys};
use tokio::time::{Instant, Sleep, sleep_until};

use super::Authenticator;
use super::backoff::{FAILURE_DELAY, Failure};
use super::pending::PendingConnection;
use crate::grants::Verdict;
use crate::login::outcome::LoginOutcome;
use crate::login::{self, Credential, Handshake, NONCE_LEN, Proof, Replies, Step};
use crate::metrics::denials::{self, ClientInfo, Subject};
use crate::protocol::Protocol;

/// Replies before login; then the connection closes.
const REPLIES_MAX: u32 = 16;
/// Failed attempts on one connection.
const FAILURES_MAX: u32 = 3;
/// SCRAM exchanges begun on one connection.
const LOOKUPS_MAX: u32 = 6;

impl Authenticator<'_> {
    /// Runs the dialogue until the client has logged in; `None` when the connection must close.
    pub(super) async fn run_dialogue(
        &self,
        pending: &mut PendingConnection,
        protocol: Protocol,
        deadline: Instant,
    ) -> Option<(Arc<Grant>, Replies)> {
        let mut handshake = Handshake::new(protocol, self.config.scram);
        let (mut replies_sent, mut failures, mut lookups) = (0, 0, 0);
        let mut last_byte = Instant::now();
        // Who has begun SCRAM, until it is decided.
        let mut scram_name = None;
        loop {
            match handshake.step(&pending.input) {
                Step::More => {
                    if let Err(error) = pending.read(deadline, self.scratch).await {
                        self.record_unfinished(scram_name, &error, pending.client_info(protocol));
                        return None;
                    }
                    last_byte = Instant::now();
                    continue;
                }
                Step::Close { reply } => {
                    pending.write(&reply).await.ok()?;
                    return None;
                }
                Step::Reply { consumed, reply } => {
                    pending.input.drain(..consumed);
                    pending.write(&reply).await.ok()?;
                }
                Step::LookUp { name, unavailable } => {
                    let looked_up = self.look_up_scram_keys(&name, pending.source, last_byte).await;
                    let Some((keys, nonce)) = looked_up else {
                        pending.write(&unavailable).await.ok()?;
                        return None;
                    };
                    handshake.provide_keys(keys, nonce);
                    scram_name = Some(name);
                    lookups += 1;
                    if lookups >= LOOKUPS_MAX {
                        return None;
                    }
                    continue;
                }
                Step::Attempt { consumed, credential, replies } => {
                    scram_name = None;
                    let attempt = pending.input.drain(..consumed).collect::<Vec<u8>>();
                    let mut timer = pin!(sleep_until(last_byte + FAILURE_DELAY));
                    arm(timer.as_mut()).await;
                    match self.check_credential(credential.as_ref(), pending.source).await {
                        Verdict::Granted(grant) => return Some((grant, replies)),
                        Verdict::Unavailable => {
                            self.metrics.login(LoginOutcome::Unavailable);
                            pending.write(&replies.unavailable).await.ok()?;
                            return None;
                        }
                        Verdict::Denied(outcome) => {
                            let client = pending.client_info(protocol);
                            self.record_denial(outcome, client, credential.as_ref(), &attempt);
                            let delay = self.failure_delay(pending.source, credential.as_ref(), &attempt);
                            timer.await;
                            if delay > FAILURE_DELAY {
                                sleep_until(last_byte + delay).await;
                            }
                            pending.write(&replies.denied).await.ok()?;
                            failures += 1;
                            // The next attempt may have arrived with this one: its delay starts here.
                            last_byte = Instant::now();
                        }
                    }
                }
            }
            replies_sent += 1;
            if replies_sent >= REPLIES_MAX || failures >= FAILURES_MAX {
                return None;
            }
        }
    }

    /// Looks up the SCRAM keys of a name, and makes a nonce; `None` if either is unavailable. Takes equally long for
    /// known and unknown names, so that the timing of the reply doesn't tell them apart.
    async fn look_up_scram_keys(
        &self,
        name: &str,
        source: IpAddr,
        last_byte: Instant,
    ) -> Option<(ScramKeys, [u8; NONCE_LEN])> {
        let mut timer = pin!(sleep_until(last_byte + FAILURE_DELAY));
        arm(timer.as_mut()).await;
        let keys = self.grants.scram_keys(name, source).await;
        timer.await;
        let looked_up = keys.ok().zip(nonce());
        if looked_up.is_none() {
            self.metrics.login(LoginOutcome::Unavailable);
        }
        looked_up
    }

    /// How long after the last byte a failed attempt is answered.
    fn failure_delay(&self, source: IpAddr, credential: Option<&Credential>, attempt: &[u8]) -> Duration {
        let attempt = match credential.map(|credential| &credential.proof) {
            Some(Proof::Secret(secret)) => secret.reveal().as_bytes(),
            Some(Proof::Scram(_) | Proof::Failed) | None => attempt,
        };
        let token = credential.map(|credential| credential.id);
        let delay = self.throttle.delay(&Failure { source, token, attempt }, Instant::now().into_std());
        if delay > FAILURE_DELAY {
            self.metrics.throttled_logins.inc();
        }
        delay
    }

    /// Counts a failed login, and records it for the token's owner. `attempt` is searched for a username if it
    /// holds no credential.
    pub(super) fn record_denial(
        &self,
        outcome: LoginOutcome,
        client: ClientInfo,
        credential: Option<&Credential>,
        attempt: &[u8],
    ) {
        self.metrics.login(outcome);
        let Some(cause) = outcome.cause() else { return };
        let subject = match credential {
            Some(_) if outcome == LoginOutcome::Unknown => Subject::None,
            Some(credential) => Subject::Token(credential.id),
            None => login::find_username(attempt).map_or(Subject::None, Subject::Unverified),
        };
        self.metrics.denials.record(subject, cause, client, denials::login_form(client.protocol, credential));
    }

    /// Counts a login that hasn't been finished, and tells the token's owner of a client that has left in the middle of
    /// SCRAM: the client itself says nothing.
    fn record_unfinished(&self, scram_name: Option<String>, error: &io::Error, client: ClientInfo) {
        if let Some(name) = scram_name {
            self.record_denial(LoginOutcome::ScramUnfinished, client, None, name.as_bytes());
        } else if error.kind() == io::ErrorKind::TimedOut {
            self.metrics.login(LoginOutcome::TimedOut);
        }
    }

    async fn check_credential(&self, credential: Option<&Credential>, source: IpAddr) -> Verdict {
        match credential {
            Some(credential) => self.grants.check(credential, source).await,
            None => Verdict::Denied(LoginOutcome::Malformed),
        }
    }
}

/// Random bytes of the system; `None` if it can't provide them, and then SCRAM is unavailable.
fn nonce() -> Option<[u8; NONCE_LEN]> {
    let mut nonce = [0; NONCE_LEN];
    let filled = rustix::rand::getrandom(&mut nonce, rustix::rand::GetRandomFlags::empty());
    (filled == Ok(NONCE_LEN)).then_some(nonce)
}

/// Arms a timer before a look-up: timers of one millisecond fire in the order in which they were armed, and that
/// order must not tell which names had to be looked up.
pub(crate) async fn arm(mut timer: Pin<&mut Sleep>) {
    poll_fn(|context| {
        let _pending = timer.as_mut().poll(context);
        Poll::Ready(())
    })
    .await;
}
