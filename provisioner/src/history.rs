//! The record of repairs: each leaves a log line, a count by cause, and an event in the store, which is written later if
//! the store is away.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use daemon::metrics::CounterBy;
use store::{EventAction, EventCause, NewInstanceEvent, Store, Timestamp, now};
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::docker::Change;
use crate::plan::Repair;

/// Events that wait for the store; beyond it the oldest are dropped.
const UNSAVED_MAX: usize = 10_000;
/// Events that are written at a time.
const BATCH_MAX: usize = 100;
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// Time after a signal from which a container's end has another reason.
const SIGNAL_VALID: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct History {
    repairs: CounterBy,
    /// Repairs that have begun, by instance.
    open: Mutex<HashMap<String, Open>>,
    /// What Docker told of containers since they were last repaired.
    ends: Mutex<HashMap<String, End>>,
    unsaved: Mutex<VecDeque<NewInstanceEvent>>,
    added: Notify,
}

#[derive(Debug, Clone, Default)]
struct Open {
    /// `None` if nothing was repaired yet.
    repair: Option<Repair>,
    detail: String,
    failure_recorded: bool,
}

/// How a container ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End {
    signalled_at: Timestamp,
    pub(crate) out_of_memory: bool,
    /// The exit code, once it has ended.
    pub(crate) exit_code: Option<i64>,
    /// Whether someone had asked Docker to stop it when it ended.
    pub(crate) was_signalled: bool,
    /// An end before this time is repaired.
    repaired_at: Timestamp,
    /// Whether that end was a stop on purpose, after which nothing is to be repaired.
    was_stopped: bool,
}

impl Default for End {
    fn default() -> Self {
        let never = Timestamp::EPOCH;
        Self {
            signalled_at: never,
            out_of_memory: false,
            exit_code: None,
            was_signalled: false,
            repaired_at: never,
            was_stopped: false,
        }
    }
}

impl History {
    pub(crate) fn new(repairs: CounterBy) -> Self {
        Self {
            repairs,
            open: Mutex::default(),
            ends: Mutex::default(),
            unsaved: Mutex::default(),
            added: Notify::new(),
        }
    }

    /// Notes what Docker says of a container.
    pub(crate) fn note(&self, container: &str, change: Change) {
        let mut ends = lock(&self.ends);
        let end = ends.entry(container.to_owned()).or_default();
        match change {
            Change::Signalled => end.signalled_at = now(),
            Change::OutOfMemory => end.out_of_memory = true,
            Change::Died { exit_code, at } if at > end.repaired_at => {
                end.exit_code = Some(exit_code);
                end.was_signalled = at.since(end.signalled_at) < SIGNAL_VALID;
                end.was_stopped = false;
            }
            Change::Died { .. } | Change::Other => {}
        }
    }

    /// Notes that the provisioner has stopped a container that isn't to run.
    pub(crate) fn note_stopped(&self, container: &str) {
        let end = End { repaired_at: now(), was_stopped: true, ..End::default() };
        lock(&self.ends).insert(container.to_owned(), end);
    }

    /// Whether a container was stopped on purpose, and hasn't run since.
    pub(crate) fn was_stopped(&self, container: &str) -> bool {
        lock(&self.ends).get(container).is_some_and(|end| end.was_stopped)
    }

    /// How a container ended, if Docker told, and it wasn't repaired since.
    pub(crate) fn end_of(&self, container: &str) -> Option<End> {
        lock(&self.ends).get(container).copied().filter(|end| end.exit_code.is_some() || end.out_of_memory)
    }

    pub(crate) fn has_begun(&self, instance: &str) -> bool {
        lock(&self.open).get(instance).is_some_and(|begun| begun.repair.is_some())
    }

    /// Begins a repair. The first cause is kept until the repair is complete.
    pub(crate) fn begin(&self, instance: &str, repair: Repair, detail: String) {
        let mut open = lock(&self.open);
        let begun = open.entry(instance.to_owned()).or_default();
        let first = begun.repair.unwrap_or(repair);
        let contents_lost = first.contents_lost || repair.contents_lost;
        begun.repair = Some(Repair { cause: first.cause, action: repair.action, contents_lost });
        if begun.detail.is_empty() {
            begun.detail = detail;
        }
    }

    /// Begins a repair, or corrects the cause of one that has begun, which says already what becomes of the contents.
    pub(crate) fn begin_for(&self, instance: &str, cause: EventCause, detail: String, contents_lost: bool) {
        let mut open = lock(&self.open);
        let begun = open.entry(instance.to_owned()).or_default();
        let contents_lost = begun.repair.map_or(contents_lost, |repair| repair.contents_lost);
        let repair = Repair { cause, action: EventAction::Replaced, contents_lost };
        (begun.repair, begun.detail) = (Some(repair), detail);
    }

