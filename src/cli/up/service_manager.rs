//! Tells systemd (`Type=notify`) how `memgate up` is. Without systemd nothing happens.

use sd_notify::NotifyState;

/// Everything is ready.
pub(super) fn ready() {
    send(&[NotifyState::Ready, NotifyState::Status("ready")]);
}

/// The shutdown has begun.
pub(super) fn stopping() {
    send(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "failed to tell the service manager");
    }
}
