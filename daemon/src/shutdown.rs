//! Two-stage stop: first "take nothing new and finish", then, when the time is up, "leave now".

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A process's end of life: tokens to watch and the one place where its tasks are spawned.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    draining: CancellationToken,
    tasks: TaskTracker,
}

impl Shutdown {
    /// One that begins when somebody calls [`Shutdown::begin`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One that begins at SIGTERM or SIGINT.
    pub fn on_signals() -> io::Result<Self> {
        let shutdown = Self::new();
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let draining = shutdown.draining.clone();
        shutdown.spawn(async move {
            tokio::select! {
                _ = term.recv() => tracing::info!("stopping on SIGTERM"),
                _ = int.recv() => tracing::info!("stopping on SIGINT"),
                () = draining.cancelled() => {}
            }
            draining.cancel();
        });
        Ok(shutdown)
    }

    /// Begins the stop.
    pub fn begin(&self) {
        self.draining.cancel();
    }

    /// Whether the stop has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Waits until the stop begins.
    pub async fn begun(&self) {
        self.draining.cancelled().await;
    }

    /// The token that is cancelled when the stop begins, for what wants one.
    #[must_use]
    pub fn token(&self) -> &CancellationToken {
        &self.draining
    }

    /// Spawns a task that the stop waits for.
    pub fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn(task);
    }

    /// Waits until all tasks are done, `at_most` so long. Whether they all were.
    pub async fn finished(&self, at_most: Duration) -> bool {
        self.tasks.close();
        tokio::time::timeout(at_most, self.tasks.wait()).await.is_ok()
    }
}
