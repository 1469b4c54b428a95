//! What the clients of all owners saw.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::client::Failure;
use crate::values::Verdict;

/// Errors of different kinds that are kept.
const ERRORS_MAX: usize = 30;

/// Counts. Shared by all clients.
#[derive(Default)]
pub(super) struct Tally(Mutex<Counts>);

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Counts {
    pub(super) requests: u64,
    /// Of these, by owners that had been deleted.
    pub(super) late_requests: u64,
    /// Successful replies whose every byte was checked.
    pub(super) replies_checked: u64,
    /// Bytes of others' marks, and of values that aren't what was stored. None must cross.
    pub(super) bytes_crossed: u64,
    pub(super) values_wrong: u64,
    /// Successful replies to requests that were sent after the owner's container was gone.
    pub(super) answered_late: u64,
    /// Logins of deleted owners that succeeded.
    pub(super) late_logins: u64,
    /// Gets that didn't find what had been stored.
    pub(super) missed: u64,
    pub(super) errors: BTreeMap<String, u64>,
}

impl Tally {
    pub(super) fn sent(&self, requests: usize, is_late: bool) {
        let mut counts = self.counts();
        counts.requests += requests as u64;
        counts.late_requests += if is_late { requests as u64 } else { 0 };
    }

    /// A request was answered successfully.
    pub(super) fn answered(&self, was_late: bool) {
        let mut counts = self.counts();
        counts.replies_checked += 1;
        counts.answered_late += u64::from(was_late);
    }

    /// A value of so many bytes was found under a key, or none.
    pub(super) fn found(&self, verdict: Verdict, bytes: usize) {
        let mut counts = self.counts();
        match verdict {
            Verdict::Right => {}
            Verdict::Missing | Verdict::Stale => counts.missed += 1,
            Verdict::Foreign | Verdict::Torn => {
                counts.values_wrong += 1;
                counts.bytes_crossed += bytes as u64;
            }
        }
    }

    pub(super) fn crossed(&self, bytes: u64) {
        if bytes > 0 {
            self.counts().bytes_crossed += bytes;
        }
    }

    pub(super) fn logged_in_late(&self) {
        self.counts().late_logins += 1;
    }

    pub(super) fn failed(&self, failure: &Failure, owner_is_deleted: bool) {
        let whose = if owner_is_deleted { "deleted" } else { "active" };
        let error = format!("{whose}: {failure}");
        let mut counts = self.counts();
        if counts.errors.len() < ERRORS_MAX || counts.errors.contains_key(&error) {
            *counts.errors.entry(error).or_default() += 1;
        }
    }

    pub(super) fn read(&self) -> Counts {
        self.counts().clone()
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    /// What isn't as it is promised.
    pub(super) fn failures(&self) -> Vec<String> {
        [
            (self.bytes_crossed, "bytes crossed"),
            (self.values_wrong, "values are wrong"),
            (self.answered_late, "requests were answered after the container was gone"),
            (self.late_logins, "logins of deleted tokens succeeded"),
            (self.missed, "stored values were missing"),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_crossing_is_a_failure() {
        let kinds: [fn(&Tally); 5] = [
            |tally| tally.crossed(10),
            |tally| tally.found(Verdict::Foreign, 7),
            |tally| tally.found(Verdict::Torn, 7),
            |tally| tally.answered(true),
            Tally::logged_in_late,
        ];
        for crossing in kinds {
            let tally = Tally::default();
            tally.sent(3, false);
            tally.answered(false);
            tally.found(Verdict::Right, 7);
            tally.crossed(0);
            tally.failed(&Failure::Broken("closed".into()), true);
            assert!(tally.read().failures().is_empty());
            crossing(&tally);
            assert!(!tally.read().failures().is_empty());
        }
    }
}
