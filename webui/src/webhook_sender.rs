//! Sends notifications to webhooks. Several web UIs may do so: each delivery is claimed first. A receiver that is slow delays only
//! its own: the store gives out one delivery of a webhook, two of a user and six of a host, at a time, and those in turn.

use std::sync::Arc;
use std::time::Duration;

use daemon::Shutdown;
use store::{Cidr, ClaimedDelivery, DeliveryOutcome, DisabledReason, Finished, StoreError, Timestamp, now};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::state::AppState;
use crate::view::notification;
use crate::webhook::{Destinations, SendError, Signed, WebhookUrl};

/// How often the store is asked for deliveries that others have added, or that are due again.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// Time after which another process may send what this one claimed: longer than an attempt takes.
const LEASE: Duration = Duration::from_secs(60);
/// Deliveries that are made at the same time.
const AT_ONCE_MAX: usize = 16;
/// Those of them that webhooks may take whose last attempt failed, and which may keep a place until the time limit.
const FAILING_AT_ONCE_MAX: usize = 12;
/// Time that attempts have once the shutdown has begun.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// Time from each attempt to the next: after the last one a delivery is given up.
const RETRY_BACKOFF: [Duration; 7] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_mins(5),
    Duration::from_mins(30),
    Duration::from_hours(2),
    Duration::from_hours(8),
    Duration::from_hours(24),
];
/// A receiver that answers this wants no more.
const GONE: u16 = 410;

/// Starts the task, unless the operator wants no webhooks.
pub(crate) fn spawn(app: &Arc<AppState>, shutdown: &Shutdown) {
    if app.webhooks.is_some() {
        shutdown.spawn(run(app.clone(), shutdown.token().clone()));
    }
}

/// Sends until shutdown.
async fn run(app: Arc<AppState>, stop: CancellationToken) {
    let mut tasks = JoinSet::new();
    while !stop.is_cancelled() {
        if let Err(error) = claim_due(&app, &mut tasks).await {
            tracing::warn!(%error, "failed to look for webhooks to send to");
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(POLL_INTERVAL) => {}
            () = app.deliver_soon.notified() => {}
            Some(_) = tasks.join_next() => {}
        }
    }
    // What isn't finished by then is claimed again when its lease is over.
    let _ = tokio::time::timeout(STOP_TIMEOUT, async { while tasks.join_next().await.is_some() {} }).await;
}

