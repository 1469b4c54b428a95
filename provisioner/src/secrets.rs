//! Whether a rejected lane secret can be believed. One cache that rejects its secret is another memcached, and is
//! replaced. If many do, the likelier cause is this process's own key: then nothing may be replaced (F-29). Pure: the
//! caller passes the time.
//!
//! The rule: of the containers whose latest answer is younger than a minute and two resyncs, at least two and at least
//! three quarters reject their secrets. With a wrong key all do that aren't hijacked; a hijacked one answers as it likes, so
//! a lower share would let a few of them hold up all repairs. Before a container is replaced for its secret, others are
//! asked too.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::liveness::Health;

/// So many rejected secrets can't be a coincidence.
const REJECTED_MIN: usize = 2;
const VALID_MIN: Duration = Duration::from_mins(1);

/// The latest answers of containers.
#[derive(Debug)]
pub(crate) struct SecretChecks {
    valid_for: Duration,
    answers: Mutex<HashMap<String, Answer>>,
}

#[derive(Debug, Clone, Copy)]
struct Answer {
    rejected: bool,
    at: Instant,
}

/// Too many containers reject their secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mismatch {
    pub(crate) rejected: usize,
    pub(crate) asked: usize,
}

impl SecretChecks {
    pub(crate) fn new(resync_interval: Duration) -> Self {
        Self { valid_for: VALID_MIN + resync_interval * 2, answers: Mutex::default() }
    }

    /// Records a health check. Only an answer says something about the secret.
    pub(crate) fn record(&self, container: &str, health: &Health, now: Instant) {
        let rejected = match health {
            Health::Healthy(_) => false,
            Health::Wrong => true,
            Health::Full | Health::Silent | Health::Unreachable => return,
        };
        self.lock().insert(container.to_owned(), Answer { rejected, at: now });
    }

    /// Forgets the answer of a container that is removed, or in whose place something else answered.
    pub(crate) fn forget(&self, container: &str) {
        self.lock().remove(container);
    }

    /// Whether the secrets that this process derives are likely wrong.
    pub(crate) fn mismatch(&self, now: Instant) -> Option<Mismatch> {
        let answers = self.lock();
        let valid = answers.values().filter(|answer| now.duration_since(answer.at) <= self.valid_for);
        let (rejected, asked) = valid
            .fold((0, 0), |(rejected, asked), answer| (rejected + usize::from(answer.rejected), asked + 1));
        (rejected >= REJECTED_MIN && rejected * 4 >= asked * 3).then_some(Mismatch { rejected, asked })
    }

    /// Forgets containers that exist no more.
    pub(crate) fn retain(&self, existing: &HashSet<&str>) {
        self.lock().retain(|container, _| existing.contains(container.as_str()));
    }

    /// Forgets everything: another provisioner may have led since.
    pub(crate) fn reset(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Answer>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `x` rejects, `.` accepts, `?` doesn't answer.
    fn checks(answers: &str, now: Instant) -> SecretChecks {
        let checks = SecretChecks::new(Duration::from_secs(30));
        for (number, answer) in answers.chars().enumerate() {
            let health = match answer {
                'x' => Health::Wrong,
                '.' => Health::Healthy("1.6.18".into()),
                _ => Health::Silent,
            };
            checks.record(&number.to_string(), &health, now);
        }
        checks
    }

    // F-29.
    #[test]
    fn many_rejected_secrets_are_not_believed() {
        let now = Instant::now();
        for (answers, believed) in [
            ("", true),
            ("x", true),
            ("x.", true),
            ("xx.", true),
            ("xx..", true),
            ("xxx.", false),
            ("xxx..", true),
            ("xxxxxx..", false),
            ("xxxxxx...", true),
            ("xx", false),
            ("x????", true),
            ("xx???", false),
            ("xxxxxxxx", false),
        ] {
            assert_eq!(checks(answers, now).mismatch(now).is_none(), believed, "{answers}");
        }
    }

    // F-29.
    #[test]
    fn answers_expire_and_later_ones_count() {
        let now = Instant::now();
        let mismatch = checks("xxx", now);
        assert_eq!(mismatch.mismatch(now), Some(Mismatch { rejected: 3, asked: 3 }));
        assert_eq!(mismatch.mismatch(now + Duration::from_secs(121)), None);
        for container in ["0", "1"] {
            mismatch.record(container, &Health::Healthy(String::new()), now);
        }
        assert_eq!(mismatch.mismatch(now), None);
        mismatch.retain(&HashSet::from(["2"]));
        mismatch.record("3", &Health::Wrong, now);
        assert_eq!(mismatch.mismatch(now), Some(Mismatch { rejected: 2, asked: 2 }));
        mismatch.forget("3");
        assert_eq!(mismatch.mismatch(now), None);
        mismatch.record("3", &Health::Wrong, now);
        mismatch.reset();
        assert_eq!(mismatch.mismatch(now), None);
    }
}
