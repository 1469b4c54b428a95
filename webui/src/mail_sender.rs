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
/// Time until a mail server that couldn't be used is tried again: doubles.
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
    let mut failures = 0;
    loop {
        let is_server_away = tokio::select! {
            away = send_due(&app) => away,
            () = stopped(&stop) => return,
        };
        mail.set_server_away(is_server_away);
        failures = if is_server_away { failures + 1 } else { 0 };
        match app.store.waiting_mails().await {
            Ok(waiting) => app.metrics.set_waiting_mails(waiting),
            Err(error) => tracing::warn!(%error, "failed to count the mail that waits"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause(failures)) => {}
            // A server that is away isn't tried more often because more mail waits for it.
            () = mail.added(), if failures == 0 => {}
        }
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

/// Sends what is due. Returns whether the server couldn't be used: then the rest waits.
async fn send_due(app: &AppState) -> bool {
    loop {
        let mail = match app.store.claim_mail(LEASE).await {
            Ok(Some(mail)) => mail,
            Ok(None) => return false,
            // It isn't due again for a while.
            Err(StoreError::Corrupt(what)) => {
                tracing::error!(what, "skipping an invalid mail in the store: restore a backup");
                continue;
            }
            Err(error) => {
                tracing::warn!(%error, "failed to look for mail to send");
                return false;
            }
        };
        match send(app, &mail).await {
            Ok(is_server_away) if is_server_away => return true,
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, mail = %mail.id, "failed to record what became of a mail");
                return false;
            }
        }
    }
}

/// Makes one attempt, and records it. Returns whether the server couldn't be used.
async fn send(app: &AppState, claimed: &ClaimedMail) -> Result<bool, StoreError> {
    let Some(mail) = &app.mail else { return Ok(false) };
    let sent = match message::of(app, mail.sender(), claimed).await? {
        Ok(message) => mail.send(message).await.map_err(|error| error.without(&claimed.recipient)),
        Err(reason) => Err(SendError::Permanent(reason)),
    };
    let (outcome, count, error, is_server_away) = match &sent {
        Ok(()) => {
            app.metrics.count_mail("sent");
            app.store.finish_mail(claimed, &MailOutcome::Sent).await?;
            return Ok(false);
        }
        Err(SendError::Server(error)) => {
            let at = now().saturating_add(SERVER_BACKOFF_MIN);
            (MailOutcome::Retry { at, error }, "retried", error, true)
        }
        Err(SendError::Temporary(error)) => {
            let times = u32::try_from(claimed.attempts.saturating_sub(1)).unwrap_or(0);
            let at = now().saturating_add(doubled(RETRY_BACKOFF_MIN, times, RETRY_BACKOFF_MAX));
            (MailOutcome::Retry { at, error }, "retried", error, false)
        }
        Err(SendError::Permanent(error)) => (MailOutcome::Failed { error }, "failed", error, false),
    };
    app.metrics.count_mail(count);
    // Neither the address nor the text.
    let (id, kind, attempts) = (&claimed.id, claimed.kind.as_str(), claimed.attempts);
    tracing::warn!(mail = %id, kind, attempts, outcome = count, error, "mail not sent");
    app.store.finish_mail(claimed, &outcome).await?;
    Ok(is_server_away)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_while_the_server_is_away() {
        let seconds: Vec<u64> = [0, 1, 2, 3, 7, 8, 100].map(|failures| pause(failures).as_secs()).into();
        assert_eq!(seconds, [5, 5, 10, 20, 300, 300, 300]);
        assert_eq!(doubled(RETRY_BACKOFF_MIN, u32::MAX, RETRY_BACKOFF_MAX), RETRY_BACKOFF_MAX);
    }
}
