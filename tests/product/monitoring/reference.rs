//! docs/metrics.md is what `/metrics` serves, and what alerts and dashboards name is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::exposition::{Exposition, Family};
use super::{DASHBOARDS, RULES, metrics_in, queries};
use crate::documents::read;
use crate::harness::{Installation, Product};

const DOCUMENT: &str = "docs/metrics.md";
const WRITE: &str = "MEMGATE_TEST_WRITE_DOCS";
/// What follows is made from the metrics.
const MARK: &str = "## Metrics of every role\n";
/// A metric that has no series before something happens.
const LATER: &str = "memgate_webui_limited_total";
/// Labels whose values depend on what happens or on the build.
const OPEN_LABELS: [&str; 2] = ["part", "version"];

type Families = BTreeMap<String, Family>;

fn table(families: &Families) -> String {
    let mut table = "\n| metric | type | labels | meaning |\n|---|---|---|---|\n".to_owned();
    for (name, Family { kind, help, labels }) in families {
        let (mut labels, mut when): (Vec<String>, _) = (labels.iter().map(describe_label).collect(), "");
        if name == LATER {
            (labels, when) = (vec!["`cause`".to_owned()], "; each cause is there from the first one on");
        }
        writeln!(table, "| `{name}` | {kind} | {} | {help}{when} |", labels.join("; ")).unwrap();
    }
    table
}

fn describe_label((name, values): (&String, &BTreeSet<String>)) -> String {
    if OPEN_LABELS.contains(&name.as_str()) {
        return format!("`{name}`");
    }
    let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
    format!("`{name}`: {}", values.join(", "))
}

/// The part of the document that is made from the metrics of all roles.
fn reference(roles: &[(&str, Families)]) -> String {
    let is_common = |name: &String| roles.iter().all(|(_, families)| families.contains_key(name));
    let mut common = Families::new();
    let mut text = String::new();
    for (role, families) in roles {
        let (shared, own): (Families, Families) =
            families.clone().into_iter().partition(|(name, _)| is_common(name));
        common.extend(shared);
        write!(text, "\n## Metrics of the {role}\n{}", table(&own)).unwrap();
    }
    format!("{MARK}{}{text}", table(&common))
}

// The document lists every metric, and none that isn't there.
#[test]
fn metrics_reference_is_current_and_alerts_and_dashboards_name_only_what_is_there() {
    let product = Product::start_at(Installation::with_sqlite());
    product.add_user("ada@example.org");
    assert!(!Exposition::of(product.role_health("webui")).series.contains(LATER));
    provoke_the_later_one(&product);
    let expositions = product.health().map(Exposition::of);
    let series: BTreeSet<String> =
        expositions.iter().flat_map(|exposition| exposition.series.clone()).collect();
    let [proxy, provisioner, webui] = expositions.map(|exposition| exposition.families);
    let roles = [("proxy", proxy), ("provisioner", provisioner), ("web UI", webui)];
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(DOCUMENT);
    let current = read(DOCUMENT);
    let (introduction, _) = current.split_once(MARK).unwrap();
    let written = format!("{introduction}{}", reference(&roles));
    if std::env::var_os(WRITE).is_some() {
        fs::write(&path, &written).unwrap();
    }
    assert!(read(DOCUMENT) == written, "{DOCUMENT} is not current: run this test with {WRITE}=1");

    let mut named = metrics_in(&read(RULES));
    for dashboard in DASHBOARDS {
        let dashboard: Value = serde_json::from_str(&read(dashboard)).unwrap();
        let queries = queries(&dashboard);
        assert!(queries.len() > 10, "{}", queries.len());
        named.extend(queries.iter().flat_map(|query| metrics_in(query)));
    }
    // The names of dashboards' links are no metrics.
    let unknown: Vec<&String> = named.iter().filter(|name| !series.contains(*name)).collect();
    assert!(unknown.is_empty(), "no role has {unknown:?}");
    assert!(named.len() > 60, "{named:?}");
}

/// Reports more leaked tokens than a source may in a minute.
fn provoke_the_later_one(product: &Product) {
    for _ in 0..100 {
        let url = format!("http://{}/leaked-tokens", product.web());
        let sent = std::process::Command::new("curl")
            .args([
                "-s",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                "-H",
                "Content-Type: application/json",
                "-d",
                "[]",
            ])
            .arg(url)
            .output()
            .unwrap();
        if sent.stdout == b"429" {
            return;
        }
    }
    panic!("no report was refused");
}
