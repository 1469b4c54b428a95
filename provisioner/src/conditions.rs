//! What keeps the provisioner from working, by part. Each change is logged once and shown by readiness.

use std::collections::BTreeMap;

use daemon::health::Readiness;

use crate::error::{Error, chain};

/// The parts that fail now, each with its error.
#[derive(Debug)]
pub(crate) struct Conditions {
    readiness: Readiness,
    failing: BTreeMap<&'static str, String>,
}

impl Conditions {
    /// The parts in `starting` count as failing until they are set to `None`.
    pub(crate) fn new(readiness: Readiness, starting: &[&'static str]) -> Self {
        let failing = starting.iter().map(|part| (*part, format!("{part}: starting"))).collect();
        let conditions = Self { readiness, failing };
        conditions.publish();
        conditions
    }

    /// Sets or clears (`None`) the error of a part.
    pub(crate) fn set(&mut self, part: &'static str, error: Option<&Error>) {
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
                if !previous.ends_with(": starting") {
                    tracing::info!(part, "recovered");
                }
            }),
        };
        if previous.is_some() || error.is_some() {
            self.publish();
        }
    }

    fn publish(&self) {
        if self.failing.is_empty() {
            self.readiness.ready();
        } else {
            let reasons: Vec<&str> = self.failing.values().map(String::as_str).collect();
            self.readiness.not_ready(reasons.join("; "));
        }
    }
}
