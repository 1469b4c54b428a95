//! Mail: the server that takes it, and what visitors ask for. `mail_sender.rs` has the tasks.
//!
//! A visitor's request is answered before anything about the account is looked up, so that neither the answer nor its time
//! tells whether the account exists.

mod requests;
mod transport;

use std::sync::atomic::{AtomicBool, Ordering};

use lettre::Message;
use lettre::message::Mailbox;
use store::{MailLimits, NewMail, Store};
use tokio::sync::Notify;

pub(crate) use requests::Request;
pub(crate) use transport::SendError;

use self::requests::RequestQueue;
use self::transport::Transport;
use crate::Error;
use crate::config::{Config, Limits};

/// What sends mail.
#[derive(Debug)]
pub(crate) struct Mail {
    transport: Transport,
    requests: RequestQueue,
    limits: MailLimits,
    /// Mail was added by this process.
    added: Notify,
    /// Whether the mail server couldn't be used the last time.
    is_server_away: AtomicBool,
}

impl Mail {
    /// `None` if no mail server is set.
    ///
    /// # Errors
    ///
    /// [`Error`] if a file can't be used.
    pub(crate) fn new(config: &Config) -> Result<Option<Self>, Error> {
        let Config { mail, limits, .. } = config;
        let Some(transport) = Transport::new(mail)? else { return Ok(None) };
        Ok(Some(Self {
            transport,
            requests: RequestQueue::default(),
            limits: limits_of(limits),
            added: Notify::new(),
            is_server_away: AtomicBool::new(false),
        }))
    }

    /// Passes a visitor's request on. Returns `false` if too many wait.
    pub(crate) fn ask(&self, request: Request) -> bool {
        self.requests.push(request)
    }

    /// Waits for a visitor's request.
    pub(crate) async fn next_request(&self) -> Request {
        self.requests.next().await
    }

    pub(crate) fn sender(&self) -> &Mailbox {
        self.transport.sender()
    }

    /// Gives a mail to the server.
    ///
    /// # Errors
    ///
    /// [`SendError`] if it doesn't take the mail within a minute.
    pub(crate) async fn send(&self, message: Message) -> Result<(), SendError> {
        self.transport.send(message).await
    }

    pub(crate) fn limits(&self) -> &MailLimits {
        &self.limits
    }

    /// Sends mail that this process has added, without waiting for the next look.
    pub(crate) fn send_soon(&self) {
        self.added.notify_one();
    }

    /// Waits until there is some.
    pub(crate) async fn added(&self) {
        self.added.notified().await;
    }

    pub(crate) fn set_server_away(&self, is_away: bool) {
        self.is_server_away.store(is_away, Ordering::Relaxed);
    }

    /// Whether mail waits until the mail server can be used again.
    pub(crate) fn is_server_away(&self) -> bool {
        self.is_server_away.load(Ordering::Relaxed)
    }

    /// Adds a mail that tells of a change which was made already: a failure is logged only.
    pub(crate) async fn tell(&self, store: &Store, mail: &NewMail<'_>) {
        match store.add_mail(mail, &self.limits).await {
            Ok(()) => self.send_soon(),
            Err(error) => tracing::warn!(%error, kind = mail.kind.as_str(), "failed to add a mail"),
        }
    }
}

fn limits_of(limits: &Limits) -> MailLimits {
    MailLimits {
        to_recipient_per_hour: limits.mails_per_hour,
        in_total_per_hour: limits.mails_in_total_per_hour,
    }
}
