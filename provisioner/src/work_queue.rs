//! The queue of instances to reconcile: each id is in it once and never worked on twice at a time; after a
//! failure it waits, longer each time. No I/O; the caller passes the time.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

const RETRY_BACKOFF_MIN: Duration = Duration::from_millis(500);
/// While Docker answers quickly: once the cause is mended, a cache doesn't wait long.
const RETRY_BACKOFF_MAX: Duration = Duration::from_secs(10);
/// While it doesn't.
const BUSY_BACKOFF_MAX: Duration = Duration::from_secs(60);
/// All that wait are tried at once no more often than this.
const EXPEDITE_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(crate) struct WorkQueue {
    items: HashMap<String, Item>,
    /// Ids that are due, oldest first; each once.
    due: VecDeque<String>,
    /// Ids that wait after a failure, by the time of their retry: there may be any number of them.
    retries: BTreeSet<(Instant, String)>,
    expedited_at: Option<Instant>,
    docker_is_busy: bool,
}

/// How the work on an instance ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// It goes on after others' work.
    Unfinished,
    /// It failed.
    Failed,
    /// Something that all instances need failed, or is used up: that says nothing about the instance.
    Postponed,
}

#[derive(Debug, Default)]
struct Item {
    queued: bool,
    running: bool,
    /// Enqueued while it ran: it must run once more.
    rerun: bool,
    /// Failures in a row.
    failures: u32,
    /// Times in a row that it was postponed.
    postponements: u32,
    /// Set after a failure: it isn't due earlier.
    retry_at: Option<Instant>,
}

impl WorkQueue {
    /// Enqueues an id. One that waits after a failure of its own keeps waiting.
    pub(crate) fn enqueue(&mut self, id: &str) {
        let item = self.items.entry(id.to_owned()).or_default();
        if item.postponements > 0
            && let Some(at) = item.retry_at.take()
        {
            self.retries.remove(&(at, id.to_owned()));
        }
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
            if let Some(at) = item.retry_at.take() {
                self.retries.remove(&(at, id.to_owned()));
            }
        }
        self.enqueue(id);
    }

    /// Tries all that wait after a failure at once: its cause may be mended.
    pub(crate) fn expedite(&mut self, now: Instant) {
        let last = self.expedited_at.map_or(now, |last| now.max(last + EXPEDITE_INTERVAL));
        self.expedited_at = Some(last);
        let later = self.retries.split_off(&(last, String::new()));
        for (_, id) in later {
            self.retry_at(&id, last);
        }
    }

    /// Says whether Docker answers slowly, so that retries are fewer.
    pub(crate) fn set_docker_busy(&mut self, busy: bool) {
        self.docker_is_busy = busy;
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

    /// Ends the work on an id.
    pub(crate) fn finish(&mut self, id: &str, outcome: Outcome, now: Instant) {
        let limit = if self.docker_is_busy { BUSY_BACKOFF_MAX } else { RETRY_BACKOFF_MAX };
        let Some(item) = self.items.get_mut(id) else { return };
        item.running = false;
        let rerun = std::mem::take(&mut item.rerun);
        let backoff = match outcome {
            Outcome::Done if !rerun => {
                self.items.remove(id);
                return;
            }
            Outcome::Done | Outcome::Unfinished => {
                (item.failures, item.postponements) = (0, 0);
                return self.enqueue(id);
            }
            Outcome::Failed => {
                item.failures = item.failures.saturating_add(1);
                item.postponements = 0;
                retry_backoff(item.failures)
            }
            Outcome::Postponed => {
                item.postponements = item.postponements.saturating_add(1);
                retry_backoff(item.postponements.saturating_add(1))
            }
        };
        self.retry_at(id, now + backoff.min(limit));
    }

    /// When the next retry is due.
    pub(crate) fn next_retry(&self) -> Option<Instant> {
        self.retries.first().map(|(at, _)| *at)
    }

    fn retry_at(&mut self, id: &str, at: Instant) {
        if let Some(item) = self.items.get_mut(id) {
            item.retry_at = Some(at);
            self.retries.insert((at, id.to_owned()));
        }
    }

    fn enqueue_retries(&mut self, now: Instant) {
        while self.next_retry().is_some_and(|at| at <= now) {
            let Some((_, id)) = self.retries.pop_first() else { return };
            if let Some(item) = self.items.get_mut(&id) {
                item.retry_at = None;
                item.queued = true;
                self.due.push_back(id);
            }
        }
    }
}

