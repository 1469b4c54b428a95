//! What a role's code is told about its process, and tells of it: when to stop, when to read files again, its health.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::health::Health;
use crate::listener::Listeners;
use crate::{Shutdown, Takeover};

/// The process that a role runs in. Cheap to clone; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Process {
    /// When to stop.
    pub shutdown: Shutdown,
    /// When to read files again.
    pub reload: Reload,
    /// What the role tells of its health.
    pub health: Health,
    /// The listening sockets that it was started with.
    pub listeners: Listeners,
    /// Who it takes over from, and who takes over from it.
    pub takeover: Takeover,
}

/// Tells tasks to read their files again. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reload(watch::Receiver<()>);

impl Default for Reload {
    /// One that is never requested.
    fn default() -> Self {
        Self(watch::channel(()).1)
    }
}

impl Reload {
    /// Creates one that every SIGHUP requests. From now on SIGHUP doesn't end the process.
    ///
    /// # Errors
    /// If the signal handler can't be installed.
    pub fn on_hangup(shutdown: &Shutdown) -> io::Result<Self> {
        let mut hangup = signal(SignalKind::hangup())?;
        let (request, requested) = watch::channel(());
        shutdown.spawn_until_stopped(async move {
            while hangup.recv().await.is_some() {
                tracing::info!("reloading on SIGHUP");
                request.send_replace(());
            }
        });
        Ok(Self(requested))
    }

    /// Waits for the next request.
    pub async fn requested(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
