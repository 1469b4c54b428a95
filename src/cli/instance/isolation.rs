//! How the container of an instance was last found to be isolated.

use serde::Serialize;
use store::{CheckResult, IsolationCheck, Store};

use crate::output::CliError;
use crate::output::table;
use crate::output::time;

/// The newest isolation check of an instance's container.
#[derive(Debug, Serialize)]
pub(super) struct Isolation {
    isolation: Option<IsolationCheck>,
}

impl Isolation {
    pub(super) async fn read(store: &Store, instance_id: &str) -> Result<Self, CliError> {
        Ok(Self { isolation: store.isolation_check(instance_id).await? })
    }

    /// A line for the result, and one for the image.
    pub(super) fn lines(&self) -> String {
        let Some(check) = &self.isolation else {
            return table::pairs(&[("isolation", "not checked yet".to_owned())]);
        };
        let image = if check.outdated {
            format!("{} (new instances get another: see `memgate image upgrade`)", check.image)
        } else {
            check.image.clone()
        };
        table::pairs(&[("isolation", text(check)), ("image", image)])
    }
}

/// `passed, checked 2026-11-29 12:05 UTC (3 minutes ago)`, or the parts that didn't pass, and why.
fn text(check: &IsolationCheck) -> String {
    let parts = [
        ("ports", check.ports),
        ("restrictions", check.restrictions),
        ("reachability", check.reachability),
        ("login", check.login),
    ];
    let of = |result: CheckResult| {
        let names: Vec<&str> = parts.iter().filter(|(_, it)| *it == result).map(|(name, _)| *name).collect();
        (!names.is_empty()).then(|| format!("{} {}", names.join(", "), result.as_str()))
    };
    let wrong: Vec<String> = [CheckResult::Failed, CheckResult::Unknown].into_iter().filter_map(of).collect();
    let result = if wrong.is_empty() { "passed".to_owned() } else { wrong.join(", ") };
    let detail = if check.detail.is_empty() { String::new() } else { format!(": {}", check.detail) };
    format!("{result}, checked {}{detail}", time::past(check.checked_at))
}

#[cfg(test)]
mod tests {
    use store::Timestamp;

    use super::*;

    //
    #[test]
    fn what_did_not_pass_is_named() {
        let passed = IsolationCheck {
            instance_id: "one".into(),
            container: "two".into(),
            ports: CheckResult::Passed,
            restrictions: CheckResult::Passed,
            reachability: CheckResult::Passed,
            login: CheckResult::Passed,
            image: "sha256:1".into(),
            outdated: false,
            detail: String::new(),
            checked_at: Timestamp::from_millis(1_795_921_927_000),
        };
        assert!(text(&passed).starts_with("passed, checked 2026-11-29 03:12 UTC ("), "{}", text(&passed));
        let shown =
            Isolation { isolation: Some(IsolationCheck { outdated: true, ..passed.clone() }) }.lines();
        assert!(shown.contains("sha256:1 (new instances get another"), "{shown}");
        let (ports, login, detail) =
            (CheckResult::Failed, CheckResult::Unknown, "it publishes ports".to_owned());
        let shown = text(&IsolationCheck { ports, login, detail, ..passed });
        assert!(shown.starts_with("ports failed, login unknown, checked"), "{shown}");
        assert!(shown.ends_with(": it publishes ports"), "{shown}");
        assert!(Isolation { isolation: None }.lines().contains("not checked yet"));
    }
}
