//! Which instances want attention: each once, never two pieces of work on one at a time, and what fails
//! waits longer each time. No I/O; the clock is the caller's.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(crate) struct Queue {
    slots: HashMap<String, Slot>,
    /// In the order of asking; an id is in it once.
    due: VecDeque<String>,
}

#[derive(Debug, Default)]
struct Slot {
    queued: bool,
    running: bool,
    /// Asked for while it ran: it has to run once more.
    again: bool,
    strikes: u32,
    /// It has failed: not before this.
    retry_at: Option<Instant>,
}

impl Queue {
    /// Asks for attention. What is waiting after a failure goes on waiting.
    pub(crate) fn push(&mut self, id: &str) {
        let slot = self.slots.entry(id.to_owned()).or_default();
        if slot.running {
            slot.again = true;
        } else if !slot.queued && slot.retry_at.is_none() {
            slot.queued = true;
            self.due.push_back(id.to_owned());
        }
    }

    /// What is wanted has changed: earlier failures say nothing any more.
    pub(crate) fn push_afresh(&mut self, id: &str) {
        if let Some(slot) = self.slots.get_mut(id) {
            slot.strikes = 0;
            slot.retry_at = None;
        }
        self.push(id);
    }

    /// The next one to work on, and how often in a row it has failed. Call [`Queue::done`] after it.
    pub(crate) fn take(&mut self, now: Instant) -> Option<(String, u32)> {
        self.wake(now);
        let id = self.due.pop_front()?;
        let slot = self.slots.entry(id.clone()).or_default();
        slot.queued = false;
        slot.running = true;
        Some((id, slot.strikes))
    }

    /// The work is done, well or not.
    pub(crate) fn done(&mut self, id: &str, well: bool, now: Instant) {
        let Some(slot) = self.slots.get_mut(id) else { return };
        slot.running = false;
        slot.strikes = if well { 0 } else { slot.strikes.saturating_add(1) };
        let again = std::mem::take(&mut slot.again);
        if !well {
            slot.retry_at = Some(now + wait(slot.strikes));
        } else if again {
            self.push(id);
        } else {
            self.slots.remove(id);
        }
    }

    /// When the next failed one may be tried again.
    pub(crate) fn next_retry(&self) -> Option<Instant> {
        self.slots.values().filter_map(|slot| slot.retry_at).min()
    }

    fn wake(&mut self, now: Instant) {
        for (id, slot) in &mut self.slots {
            if slot.retry_at.is_some_and(|at| at <= now) {
                slot.retry_at = None;
                slot.queued = true;
                self.due.push_back(id.clone());
            }
        }
    }
}

/// At once, then half a second, doubling up to a minute.
fn wait(strikes: u32) -> Duration {
    match strikes {
        0 | 1 => Duration::ZERO,
        n => FIRST_WAIT.saturating_mul(1 << (n - 2).min(10)).min(LONGEST_WAIT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_each_in_order_and_never_two_at_a_time() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for id in ["a", "b", "a"] {
            queue.push(id);
        }
        assert_eq!(queue.take(now), Some(("a".into(), 0)));
        queue.push("a");
        assert_eq!(queue.take(now), Some(("b".into(), 0)));
        assert_eq!(queue.take(now), None, "a runs");
        queue.done("b", true, now);
        queue.done("a", true, now);
        assert_eq!(queue.take(now), Some(("a".into(), 0)), "asked for while it ran");
        queue.done("a", true, now);
        assert!(queue.take(now).is_none() && queue.slots.is_empty(), "nothing is kept of what went well");
    }

    #[test]
    fn failures_wait_longer_and_a_change_forgives() {
        let (mut queue, mut now) = (Queue::default(), Instant::now());
        queue.push("a");
        for (strikes, millis) in [(0, 0), (1, 500), (2, 1_000), (3, 2_000)] {
            assert_eq!(queue.take(now), Some(("a".into(), strikes)));
            queue.done("a", false, now);
            assert_eq!(queue.next_retry(), Some(now + Duration::from_millis(millis)));
            queue.push("a");
            if millis > 0 {
                assert_eq!(queue.take(now), None, "an event doesn't shorten the wait");
            }
            now += Duration::from_millis(millis);
        }
        assert_eq!(wait(100), LONGEST_WAIT);
        queue.push_afresh("a");
        assert_eq!(queue.take(now), Some(("a".into(), 0)));
    }

    #[test]
    fn forgiven_while_it_runs() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.push("a");
        queue.take(now);
        queue.push_afresh("a");
        queue.done("a", false, now);
        assert_eq!(queue.take(now), Some(("a".into(), 1)));
    }
}
