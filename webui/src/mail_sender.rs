//! Sends the mail that waits in the store. Several web UIs may do so: each mail is claimed first.

mod message;
mod visitors;

use std::sync::Arc;
use std::time::Duration;

use daemon::Shutdown;
use store::{ClaimedMail, MailOutcome, StoreError, now};
use tokio_util::sync::CancellationToken;

use crate::mail::SendError;
use crate::state::AppState;

/// How often the store is asked for mail that others have added, or that is due again.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// Time after which another process may send a mail that this one claimed: longer than an attempt takes.
const LEASE: Duration = Duration::from_secs(2 * 60);
/// Time until a mail server that couldn't be used is tried again, and each mail at which it failed: doubles.
const SERVER_BACKOFF_MIN: Duration = Duration::from_secs(5);
const SERVER_BACKOFF_MAX: Duration = Duration::from_secs(5 * 60);
/// Time until a mail that the server didn't take is tried again: doubles.
const RETRY_BACKOFF_MIN: Duration = Duration::from_secs(60);
const RETRY_BACKOFF_MAX: Duration = Duration::from_secs(60 * 60);
/// Time that an attempt has once the shutdown has begun.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Starts the tasks, if there is a mail server.
pub(crate) fn spawn(app: &Arc<AppState>, shutdown: &Shutdown) {
    if app.mail.is_some() {
        shutdown.spawn_until_stopped(visitors::run(app.clone()));
        shutdown.spawn(run(app.clone(), shutdown.token().clone()));
    }
}

/// Sends mail until shutdown.
async fn run(app: Arc<AppState>, stop: CancellationToken) {
    let Some(mail) = &app.mail else { return };
    let mut server = ServerState::default();
    loop {
        tokio::select! {
            () = send_due(&app, &mut server) => {}
            () = stopped(&stop) => return,
        }
        let waiting = app.store.waiting_mails().await;
        if matches!(waiting, Ok(0)) {
            server = ServerState::default();
        }
        mail.set_server_away(server.is_away());
        match waiting {
            Ok(waiting) => app.metrics.set_waiting_mails(waiting),
            Err(error) => tracing::warn!(%error, "failed to count the mail that waits"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause(server.failures)) => {}
            // A server that is away isn't tried more often because more mail waits for it.
            () = mail.added(), if !server.is_away() => {}
        }
    }
}

/// What the last attempts tell about the mail server.
#[derive(Debug, Default)]
struct ServerState {
    /// The mail at which it failed the last time, if it has taken or refused none since.
    failed_at: Option<String>,
    /// How often it couldn't be used since it could.
    failures: u32,
}

impl ServerState {
    fn is_away(&self) -> bool {
        self.failures > 0
    }

    /// Records a reply to a mail.
    fn has_replied(&mut self) {
        *self = Self::default();
    }

    /// Records that it failed at a mail. Returns whether it is away: one that fails at a single mail, since that mail's
    /// recipient has a server which doesn't answer, takes others.
    fn has_failed(&mut self, mail_id: &str) -> bool {
        let is_second = self.failed_at.as_deref().is_some_and(|last| last != mail_id);
        self.failed_at = Some(mail_id.to_owned());
        if is_second {
            self.failures = self.failures.saturating_add(1);
        }
        is_second
    }

    /// Records that it refuses connections.
    fn refuses_connections(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }
}

/// A mail that is being sent has a little longer than everything else.
async fn stopped(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(STOP_TIMEOUT).await;
}

fn pause(failures: u32) -> Duration {
    match failures {
        0 => POLL_INTERVAL,
        _ => doubled(SERVER_BACKOFF_MIN, failures - 1, SERVER_BACKOFF_MAX),
    }
}

fn doubled(first: Duration, times: u32, max: Duration) -> Duration {
    first.saturating_mul(1_u32.checked_shl(times).unwrap_or(u32::MAX)).min(max)
}

