//! What keeps the provisioner from working, and what the operator should know, by part. Each change is logged once, shown
//! by readiness, and counted in metrics.

use std::collections::BTreeMap;

use daemon::health::{Health, STORE};

use crate::error::{Error, chain};
use crate::metrics::Metrics;

/// Parts outside of memgate: when they are back, the provisioner gets ready without help.
const AWAITED: [&str; 2] = ["docker", "store"];

/// The parts that fail now, each with its error.
#[derive(Debug)]
pub(crate) struct Conditions {
    health: Health,
    metrics: Metrics,
    failing: BTreeMap<&'static str, String>,
}

impl Conditions {
    /// The parts in `starting` count as failing until they are set to `None`.
    pub(crate) fn new(health: Health, metrics: Metrics, starting: &[&'static str]) -> Self {
        let failing = starting.iter().map(|part| (*part, format!("{part}: starting"))).collect();
        let conditions = Self { health, metrics, failing };
        conditions.publish();
        conditions
    }

    /// Sets or clears (`None`) the error of a part. Returns whether the part has recovered.
    pub(crate) fn set(&mut self, part: &'static str, error: Option<&Error>) -> bool {
        self.metrics.count_condition(part, error.is_some());
        let previous = match error {
            Some(error) => {
                let text = chain(error);
                let previous = self.failing.insert(part, text.clone());
                if previous.as_ref() != Some(&text) {
                    tracing::error!(part, "{text}");
                }
                previous
            }
            None => self.failing.remove(part).inspect(|previous| {
                if !is_starting(previous) {
                    tracing::info!(part, "recovered");
                }
            }),
        };
        if previous.is_some() || error.is_some() {
            self.publish();
        }
        previous.is_some() && error.is_none()
    }

    /// As [`Conditions::set`], for the resync. An outage of the store is the store's: without it, the resync is neither well
    /// nor failing (F-4).
    pub(crate) fn set_resync(&mut self, error: Option<&Error>) -> bool {
        match error {
            Some(Error::Store(error)) if error.is_outage() => false,
            error => self.set("resync", error),
        }
    }

    /// Shows how many caches have failed although the provisioner works.
    pub(crate) fn show_failed(&self, caches: usize) {
        let text = match caches {
            0 => None,
            1 => Some("1 cache has failed: `memgate instance list` shows it".to_owned()),
            count => Some(format!("{count} caches have failed: `memgate instance list` shows them")),
        };
        self.health.set_problem("caches", text);
    }

    /// Shows how many caches wait for memory. They are pending, as new ones are for a moment.
    pub(crate) fn show_waiting(&self, caches: usize) {
        let text = (caches > 0).then(|| {
            format!("caches that wait for memory: {caches}; free memory, or set provisioner.memory_mb")
        });
        self.health.set_problem("memory", text);
    }

    /// Shows how many caches have rows that can't be read.
    pub(crate) fn show_unreadable(&self, caches: usize) {
        let text = (caches > 0).then(|| {
            format!(
                "caches with a row that can't be read: {caches}; their containers are left alone; restore a backup"
            )
        });
        self.health.set_problem("rows", text);
    }

    fn publish(&self) {
        self.health.set_problem(STORE, self.failing.get("store").filter(|text| !is_starting(text)).cloned());
        if self.failing.is_empty() {
            return self.health.ready();
        }
        let reasons: Vec<&str> = self.failing.values().map(String::as_str).collect();
        let reasons = reasons.join("; ");
        if self.failing.iter().all(|(part, text)| AWAITED.contains(part) || is_starting(text)) {
            self.health.waiting(reasons);
        } else {
            self.health.not_ready(reasons);
        }
    }
}

/// Whether a part has been neither well nor failing yet.
fn is_starting(text: &str) -> bool {
    text.ends_with(": starting")
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::registry::Registry;
    use store::StoreError;

    use super::*;

    // F-4.
    #[test]
    fn store_that_is_away_is_waited_for_also_by_the_resync() {
        let health = Health::default();
        let metrics = Metrics::new(&mut Registry::default(), Counter::default());
        let mut conditions = Conditions::new(health.clone(), metrics, &["docker", "store", "resync"]);
        conditions.set("docker", None);
        let away = || Error::Store(StoreError::Timeout);
        conditions.set("store", Some(&away()));
        conditions.set_resync(Some(&away()));
        assert!(!health.is_ready() && health.report().waiting, "{:?}", health.report());
        conditions.set_resync(Some(&Error::Store(StoreError::TooMany("instances"))));
        assert!(!health.report().waiting, "{:?}", health.report());
        conditions.set("store", None);
        conditions.set_resync(None);
        assert!(health.is_ready());
    }
}