    /// Notes that the contents are lost after all, if a repair has begun.
    pub(crate) fn lose_contents(&self, instance: &str) {
        if let Some(repair) = lock(&self.open).get_mut(instance).and_then(|begun| begun.repair.as_mut()) {
            repair.contents_lost = true;
        }
    }

    /// Records that an instance's container answers, so that a repair that has begun is complete.
    pub(crate) fn complete(&self, instance: &str, container: &str) {
        lock(&self.ends).insert(container.to_owned(), End { repaired_at: now(), ..End::default() });
        let begun = lock(&self.open).remove(instance);
        if let Some(Open { repair: Some(repair), detail, .. }) = begun {
            self.record(instance, repair, detail);
        }
    }

    /// Records, once, that a repair has failed several times.
    pub(crate) fn fail(&self, instance: &str, cause: EventCause, detail: &str) {
        let repair = {
            let mut open = lock(&self.open);
            let begun = open.entry(instance.to_owned()).or_default();
            if std::mem::replace(&mut begun.failure_recorded, true) {
                return;
            }
            let cause = begun.repair.map_or(cause, |repair| repair.cause);
            Repair { cause, action: EventAction::Failed, contents_lost: false }
        };
        self.record(instance, repair, detail.to_owned());
    }

    /// Records a repair that is complete.
    pub(crate) fn record(&self, instance: &str, repair: Repair, detail: String) {
        let Repair { cause, action, contents_lost } = repair;
        if action != EventAction::Failed {
            self.repairs.inc(cause.as_str());
        }
        let contents = if contents_lost { "lost" } else { "kept" };
        tracing::warn!(
            instance,
            cause = cause.as_str(),
            contents,
            detail,
            "{}: {}",
            cause.text(),
            action.text()
        );
        let mut unsaved = lock(&self.unsaved);
        if unsaved.len() >= UNSAVED_MAX {
            unsaved.pop_front();
        }
        let (instance_id, at) = (instance.to_owned(), now());
        unsaved.push_back(NewInstanceEvent { instance_id, cause, action, contents_lost, detail, at });
        self.added.notify_one();
    }

    /// Forgets repairs of an instance that isn't to run.
    pub(crate) fn discard(&self, instance: &str) {
        lock(&self.open).remove(instance);
    }

    /// Forgets instances and containers that exist no more.
    pub(crate) fn retain(&self, instances: &HashSet<String>, containers: &HashSet<&str>) {
        lock(&self.open).retain(|instance, _| instances.contains(instance));
        lock(&self.ends).retain(|container, _| containers.contains(container.as_str()));
    }

    /// Writes events to the store until it is dropped.
    pub(crate) async fn save(&self, store: &Store) {
        loop {
            let batch = self.batch();
            if batch.is_empty() {
                self.added.notified().await;
                continue;
            }
            match store.add_instance_events(&batch).await {
                Ok(()) => self.forget(&batch),
                Err(error) => {
                    tracing::debug!(%error, "events wait for the store");
                    sleep(RETRY_INTERVAL).await;
                }
            }
        }
    }

    /// Writes what is left, up to the first failure.
    pub(crate) async fn save_rest(&self, store: &Store) {
        loop {
            let batch = self.batch();
            if batch.is_empty() || store.add_instance_events(&batch).await.is_err() {
                return;
            }
            self.forget(&batch);
        }
    }

    fn batch(&self) -> Vec<NewInstanceEvent> {
        lock(&self.unsaved).iter().take(BATCH_MAX).cloned().collect()
    }