/// Sends what is due. If the server can't be used, the rest waits.
async fn send_due(app: &AppState, server: &mut ServerState) {
    loop {
        let mail = match app.store.claim_mail(LEASE).await {
            Ok(Some(mail)) => mail,
            Ok(None) => return,
            // It isn't due again for a while.
            Err(StoreError::Corrupt(what)) => {
                tracing::error!(what, "skipping an invalid mail in the store: restore a backup");
                continue;
            }
            Err(error) => {
                tracing::warn!(%error, "failed to look for mail to send");
                return;
            }
        };
        match send(app, &mail, server).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::warn!(%error, mail = %mail.id, "failed to record what became of a mail");
                return;
            }
        }
    }
}

/// Makes one attempt, and records it. Returns whether to go on with the next mail.
async fn send(app: &AppState, claimed: &ClaimedMail, server: &mut ServerState) -> Result<bool, StoreError> {
    let Some(mail) = &app.mail else { return Ok(false) };
    let sent = match message::of(app, mail.sender(), claimed).await? {
        Ok(message) => {
            let sent = mail.send(message).await.map_err(|error| error.without(&claimed.recipient));
            if !matches!(sent, Err(SendError::Unreachable(_) | SendError::Server(_))) {
                server.has_replied();
            }
            sent
        }
        Err(reason) => Err(SendError::Permanent(reason)),
    };
    let retry_after = |first, max| {
        let times = u32::try_from(claimed.attempts.saturating_sub(1)).unwrap_or(0);
        now().saturating_add(doubled(first, times, max))
    };
    let (outcome, count, error, continues) = match &sent {
        Ok(()) => {
            app.metrics.count_mail("sent");
            app.store.finish_mail(claimed, &MailOutcome::Sent).await?;
            return Ok(true);
        }
        Err(SendError::Unreachable(error)) => {
            server.refuses_connections();
            let at = now().saturating_add(SERVER_BACKOFF_MIN);
            (MailOutcome::Retry { at, error }, "retried", error, false)
        }
        Err(SendError::Server(error)) => {
            let at = retry_after(SERVER_BACKOFF_MIN, SERVER_BACKOFF_MAX);
            (MailOutcome::Retry { at, error }, "retried", error, !server.has_failed(&claimed.id))
        }
        Err(SendError::Temporary(error)) => {
            let at = retry_after(RETRY_BACKOFF_MIN, RETRY_BACKOFF_MAX);
            (MailOutcome::Retry { at, error }, "retried", error, true)
        }
        Err(SendError::Permanent(error)) => (MailOutcome::Failed { error }, "failed", error, true),
    };
    app.metrics.count_mail(count);
    // Neither the address nor the text.
    let (id, kind, attempts) = (&claimed.id, claimed.kind.as_str(), claimed.attempts);
    tracing::warn!(mail = %id, kind, attempts, outcome = count, error, "mail not sent");
    app.store.finish_mail(claimed, &outcome).await?;
    Ok(continues)
}

#[cfg(test)]
mod tests {
    use super::*;

    // W-19.
    #[test]
    fn server_is_away_once_it_fails_at_two_mails_in_a_row() {
        let mut server = ServerState::default();
        assert!(!server.has_failed("a") && !server.has_failed("a") && !server.is_away());
        server.has_replied();
        assert!(!server.has_failed("b"), "it took another mail in between");
        assert!(server.has_failed("a") && server.is_away());
        assert!(server.has_failed("b"));
        assert_eq!(server.failures, 2);
        server.has_replied();
        assert!(!server.is_away());
        server.refuses_connections();
        assert!(server.is_away());
    }

    #[test]
    fn pauses_grow_while_the_server_is_away() {
        let seconds: Vec<u64> = [0, 1, 2, 3, 7, 8, 100].map(|failures| pause(failures).as_secs()).into();
        assert_eq!(seconds, [5, 5, 10, 20, 300, 300, 300]);
        assert_eq!(doubled(RETRY_BACKOFF_MIN, u32::MAX, RETRY_BACKOFF_MAX), RETRY_BACKOFF_MAX);
    }
}
