//! Loops that must make progress. Each marks that it does; one that hasn't for long is stuck.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Without a mark for this long, a loop no longer counts as making progress. Loops mark at least once a second.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(3);
/// Without a mark for this long, a loop is stuck, and `/healthz` says so.
const STUCK_AFTER: Duration = Duration::from_secs(10);
/// Interval of marks for loops that may have nothing to do.
const MARK_INTERVAL: Duration = Duration::from_secs(1);

/// A loop's handle: it marks its progress here. Dropped when the loop ends.
#[derive(Debug)]
pub struct Progress(Arc<Watched>);

#[derive(Debug)]
struct Watched {
    name: String,
    epoch: Instant,
    /// Milliseconds from `epoch` to the last mark.
    marked_at: AtomicU64,
}

/// The loops of a process.
#[derive(Debug, Default)]
pub(super) struct Loops(Mutex<Vec<Weak<Watched>>>);

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

impl Watched {
    fn age(&self) -> Duration {
        let marked_at = Duration::from_millis(self.marked_at.load(Ordering::Relaxed));
        self.epoch.elapsed().saturating_sub(marked_at)
    }
}

impl Loops {
    pub(super) fn watch(&self, name: String) -> Progress {
        let watched = Arc::new(Watched { name, epoch: Instant::now(), marked_at: AtomicU64::new(0) });
        let mut all = self.lock();
        all.retain(|watched| watched.strong_count() > 0);
        all.push(Arc::downgrade(&watched));
        Progress(watched)
    }

    pub(super) fn make_progress(&self) -> bool {
        self.lock().iter().filter_map(Weak::upgrade).all(|watched| watched.age() < PROGRESS_TIMEOUT)
    }

    /// Which loop is stuck, if one is.
    pub(super) fn stuck(&self) -> Option<String> {
        self.stuck_after(STUCK_AFTER)
    }

    fn stuck_after(&self, limit: Duration) -> Option<String> {
        let all = self.lock();
        let slowest = all.iter().filter_map(Weak::upgrade).max_by_key(|watched| watched.age())?;
        let age = slowest.age();
        (age > limit).then(|| format!("stuck: no progress in {} for {} s", slowest.name, age.as_secs()))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Watched>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        let limit = Duration::from_millis(20);
        while slow.0.age() <= limit {
            fast.mark();
            std::thread::yield_now();
        }
        let stuck = loops.stuck_after(limit).unwrap();
        assert!(stuck.starts_with("stuck: no progress in worker 0 for "), "{stuck}");
        drop(slow);
        fast.mark();
        assert_eq!(loops.stuck_after(limit), None);
        drop(fast);
        assert!(loops.make_progress() && loops.stuck_after(Duration::ZERO).is_none());
    }
}
