//! What was checked, and what came of it.

use serde::Serialize;

use crate::output::CliError;
use crate::output::table;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::cli) enum Outcome {
    Ok,
    Warning,
    Problem,
}

#[derive(Debug, Serialize)]
struct Check {
    check: &'static str,
    outcome: Outcome,
    /// What was found.
    found: String,
    /// How to fix it; nothing if it is as it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

/// All checks, in their order.
#[derive(Debug, Default, Serialize)]
pub(in crate::cli) struct Report {
    checks: Vec<Check>,
}

impl Report {
    pub(super) fn ok(&mut self, check: &'static str, found: impl Into<String>) {
        self.checks.push(Check { check, outcome: Outcome::Ok, found: found.into(), fix: None });
    }

    /// What works, and may not for long, or couldn't be looked at.
    pub(super) fn warning(&mut self, check: &'static str, found: impl Into<String>, fix: impl Into<String>) {
        self.add(check, Outcome::Warning, (found.into(), fix.into()));
    }

    pub(super) fn problem(&mut self, check: &'static str, found: impl Into<String>, fix: impl Into<String>) {
        self.add(check, Outcome::Problem, (found.into(), fix.into()));
    }

    pub(super) fn error(&mut self, check: &'static str, error: CliError) {
        self.add(check, Outcome::Problem, error.into_parts());
    }

    fn add(&mut self, check: &'static str, outcome: Outcome, (found, fix): (String, String)) {
        self.checks.push(Check { check, outcome, found, fix: Some(fix) });
    }

    pub(super) fn problems(&self) -> usize {
        self.checks.iter().filter(|check| check.outcome == Outcome::Problem).count()
    }

    pub(super) fn text(&self) -> String {
        let lines: Vec<(&str, String)> =
            self.checks.iter().map(|check| (check.check, check.text())).collect();
        table::pairs(&lines)
    }
}

impl Check {
    fn text(&self) -> String {
        let word = match self.outcome {
            Outcome::Ok => "ok",
            Outcome::Warning => "warning",
            Outcome::Problem => "PROBLEM",
        };
        let fix = self.fix.as_ref().map_or_else(String::new, |fix| format!(": {fix}"));
        format!("{word:7}  {}{fix}", self.found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_check_is_one_line_and_only_problems_count() {
        let mut report = Report::default();
        report.ok("settings", "they are valid");
        report.warning("disk", "it is nearly\nfull", "free some space");
        report.error("store", CliError::new("it is away", "start it"));
        assert_eq!(report.problems(), 1);
        let text = report.text();
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.contains("store     PROBLEM  it is away: start it"), "{text}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["checks"][1]["outcome"], "warning");
        assert!(json["checks"][0].get("fix").is_none());
    }
}
