//! What an installation has in Docker, in the firewall and in the tables of addresses and operations, and what it should have.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use super::Fixture;
use crate::database::query_sql;
use crate::harness::Installation;

const CONTAINER: &str = "container {{.Name}} {{.Id}} {{.State.Status}} \
                         {{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";

/// Leases, networks, operations that aren't done and instances that were made ahead, one a line.
const QUERY: &str = "
    SELECT 'address', instance_id, address FROM addresses WHERE instance_id IS NOT NULL
    UNION ALL SELECT 'network', name, '' FROM networks
    UNION ALL SELECT 'operation', kind, COALESCE(state, 'pending') FROM operations
        LEFT JOIN operation_progress ON operation_id = id WHERE COALESCE(state, 'pending') <> 'done'
    UNION ALL SELECT CASE WHEN ready_at IS NULL THEN 'unready' ELSE 'ready' END, id, CAST(memory_mb AS TEXT)
        FROM ready_instances r WHERE NOT EXISTS (SELECT 1 FROM instances i WHERE i.id = r.id)
";

/// What doesn't fit: what is missing, and what is left over.
pub(super) fn differences(fixture: &Fixture) -> Vec<String> {
    let recorded = recorded(&fixture.product);
    let (expected, actual) = (expected(fixture, &recorded), actual(&fixture.installation, &recorded));
    let missing = expected.difference(&actual).map(|it| format!("missing: {it}"));
    missing.chain(actual.difference(&expected).map(|it| format!("left over: {it}"))).collect()
}

/// What the tables say.
pub(super) fn recorded(installation: &Installation) -> Vec<String> {
    query_sql(installation, QUERY)
}

/// What the instances need, and the networks that are recorded.
fn expected(fixture: &Fixture, recorded: &[String]) -> BTreeSet<String> {
    let Fixture { product, installation: id, is_warm, .. } = fixture;
    let mut expected = BTreeSet::from([format!("firewall table inet memgate_{id}")]);
    expected.extend(recorded.iter().filter(|row| row.starts_with("network ")).cloned());
    let list = product.json(&["instance", "list"]);
    for instance in list["instances"].as_array().unwrap() {
        let text = |name: &str| instance[name].as_str().unwrap_or("none");
        let name = format!("memgate-{id}-{}", text("id"));
        let (container, address, state) = (text("container"), text("address"), text("state"));
        if state == "asleep" {
            expected.insert(format!("container /{name} {container} exited"));
            expected.extend((*is_warm).then(|| format!("other /{name}-holder running")));
        } else {
            expected.insert(format!("container /{name} {container} {state} {address}"));
        }
        expected.insert(format!("volume {name}"));
        expected.extend((*is_warm).then(|| format!("volume {name}-memory")));
        expected.insert(format!("address {} {address}", text("id")));
    }
    for ready in recorded.iter().filter_map(|row| row.strip_prefix("ready ")) {
        let instance = ready.split(' ').next().unwrap();
        let lease = format!("address {instance} ");
        expected.insert(format!("ready {ready}"));
        expected.insert(format!("other /memgate-{id}-{instance} running"));
        expected.insert(format!("volume memgate-{id}-{instance}"));
        expected.extend(recorded.iter().filter(|row| row.starts_with(&lease)).cloned());
    }
    expected
}

fn actual(id: &str, recorded: &[String]) -> BTreeSet<String> {
    let label = format!("label=memgate={id}");
    let mut actual: BTreeSet<String> =
        recorded.iter().filter(|row| !row.starts_with("network ")).cloned().collect();
    let list = |kind: &str, format: &str| {
        lines("docker", &[kind, "ls", "--filter", &label, "--format", format]).unwrap()
    };
    actual.extend(list("volume", "volume {{.Name}}"));
    actual.extend(list("network", "network {{.Name}}"));
    actual.extend(containers(&label).into_iter().map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_ready =
            |row: &&String| row.strip_prefix("ready ").is_some_and(|ready| words[1].ends_with(&ready[..24]));
        if words[1].ends_with("-holder") || recorded.iter().any(|row| is_ready(&row)) {
            format!("other {} {}", words[1], words[3])
        } else {
            words.join(" ")
        }
    }));
    let tables = lines("nft", &["list", "tables"]).unwrap();
    actual.extend(tables.iter().filter(|table| table.contains(id)).map(|table| format!("firewall {table}")));
    actual
}

fn containers(label: &str) -> Vec<String> {
    loop {
        let ids = lines("docker", &["container", "ls", "-aq", "--filter", label]).unwrap();
        if ids.is_empty() {
            return ids;
        }
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        // One that was removed meanwhile can't be inspected.
        if let Some(lines) = lines("docker", &[&["inspect", "--format", CONTAINER], &ids[..]].concat()) {
            return lines;
        }
    }
}

/// A container, as Docker describes it.
pub(super) fn inspect(container: &str) -> Value {
    let output = Command::new("docker").args(["inspect", container]).output().unwrap();
    serde_json::from_slice::<Value>(&output.stdout).unwrap()[0].clone()
}

/// The lines that a program prints; `None` if it fails.
fn lines(program: &str, arguments: &[&str]) -> Option<Vec<String>> {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    output.status.success().then(|| text.lines().map(|line| line.trim().to_owned()).collect())
}
