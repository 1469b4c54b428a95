//! The queue of instances to reconcile: each id is in it once and never worked on twice at a time; after a
//! failure it waits, longer each time. No I/O; the caller passes the time.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

const RETRY_BACKOFF_MIN: Duration = Duration::from_millis(500);
const RETRY_BACKOFF_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(crate) struct WorkQueue {
    items: HashMap<String, Item>,
    /// Ids that are due, oldest first; each once.
    due: VecDeque<String>,
}

#[derive(Debug, Default)]
struct Item {
    queued: bool,
    running: bool,
    /// Enqueued while it ran: it must run once more.
    rerun: bool,
    /// Failures in a row.
    failures: u32,
    /// Set after a failure: it isn't due earlier.
    retry_at: Option<Instant>,
}

impl WorkQueue {
    /// Enqueues an id. One that waits after a failure keeps waiting.
    pub(crate) fn enqueue(&mut self, id: &str) {
        let item = self.items.entry(id.to_owned()).or_default();
        if item.running {
            item.rerun = true;
        } else if !item.queued && item.retry_at.is_none() {
            item.queued = true;
            self.due.push_back(id.to_owned());
        }
    }

    /// Enqueues an id and forgets its failures: its desired state has changed.
    pub(crate) fn enqueue_reset(&mut self, id: &str) {
        if let Some(item) = self.items.get_mut(id) {
            item.failures = 0;
            item.retry_at = None;
        }
        self.enqueue(id);
    }

    /// Takes the next id that is due, with its failures in a row. Call [`WorkQueue::finish`] afterwards.
    pub(crate) fn take(&mut self, now: Instant) -> Option<(String, u32)> {
        self.enqueue_retries(now);
        let id = self.due.pop_front()?;
        let item = self.items.entry(id.clone()).or_default();
        item.queued = false;
        item.running = true;
        Some((id, item.failures))
    }

    /// Ends the work on an id, whether it succeeded (`ok`) or failed.
    pub(crate) fn finish(&mut self, id: &str, ok: bool, now: Instant) {
        let Some(item) = self.items.get_mut(id) else { return };
        item.running = false;
        item.failures = if ok { 0 } else { item.failures.saturating_add(1) };
        let rerun = std::mem::take(&mut item.rerun);
        if !ok {
            item.retry_at = Some(now + retry_backoff(item.failures));
        } else if rerun {
            self.enqueue(id);
        } else {
            self.items.remove(id);
        }
    }

    /// When the next retry is due.
    pub(crate) fn next_retry(&self) -> Option<Instant> {
        self.items.values().filter_map(|item| item.retry_at).min()
    }

    fn enqueue_retries(&mut self, now: Instant) {
        for (id, item) in &mut self.items {
            if item.retry_at.is_some_and(|at| at <= now) {
                item.retry_at = None;
                item.queued = true;
                self.due.push_back(id.clone());
            }
        }
    }
}

/// None after the first failure, then half a second, doubled up to a minute.
fn retry_backoff(failures: u32) -> Duration {
    match failures {
        0 | 1 => Duration::ZERO,
        n => RETRY_BACKOFF_MIN.saturating_mul(1 << (n - 2).min(10)).min(RETRY_BACKOFF_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_id_runs_once_in_order_and_never_twice_at_a_time() {
        let (mut queue, now) = (WorkQueue::default(), Instant::now());
        for id in ["a", "b", "a"] {
            queue.enqueue(id);
        }
        assert_eq!(queue.take(now), Some(("a".into(), 0)));
        queue.enqueue("a");
        assert_eq!(queue.take(now), Some(("b".into(), 0)));
        assert_eq!(queue.take(now), None, "a runs");
        queue.finish("b", true, now);
        queue.finish("a", true, now);
        assert_eq!(queue.take(now), Some(("a".into(), 0)), "enqueued while it ran");
        queue.finish("a", true, now);
        assert!(queue.take(now).is_none() && queue.items.is_empty(), "nothing is kept of a success");
    }

    #[test]
    fn backoff_grows_and_a_change_resets_it() {
        let (mut queue, mut now) = (WorkQueue::default(), Instant::now());
        queue.enqueue("a");
        for (failures, millis) in [(0, 0), (1, 500), (2, 1_000), (3, 2_000)] {
            assert_eq!(queue.take(now), Some(("a".into(), failures)));
            queue.finish("a", false, now);
            assert_eq!(queue.next_retry(), Some(now + Duration::from_millis(millis)));
            queue.enqueue("a");
            if millis > 0 {
                assert_eq!(queue.take(now), None, "an event doesn't shorten the backoff");
            }
            now += Duration::from_millis(millis);
        }
        assert_eq!(retry_backoff(100), RETRY_BACKOFF_MAX);
        queue.enqueue_reset("a");
        assert_eq!(queue.take(now), Some(("a".into(), 0)));
    }

    #[test]
    fn a_reset_while_it_runs_counts_from_the_new_failure() {
        let (mut queue, now) = (WorkQueue::default(), Instant::now());
        queue.enqueue("a");
        queue.take(now);
        queue.enqueue_reset("a");
        queue.finish("a", false, now);
        assert_eq!(queue.take(now), Some(("a".into(), 1)));
    }
}
