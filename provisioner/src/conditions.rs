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

    /// Sets or clears (`None`) what is wrong with some caches although the provisioner works.
    pub(crate) fn set_problem(&self, part: &'static str, problem: Option<String>) {
        self.health.set_problem(part, problem);
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