    /// Removes saved events, unless they were dropped meanwhile.
    fn forget(&self, saved: &[NewInstanceEvent]) {
        let mut unsaved = lock(&self.unsaved);
        for event in saved {
            if unsaved.front() == Some(event) {
                unsaved.pop_front();
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    fn new_history() -> History {
        let causes = EventCause::ALL.iter().map(|cause| cause.as_str());
        History::new(CounterBy::register(&mut Registry::default(), "repairs", "Repairs", "cause", causes))
    }

    fn events(history: &History) -> Vec<(EventCause, EventAction, bool)> {
        let unsaved = lock(&history.unsaved);
        unsaved.iter().map(|it| (it.cause, it.action, it.contents_lost)).collect()
    }

    // F-33.
    #[test]
    fn a_repair_in_several_attempts_is_one_event_with_the_first_cause() {
        use EventAction::{Failed, Replaced, Started, Unpaused};
        let history = new_history();
        let repair = |cause, action, contents_lost| Repair { cause, action, contents_lost };
        history.begin("one", repair(EventCause::Paused, Unpaused, false), "exit".into());
        history.begin("one", repair(EventCause::Removed, Replaced, true), String::new());
        history.fail("one", EventCause::NotStarted, "no");
        history.fail("one", EventCause::NotStarted, "no");
        history.complete("one", "c1");
        history.complete("one", "c1");
        history.begin("two", repair(EventCause::Stopped, Started, true), String::new());
        history.begin_for("two", EventCause::AddressTaken, "red".into(), true);
        history.complete("two", "c2");
        history.fail("three", EventCause::NotStarted, "no");
        history.complete("three", "c3");
        assert_eq!(
            events(&history),
            [
                (EventCause::Paused, Failed, false),
                (EventCause::Paused, Replaced, true),
                (EventCause::AddressTaken, Replaced, true),
                (EventCause::NotStarted, Failed, false),
            ]
        );
        let count = |cause| history.repairs.get(cause);
        assert_eq!((count("paused"), count("address_taken"), count("removed")), (1, 1, 0));
    }

    // F-33.
    #[test]
    fn a_corrected_cause_says_no_more_of_the_contents() {
        use EventAction::{Reattached, Replaced};
        let history = new_history();
        for (begun, contents_lost, loses, expected) in [
            // A warm cache's next container, whose contents a holder has.
            (Some((EventCause::Stopped, Replaced, false)), false, false, false),
            (Some((EventCause::Stopped, Replaced, false)), true, false, false),
            (Some((EventCause::Stopped, Replaced, true)), false, false, true),
            (None, false, false, false),
            (None, true, false, true),
            // One that ran and is removed.
            (Some((EventCause::Disconnected, Reattached, false)), false, true, true),
        ] {
            if let Some((cause, action, contents_lost)) = begun {
                history.begin("one", Repair { cause, action, contents_lost }, String::new());
            }
            history.begin_for("one", EventCause::AddressTaken, "red".into(), contents_lost);
            if loses {
                history.lose_contents("one");
            }
            history.complete("one", "c1");
            let recorded = events(&history).pop();
            assert_eq!(recorded, Some((EventCause::AddressTaken, Replaced, expected)), "{begun:?}");
        }
    }

    // F-33.
    #[test]
    fn a_signal_counts_at_the_time_of_the_end() {
        let history = new_history();
        let after = |seconds: i64| Timestamp::from_millis(now().as_millis() + seconds * 1_000);
        let end = |seconds| {
            history.note("c1", Change::Signalled);
            history.note("c1", Change::Died { exit_code: 0, at: after(seconds) });
            history.end_of("c1").unwrap()
        };
        assert!(end(1).was_signalled);
        // Looked at later.
        lock(&history.ends).get_mut("c1").unwrap().signalled_at = Timestamp::EPOCH;
        assert!(history.end_of("c1").unwrap().was_signalled);
        assert!(!end(61).was_signalled);
    }

    // F-33.
    #[test]
    fn a_stop_on_purpose_is_no_end_to_repair() {
        let history = new_history();
        let early = Change::Died { exit_code: 0, at: now() };
        history.note("c1", Change::Signalled);
        history.note("c1", early);
        history.note_stopped("c1");
        assert!(history.was_stopped("c1") && history.end_of("c1").is_none());
        history.note("c1", early);
        assert!(history.was_stopped("c1") && history.end_of("c1").is_none(), "told of late");
        // Somebody has started it meanwhile.
        history.note("c1", Change::Died { exit_code: 1, at: Timestamp::from_millis(i64::MAX) });
        assert!(!history.was_stopped("c1") && history.end_of("c1").is_some());
        history.note_stopped("c1");
        history.complete("one", "c1");
        assert!(!history.was_stopped("c1"), "it runs");
    }

    // F-33.
    #[test]
    fn an_end_is_noted_until_it_is_repaired() {
        let history = new_history();
        let died = Change::Died { exit_code: 137, at: now() };
        history.note("c1", Change::OutOfMemory);
        history.note("c1", died);
        let end = history.end_of("c1").unwrap();
        assert!(end.out_of_memory && end.exit_code == Some(137) && !end.was_signalled);
        history.complete("one", "c1");
        assert!(history.end_of("c1").is_none());
        history.note("c1", Change::Died { exit_code: 137, at: Timestamp::EPOCH });
        assert!(history.end_of("c1").is_none(), "told of late");
        history.note("c1", Change::Signalled);
        history.note("c1", Change::Died { exit_code: 0, at: Timestamp::from_millis(now().as_millis() + 1) });
        assert!(history.end_of("c1").unwrap().was_signalled);
        history.retain(&HashSet::new(), &HashSet::new());
        assert!(history.end_of("c1").is_none());
    }

    #[test]
    fn unsaved_events_are_bounded() {
        let history = new_history();
        let repair = Repair { cause: EventCause::Stopped, action: EventAction::Started, contents_lost: true };
        for number in 0..UNSAVED_MAX + 5 {
            history.record("one", repair, number.to_string());
        }
        assert_eq!(lock(&history.unsaved).len(), UNSAVED_MAX);
        assert_eq!(lock(&history.unsaved).front().unwrap().detail, "5");
    }
}
