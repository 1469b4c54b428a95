//! A line of the result, and whether what was promised holds.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::{Serialize, Serializer};

use super::checker::Seen;
use super::fault::{Fault, Loses, Source};
use super::testbed::KEPT_KEYS;
use super::watch::{Answer, NotReady};

/// The machine that measures is busy with the client, and a debug build is slow: seconds that a promise may be late.
const ALLOWANCE: f64 = 1.0;

#[derive(Serialize)]
pub(super) struct Row {
    pub(super) name: &'static str,
    #[serde(serialize_with = "rules")]
    pub(super) fault: &'static Fault,
    pub(super) seen: Seen,
    /// Seconds from the fault's begin and from its end to the callers' last error.
    pub(super) last_error: Option<[f64; 2]>,
    /// Seconds from the fault's begin to its end.
    pub(super) stood_for: f64,
    /// Seconds from the fault's end until all was ready; `None` if that didn't happen in time.
    pub(super) ready_after: Option<f64>,
    /// The numbers of caches that have another container.
    pub(super) replaced: Vec<usize>,
    /// How many of the [`KEPT_KEYS`] each cache has kept.
    pub(super) kept: Option<Vec<usize>>,
    /// Who wasn't ready meanwhile.
    pub(super) not_ready: BTreeMap<Source, NotReady>,
    /// What was promised to be told, by those who were ready all the same.
    pub(super) warnings: BTreeMap<Source, String>,
    pub(super) notes: Vec<String>,
    /// What doesn't hold.
    pub(super) failures: Vec<String>,
}

impl Row {
    pub(super) fn holds(&self) -> bool {
        self.failures.is_empty()
    }

    /// Compares with what was promised.
    pub(super) fn judge(&mut self, answers: &[Answer], begun: Instant) {
        let promise = &self.fault.promise;
        let mut failures = Vec::new();
        let Seen { stale, foreign, torn, .. } = self.seen;
        if stale + foreign + torn > 0 {
            failures.push(format!("WRONG VALUES: {stale} stale, {foreign} foreign, {torn} torn"));
        }
        if self.ready_after.is_none() {
            failures.push("not ready again in time".to_owned());
        }
        for error in self.seen.errors.keys() {
            if !promise.errors.iter().any(|allowed| error.contains(allowed)) {
                failures.push(format!("unexpected error: {error}"));
            }
        }
        if let Some([_, after_end]) = self.last_error
            && !promise.errors.is_empty()
            && after_end > promise.recovery + ALLOWANCE
        {
            failures.push(format!("recovered after {after_end:.1} s, not {} s", promise.recovery));
        }
        self.judge_losses(promise.loses, &mut failures);
        for (source, part) in promise.told {
            let is_told = |answer: &&Answer| {
                answer.source == *source && answer.at >= begun && answer.text.contains(part)
            };
            match answers.iter().find(is_told) {
                None => failures.push(format!("{} doesn't say `{part}`", source.name())),
                Some(answer) if answer.is_ready => {
                    self.warnings.insert(*source, answer.text.clone());
                }
                Some(_) => {}
            }
        }
        self.failures.append(&mut failures);
    }

    fn judge_losses(&self, loses: Loses, failures: &mut Vec<String>) {
        let may_be_replaced = |number: usize| loses == Loses::Victim && number == 0;
        let replaced: Vec<_> = self.replaced.iter().filter(|number| !may_be_replaced(**number)).collect();
        if !replaced.is_empty() {
            failures.push(format!("replaced: {replaced:?}"));
        }
        let Some(kept) = &self.kept else {
            failures.push("the kept keys can't be read".to_owned());
            return;
        };
        let may_lose = |number: usize| match loses {
            Loses::Nothing => false,
            Loses::Contents | Loses::Victim => number == 0,
            Loses::AllContents => true,
        };
        let lost = kept.iter().enumerate().any(|(number, kept)| *kept < KEPT_KEYS && !may_lose(number));
        if lost {
            failures.push(format!("contents lost: {kept:?} of {KEPT_KEYS} keys"));
        }
    }
}

fn rules<S: Serializer>(fault: &&'static Fault, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(fault.rules)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::fault::Promise;

    static FAULT: Fault = Fault {
        name: "test",
        does: "",
        rules: "F-1",
        before: "",
        promise: Promise {
            recovery: 2.0,
            errors: &["unavailable"],
            loses: Loses::Victim,
            told: &[(Source::Proxy, "away")],
        },
        inject: |_| Ok(()),
    };

    fn row(seen: Seen, last_error: f64, kept: Vec<usize>) -> Row {
        Row {
            name: FAULT.name,
            fault: &FAULT,
            seen,
            last_error: Some([last_error; 2]),
            stood_for: 0.0,
            ready_after: Some(1.0),
            replaced: vec![0],
            kept: Some(kept),
            not_ready: BTreeMap::new(),
            warnings: BTreeMap::new(),
            notes: Vec::new(),
            failures: Vec::new(),
        }
    }

    fn answer(text: &str) -> Answer {
        Answer { at: Instant::now(), source: Source::Proxy, is_ready: false, text: text.into() }
    }

    #[test]
    fn a_kept_promise_holds() {
        let begun = Instant::now();
        let errors = BTreeMap::from([("SERVER_ERROR unavailable".to_owned(), 3)]);
        let mut row = row(Seen { errors, ..Seen::default() }, 1.0, vec![0, 100]);
        row.judge(&[answer("503 the store is away")], begun);
        assert!(row.holds(), "{:?}", row.failures);
    }

    #[test]
    fn each_broken_promise_is_named() {
        let begun = Instant::now();
        let errors = BTreeMap::from([("closed".to_owned(), 1)]);
        let mut row = row(Seen { errors, torn: 1, ..Seen::default() }, 9.0, vec![100, 0]);
        row.replaced = vec![1];
        row.ready_after = None;
        row.judge(&[answer("200 ready")], begun);
        let failures = row.failures.join("\n");
        for part in ["1 torn", "in time", "error: closed", "after 9.0 s", "replaced: [1]", "lost", "`away`"] {
            assert!(failures.contains(part), "{part}: {failures}");
        }
    }
}
