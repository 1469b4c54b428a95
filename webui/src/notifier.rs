//! Looks for what there is to tell users, and adds it to the store. Several web UIs may look: the store adds each thing once.

use std::sync::Arc;
use std::time::Duration;

use daemon::Shutdown;
use store::{DetectedSource, StoreError};

use crate::state::AppState;

/// How often the store is asked.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// Batches of one source in a pass: what is left waits for the next pass.
const BATCHES_MAX: usize = 10;

/// Starts the task.
pub(crate) fn spawn(app: &Arc<AppState>, shutdown: &Shutdown) {
    shutdown.spawn_until_stopped(run(app.clone()));
}

async fn run(app: Arc<AppState>) {
    loop {
        for source in DetectedSource::ALL {
            if let Err(error) = detect(&app, source).await {
                tracing::warn!(%error, source = source.name(), "failed to look for what to tell users");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(POLL_INTERVAL) => {}
            () = app.detect_soon.notified() => {}
        }
    }
}

async fn detect(app: &AppState, source: DetectedSource) -> Result<(), StoreError> {
    let store = app.store.acting_as("webui");
    let limits = app.mail.as_ref().map(crate::mail::Mail::limits);
    for _ in 0..BATCHES_MAX {
        let detected = store.detect_notifications(source, limits).await?;
        for kind in &detected.added {
            app.metrics.count_notification(kind.name());
        }
        if !detected.added.is_empty() {
            app.deliver_soon.notify_one();
            if let Some(mail) = &app.mail {
                mail.send_soon();
            }
        }
        if !detected.has_more {
            break;
        }
    }
    Ok(())
}
