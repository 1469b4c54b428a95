//! Shutdown in two stages: first tasks are told to finish, then, after a time limit, they are abandoned.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Tells a process's tasks to stop, and waits for them. All tasks are spawned here. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    draining: CancellationToken,
    tasks: TaskTracker,
}

impl Shutdown {
    /// Creates a shutdown that begins when [`Shutdown::begin`] is called.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a shutdown that begins on SIGTERM or SIGINT. The log names the process by `name`.
    ///
    /// # Errors
    /// If the signal handlers can't be installed.
    pub fn on_signals(name: &'static str) -> io::Result<Self> {
        let shutdown = Self::new();
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let draining = shutdown.draining.clone();
        shutdown.spawn(async move {
            tokio::select! {
                _ = term.recv() => tracing::info!("{name} stops on SIGTERM"),
                _ = int.recv() => tracing::info!("{name} stops on SIGINT"),
                () = draining.cancelled() => {}
            }
            draining.cancel();
        });
        Ok(shutdown)
    }

    /// Begins the shutdown.
    pub fn begin(&self) {
        self.draining.cancel();
    }

    /// Whether the shutdown has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Waits until the shutdown begins.
    pub async fn begun(&self) {
        self.draining.cancelled().await;
    }

    /// Returns the token that is cancelled when the shutdown begins, for libraries that take one.
    #[must_use]
    pub fn token(&self) -> &CancellationToken {
        &self.draining
    }

    /// Spawns a task that the shutdown waits for. The task must watch for the shutdown itself.
    pub fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn(task);
    }

    /// Spawns a task that is dropped, at whatever it awaits, when the shutdown begins.
    pub fn spawn_until_stopped<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = self.draining.clone();
        self.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Returns ticks until the shutdown begins, for a loop that works at an interval:
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use daemon::Shutdown;
    /// # async fn poll() {}
    /// fn start(shutdown: &Shutdown) {
    ///     let mut ticks = shutdown.every(Duration::from_secs(1));
    ///     shutdown.spawn(async move {
    ///         while ticks.next().await {
    ///             poll().await;
    ///         }
    ///     });
    /// }
    /// ```
    #[must_use]
    pub fn every(&self, period: Duration) -> Ticks {
        Ticks { stop: self.draining.clone(), period, interval: None }
    }

    /// Waits until all tasks have ended, for `timeout` at most. Returns whether they all have.
    pub async fn finished(&self, timeout: Duration) -> bool {
        self.tasks.close();
        tokio::time::timeout(timeout, self.tasks.wait()).await.is_ok()
    }
}

/// Ticks at an interval until the shutdown begins. Made by [`Shutdown::every`].
#[derive(Debug)]
pub struct Ticks {
    stop: CancellationToken,
    period: Duration,
    /// Made at the first tick, which needs a runtime.
    interval: Option<Interval>,
}

impl Ticks {
    /// Waits for the next tick; the first comes at once. `false` when the shutdown has begun.
    ///
    /// A tick that is missed because the work took longer is skipped: the next one comes a whole period later.
    pub async fn next(&mut self) -> bool {
        let interval = self.interval.get_or_insert_with(|| {
            let mut interval = interval(self.period);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        });
        tokio::select! {
            biased;
            () = self.stop.cancelled() => false,
            _ = interval.tick() => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ticks_end_when_the_shutdown_begins() {
        let shutdown = Shutdown::new();
        let mut ticks = shutdown.every(Duration::from_millis(1));
        assert!(ticks.next().await && ticks.next().await);
        shutdown.begin();
        assert!(!ticks.next().await);
    }

    #[tokio::test]
    async fn tasks_until_stopped_end_when_the_shutdown_begins() {
        let shutdown = Shutdown::new();
        shutdown.spawn_until_stopped(std::future::pending());
        assert!(!shutdown.finished(Duration::from_millis(10)).await);
        shutdown.begin();
        assert!(shutdown.finished(Duration::from_secs(5)).await);
    }
}