/// None after the first failure, then half a second, doubled up to a limit.
fn retry_backoff(failures: u32) -> Duration {
    match failures {
        0 | 1 => Duration::ZERO,
        n => RETRY_BACKOFF_MIN.saturating_mul(1 << (n - 2).min(10)).min(BUSY_BACKOFF_MAX),
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
        queue.finish("b", Outcome::Done, now);
        queue.finish("a", Outcome::Done, now);
        assert_eq!(queue.take(now), Some(("a".into(), 0)), "enqueued while it ran");
        queue.finish("a", Outcome::Done, now);
        assert!(queue.take(now).is_none() && queue.items.is_empty(), "nothing is kept of a success");
    }

    #[test]
    fn backoff_grows_and_a_change_resets_it() {
        let (mut queue, mut now) = (WorkQueue::default(), Instant::now());
        queue.enqueue("a");
        for (failures, millis) in [(0, 0), (1, 500), (2, 1_000), (3, 2_000)] {
            assert_eq!(queue.take(now), Some(("a".into(), failures)));
            queue.finish("a", Outcome::Failed, now);
            assert_eq!(queue.next_retry(), Some(now + Duration::from_millis(millis)));
            queue.enqueue("a");
            if millis > 0 {
                assert_eq!(queue.take(now), None, "an event doesn't shorten the backoff");
            }
            now += Duration::from_millis(millis);
        }
        assert_eq!(retry_backoff(100), BUSY_BACKOFF_MAX);
        queue.enqueue_reset("a");
        assert_eq!(queue.take(now), Some(("a".into(), 0)));
    }

    // F-34.
    #[test]
    fn what_is_postponed_has_not_failed() {
        let (mut queue, mut now) = (WorkQueue::default(), Instant::now());
        queue.enqueue("a");
        for millis in [500, 1_000, 2_000] {
            assert_eq!(queue.take(now), Some(("a".into(), 0)));
            queue.finish("a", Outcome::Postponed, now);
            now += Duration::from_millis(millis);
            assert_eq!(queue.next_retry(), Some(now));
        }
        assert_eq!(queue.take(now), Some(("a".into(), 0)));
        queue.finish("a", Outcome::Postponed, now);
        queue.enqueue("a");
        assert_eq!(queue.take(now), Some(("a".into(), 0)), "an event is looked at");
        queue.finish("a", Outcome::Failed, now);
        assert_eq!(queue.take(now), Some(("a".into(), 1)));
        queue.finish("a", Outcome::Postponed, now);
        assert_eq!(queue.take(now + Duration::from_secs(1)), Some(("a".into(), 1)));
    }

    #[test]
    fn retries_come_soon_and_sooner_once_the_cause_may_be_mended() {
        let (mut queue, now) = (WorkQueue::default(), Instant::now());
        let fail = |queue: &mut WorkQueue, now| {
            queue.enqueue_reset("a");
            let mut at = now;
            for _ in 0..30 {
                queue.take(at);
                queue.finish("a", Outcome::Failed, at);
                at = queue.next_retry().unwrap();
            }
            at
        };
        let retry = fail(&mut queue, now);
        assert!(retry - now < Duration::from_secs(10 * 30));
        let before = retry - RETRY_BACKOFF_MAX;
        queue.expedite(before);
        assert_eq!(queue.next_retry(), Some(before));
        queue.take(before);
        queue.finish("a", Outcome::Failed, before);
        queue.expedite(before);
        assert_eq!(queue.next_retry(), Some(before + EXPEDITE_INTERVAL), "no storm of retries");
        queue.set_docker_busy(true);
        let retry = fail(&mut queue, before);
        queue.expedite(retry - BUSY_BACKOFF_MAX + Duration::from_secs(15));
        assert!(queue.next_retry().unwrap() < retry, "it waited longer than 10 s");
    }

    #[test]
    fn a_reset_while_it_runs_counts_from_the_new_failure() {
        let (mut queue, now) = (WorkQueue::default(), Instant::now());
        queue.enqueue("a");
        queue.take(now);
        queue.enqueue_reset("a");
        queue.finish("a", Outcome::Failed, now);
        assert_eq!(queue.take(now), Some(("a".into(), 1)));
    }

    //
    #[test]
    fn what_is_unfinished_goes_on_after_others() {
        let (mut queue, now) = (WorkQueue::default(), Instant::now());
        queue.enqueue("a");
        assert_eq!(queue.take(now), Some(("a".into(), 0)));
        queue.enqueue("b");
        queue.finish("a", Outcome::Unfinished, now);
        assert_eq!(queue.take(now), Some(("b".into(), 0)));
        assert_eq!(queue.take(now), Some(("a".into(), 0)));
        queue.finish("a", Outcome::Done, now);
        assert_eq!(queue.take(now), None);
    }

    // however many wait, none is lost, and each is tried once when it is due.
    #[test]
    fn all_that_wait_are_tried_when_they_are_due() {
        let (mut queue, mut now, count) = (WorkQueue::default(), Instant::now(), 20_000);
        for number in 0..count {
            queue.enqueue(&number.to_string());
        }
        for outcome in [Outcome::Failed, Outcome::Postponed, Outcome::Failed] {
            let mut taken = Vec::new();
            while let Some((id, _)) = queue.take(now) {
                queue.finish(&id, outcome, now);
                taken.push(id);
            }
            taken.sort_unstable();
            taken.dedup();
            assert_eq!((taken.len(), queue.retries.len()), (count, count));
            now = queue.retries.last().unwrap().0;
        }
        // One that is enqueued meanwhile isn't tried twice.
        queue.expedite(now);
        queue.enqueue_reset("7");
        assert_eq!(queue.retries.len(), count - 1);
    }
}