/// Begins the deliveries that are due, as many as there may be.
async fn claim_due(app: &Arc<AppState>, tasks: &mut JoinSet<()>) -> Result<(), StoreError> {
    while tasks.try_join_next().is_some() {}
    let due = app.store.due_deliveries().await?;
    app.metrics.set_due_deliveries(due);
    if due == 0 {
        return Ok(());
    }
    while tasks.len() < AT_ONCE_MAX {
        let claimed = if tasks.len() < FAILING_AT_ONCE_MAX {
            app.store.claim_delivery(LEASE).await
        } else {
            app.store.claim_working_delivery(LEASE).await
        };
        match claimed {
            Ok(Some(claimed)) => {
                let app = app.clone();
                tasks.spawn(async move { deliver(&app, &claimed).await });
            }
            Ok(None) => break,
            // It isn't due again for a while.
            Err(StoreError::Corrupt(what)) => {
                tracing::error!(what, "skipping an invalid webhook in the store: restore a backup");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Makes one attempt, and records it.
async fn deliver(app: &AppState, claimed: &ClaimedDelivery) {
    let sent = match send(app, claimed).await {
        Ok(sent) => sent,
        // Tried again when the lease is over.
        Err(error) => {
            tracing::warn!(%error, delivery = %claimed.id, "failed to read where webhooks may lead");
            return;
        }
    };
    let text = match &sent {
        Ok(status) if (300..400).contains(status) => "redirects aren't followed".to_owned(),
        Ok(status) => format!("the receiver answered {status}"),
        Err(error) => error.to_string(),
    };
    let status = sent.ok();
    let outcome = outcome(status, &text, claimed.attempts, now());
    let count = match outcome {
        DeliveryOutcome::Delivered(_) => "delivered",
        DeliveryOutcome::Retry { .. } => "retried",
        DeliveryOutcome::Failed { .. } => "failed",
    };
    app.metrics.count_delivery(count);
    // Neither the address nor a word of the receiver's.
    tracing::debug!(delivery = %claimed.id, attempts = claimed.attempts, outcome = count, status, "webhook sent");
    if let Err(error) = record(app, claimed, &outcome, status).await {
        tracing::warn!(%error, delivery = %claimed.id, "failed to record what became of a delivery");
    }
}

async fn send(app: &AppState, claimed: &ClaimedDelivery) -> Result<Result<u16, SendError>, StoreError> {
    let Some(client) = &app.webhooks else { return Ok(Err(SendError::Url)) };
    let destinations = destinations(app).await?;
    let Ok(url) = WebhookUrl::parse(&claimed.webhook.url, &destinations) else {
        return Ok(Err(SendError::Url));
    };
    let body = notification::payload(&claimed.notification).to_string();
    let signed = Signed::new(&app.token_key, &claimed.webhook, &claimed.notification.id, &body, now());
    Ok(client.send(&url, &destinations, &signed, body).await)
}

/// Where webhooks may lead now. If private networks are allowed, those of caches are read, which are refused.
async fn destinations(app: &AppState) -> Result<Destinations, StoreError> {
    let allowed = Destinations::of(&app.config.webhooks);
    if !allowed.has_private() {
        return Ok(allowed);
    }
    let networks = app.store.networks().await?;
    let subnets: Option<Vec<Cidr>> = networks.iter().map(|network| network.subnet.parse().ok()).collect();
    Ok(allowed.without(subnets.ok_or(StoreError::Corrupt("network"))?))
}

/// What to do after an attempt.
fn outcome(status: Option<u16>, error: &str, attempts: i64, at: Timestamp) -> DeliveryOutcome<'_> {
    if let Some(status @ 200..300) = status {
        return DeliveryOutcome::Delivered(status);
    }
    let made = usize::try_from(attempts).unwrap_or(usize::MAX).max(1);
    match RETRY_BACKOFF.get(made - 1) {
        Some(wait) if status != Some(GONE) => {
            DeliveryOutcome::Retry { at: at.saturating_add(*wait), status, error }
        }
        _ => DeliveryOutcome::Failed { status, error },
    }
}

async fn record(
    app: &AppState,
    claimed: &ClaimedDelivery,
    outcome: &DeliveryOutcome<'_>,
    status: Option<u16>,
) -> Result<(), StoreError> {
    let finished = app.store.finish_delivery(claimed, outcome).await?;
    let reason = match finished {
        _ if status == Some(GONE) => DisabledReason::Gone,
        Finished::Disable => DisabledReason::Failing,
        Finished::Continue => return Ok(()),
    };
    let limits = app.mail.as_ref().map(crate::mail::Mail::limits);
    app.store.acting_as("webui").disable_webhook(&claimed.webhook.id, reason, limits).await?;
    app.deliver_soon.notify_one();
    if let Some(mail) = &app.mail {
        mail.send_soon();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    // W-30.
    #[test]
    fn failed_deliveries_are_tried_eight_times_in_a_day_and_a_half() {
        let at = Timestamp::from_millis(1_000_000);
        let waits: Vec<Option<u64>> = (1..=8)
            .map(|attempts| match outcome(Some(500), "x", attempts, at) {
                DeliveryOutcome::Retry { at: next, .. } => Some(next.since(at).as_secs()),
                _ => None,
            })
            .collect();
        let expected = [5, 30, 300, 1_800, 7_200, 28_800, 86_400];
        assert_eq!(waits, expected.map(Some).into_iter().chain([None]).collect::<Vec<_>>());
        for status in [200, 201, 204, 299] {
            assert!(matches!(outcome(Some(status), "x", 8, at), DeliveryOutcome::Delivered(_)), "{status}");
        }
        for status in [100, 199, 300, 301, 404, 500] {
            assert!(matches!(outcome(Some(status), "x", 1, at), DeliveryOutcome::Retry { .. }), "{status}");
        }
        assert!(matches!(outcome(None, "x", 1, at), DeliveryOutcome::Retry { .. }));
        assert!(matches!(outcome(Some(GONE), "x", 1, at), DeliveryOutcome::Failed { .. }));
    }
}
