//! What stands in the way, part by part: said once in the log when it comes and when it goes, and in readiness.

use std::collections::BTreeMap;

use daemon::health::Readiness;

use crate::Error;
use crate::error::chain;

#[derive(Debug)]
pub(crate) struct Troubles {
    readiness: Readiness,
    parts: BTreeMap<&'static str, String>,
}

impl Troubles {
    /// Each named part is in trouble until it is said to be well.
    pub(crate) fn new(readiness: Readiness, starting: &[&'static str]) -> Self {
        let parts = starting.iter().map(|part| (*part, format!("{part}: starting"))).collect();
        let troubles = Self { readiness, parts };
        troubles.publish();
        troubles
    }

    /// Whether all is well.
    pub(crate) fn none(&self) -> bool {
        self.parts.is_empty()
    }

    pub(crate) fn set(&mut self, part: &'static str, trouble: Option<&Error>) {
        let was = match trouble {
            Some(error) => {
                let text = chain(error);
                let was = self.parts.insert(part, text.clone());
                if was.as_ref() != Some(&text) {
                    tracing::error!(part, "{text}");
                }
                was
            }
            None => self.parts.remove(part).inspect(|was| {
                if !was.ends_with(": starting") {
                    tracing::info!(part, "is well again");
                }
            }),
        };
        if was.is_some() || trouble.is_some() {
            self.publish();
        }
    }

    fn publish(&self) {
        if self.none() {
            self.readiness.ready();
        } else {
            let reasons: Vec<&str> = self.parts.values().map(String::as_str).collect();
            self.readiness.not_ready(reasons.join("; "));
        }
    }
}
