//! What the checking client saw.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::Serialize;

use crate::client::Failure;

/// Errors that are kept with their times.
const ERRORS_MAX: usize = 500_000;

/// Counts what comes back. Shared by all connections.
#[derive(Default)]
pub(in crate::faults) struct Record(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    answered: u64,
    missed: BTreeMap<usize, u64>,
    wrong: BTreeMap<Wrong, u64>,
    errors: Vec<Failed>,
    /// By cache.
    last_answer: BTreeMap<usize, Instant>,
}

struct Failed {
    at: Instant,
    cache: usize,
    text: String,
    is_closed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Wrong {
    Stale,
    Foreign,
    Torn,
}

/// What callers saw during a fault.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(in crate::faults) struct Seen {
    /// Requests with a right reply, missing keys included.
    pub(in crate::faults) answered: u64,
    /// How often each error occurred.
    pub(in crate::faults) errors: BTreeMap<String, u64>,
    /// How many of them ended a connection, or kept one from being opened.
    pub(in crate::faults) closed: u64,
    /// Errors of other caches than the first.
    pub(in crate::faults) of_others: u64,
    /// Gets that didn't find what had been stored.
    pub(in crate::faults) missed: u64,
    pub(in crate::faults) stale: u64,
    pub(in crate::faults) foreign: u64,
    pub(in crate::faults) torn: u64,
}

impl Record {
    pub(super) fn answered(&self, cache: usize) {
        let mut entries = self.entries();
        entries.answered += 1;
        entries.last_answer.insert(cache, Instant::now());
    }

    pub(super) fn missed(&self, cache: usize) {
        *self.entries().missed.entry(cache).or_default() += 1;
    }

    pub(super) fn wrong(&self, kind: Wrong) {
        *self.entries().wrong.entry(kind).or_default() += 1;
    }

    pub(super) fn failed(&self, cache: usize, failure: &Failure) {
        let mut entries = self.entries();
        if entries.errors.len() < ERRORS_MAX {
            let is_closed = matches!(failure, Failure::Broken(_));
            entries.errors.push(Failed { at: Instant::now(), cache, text: failure.to_string(), is_closed });
        }
    }

    /// Forgets everything, and begins again.
    pub(in crate::faults) fn restart(&self) {
        *self.entries() = Entries::default();
    }

    pub(in crate::faults) fn last_error(&self) -> Option<Instant> {
        self.entries().errors.last().map(|error| error.at)
    }

    /// Whether each of the caches has been answered after `since`.
    pub(in crate::faults) fn all_answered_since(&self, since: Instant, caches: usize) -> bool {
        let entries = self.entries();
        (0..caches).all(|cache| entries.last_answer.get(&cache).is_some_and(|at| *at > since))
    }

    pub(in crate::faults) fn seen(&self) -> Seen {
        let entries = self.entries();
        let wrong = |kind| entries.wrong.get(&kind).copied().unwrap_or_default();
        let count = |of: fn(&Failed) -> bool| entries.errors.iter().filter(|error| of(error)).count() as u64;
        let mut errors = BTreeMap::new();
        for error in &entries.errors {
            *errors.entry(error.text.clone()).or_default() += 1;
        }
        Seen {
            answered: entries.answered,
            errors,
            closed: count(|error| error.is_closed),
            of_others: count(|error| error.cache > 0),
            missed: entries.missed.values().sum(),
            stale: wrong(Wrong::Stale),
            foreign: wrong(Wrong::Foreign),
            torn: wrong(Wrong::Torn),
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_counted_by_kind_and_cache() {
        let record = Record::default();
        record.answered(0);
        record.failed(0, &Failure::Replied("unavailable".into()));
        record.failed(1, &Failure::Broken("closed".into()));
        record.wrong(Wrong::Torn);
        let seen = record.seen();
        assert_eq!((seen.answered, seen.closed, seen.of_others, seen.torn), (1, 1, 1, 1));
        assert_eq!(seen.errors["unavailable"], 1);
        let before = Instant::now();
        assert!(!record.all_answered_since(before, 2));
        record.answered(0);
        record.answered(1);
        assert!(record.all_answered_since(before, 2));
        record.restart();
        assert_eq!((record.seen(), record.last_error()), (Seen::default(), None));
    }
}
