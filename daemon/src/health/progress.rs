//! Loops that must make progress. Each marks that it does; one that hasn't for long is stuck.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Without a mark for this long, a loop no longer counts as making progress. Loops mark at least once a second.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(3);
/// Without a mark for this long, a loop is stuck, and `/healthz` says so.
const STUCK_AFTER: Duration = Duration::from_secs(10);
/// Interval of marks for loops that may have nothing to do.
const MARK_INTERVAL: Duration = Duration::from_secs(1);

/// A loop's handle: it marks its progress here. Dropped when the loop ends. If it ends by a panic, nobody does its work any
/// more: it then counts as stuck.
#[derive(Debug)]
pub struct Progress(Arc<Watched>);

#[derive(Debug)]
struct Watched {
    name: String,
    epoch: Instant,
    /// Milliseconds from `epoch` to the last mark.
    marked_at: AtomicU64,
    /// It has ended as it should.
    is_finished: AtomicBool,
}

/// The loops of a process.
#[derive(Debug, Default)]
pub(super) struct Loops(Mutex<Vec<Arc<Watched>>>);

impl Progress {
    /// Marks progress.
    pub fn mark(&self) {
        self.0.marked_at.store(millis(self.0.epoch.elapsed()), Ordering::Relaxed);
    }

    /// Marks progress every second, for a task that waits for this beside its work.
    pub async fn mark_while_polled(&self) -> Infallible {
        let mut ticks = tokio::time::interval(MARK_INTERVAL);
        loop {
            ticks.tick().await;
            self.mark();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.is_finished.store(!std::thread::panicking(), Ordering::Relaxed);
    }
}

impl Watched {
    fn age(&self) -> Duration {
        let marked_at = Duration::from_millis(self.marked_at.load(Ordering::Relaxed));
        self.epoch.elapsed().saturating_sub(marked_at)
    }
}

impl Loops {
    pub(super) fn watch(&self, name: String) -> Progress {
        let (marked_at, is_finished) = (AtomicU64::new(0), AtomicBool::new(false));
        let watched = Arc::new(Watched { name, epoch: Instant::now(), marked_at, is_finished });
        self.running().push(watched.clone());
        Progress(watched)
    }

    pub(super) fn make_progress(&self) -> bool {
        self.running().iter().all(|watched| watched.age() < PROGRESS_TIMEOUT)
    }

    /// Which loop is stuck, if one is.
    pub(super) fn stuck(&self) -> Option<String> {
        self.stuck_after(STUCK_AFTER)
    }

    fn stuck_after(&self, limit: Duration) -> Option<String> {
        let all = self.running();
        let slowest = all.iter().max_by_key(|watched| watched.age())?;
        let age = slowest.age();
        (age > limit).then(|| format!("stuck: no progress in {} for {} s", slowest.name, age.as_secs()))
    }

    /// Those that haven't ended as they should.
    fn running(&self) -> MutexGuard<'_, Vec<Arc<Watched>>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|watched| !watched.is_finished.load(Ordering::Relaxed));
        all
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    // F-25.
    #[test]
    fn a_loop_without_marks_is_stuck_until_it_ends() {
        let loops = Loops::default();
        let (slow, fast) = (loops.watch("worker 0".into()), loops.watch("worker 1".into()));
        assert!(loops.make_progress() && loops.stuck().is_none());
        while slow.0.age() <= Duration::from_millis(20) {
            std::thread::yield_now();
        }
        fast.mark();
        let stuck = loops.stuck_after(Duration::from_millis(20)).unwrap();
        assert!(stuck.starts_with("stuck: no progress in worker 0 for "), "{stuck}");
        drop(slow);
        assert_eq!(loops.stuck(), None);
        drop(fast);
        assert!(loops.make_progress() && loops.stuck_after(Duration::ZERO).is_none());
    }

    // F-25.
    #[test]
    fn a_loop_that_panics_is_stuck() {
        let loops = Loops::default();
        let progress = loops.watch("worker 0".into());
        let panicked = std::thread::spawn(move || {
            progress.mark();
            panic!("a test");
        });
        assert!(panicked.join().is_err());
        let stuck = loops.stuck_after(Duration::ZERO).unwrap();
        assert!(stuck.starts_with("stuck: no progress in worker 0 for "), "{stuck}");
    }
}
