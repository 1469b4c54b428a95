//! What operators see: `docs/metrics.md` lists every metric, alerts and dashboards name only metrics that are there, each alert
//! fires for its fault in a real Prometheus or in a unit test of `promtool`, and the runbook has a section for each.

mod alerts;
mod exposition;
mod formats;
mod prometheus;
mod reference;
mod runbook;

use std::collections::BTreeSet;

use serde_json::Value;

use crate::documents::read;

const RULES: &str = "deploy/prometheus/alerts.yml";
const DASHBOARDS: [&str; 4] = [
    "deploy/grafana/overview.json",
    "deploy/grafana/proxy.json",
    "deploy/grafana/provisioner.json",
    "deploy/grafana/webui.json",
];

/// The names of all alerts.
fn alert_names() -> BTreeSet<String> {
    let rules = read(RULES);
    let names = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    names.map(str::to_owned).collect()
}

/// The queries of a dashboard.
fn queries(dashboard: &Value) -> Vec<String> {
    match dashboard {
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(name, value)| match (name.as_str(), value) {
                ("expr", Value::String(query)) => vec![query.clone()],
                _ => queries(value),
            })
            .collect(),
        Value::Array(values) => values.iter().flat_map(queries).collect(),
        _ => Vec::new(),
    }
}

/// The metrics of memgate's roles that a text names.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_name(c));
    let ours = words.filter(|word| word.starts_with("memgate_") || word.starts_with("process_"));
    ours.map(str::to_owned).collect()
}
