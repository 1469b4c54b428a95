//! What `promtool` says of the metrics of roles and of a cache: it knows the conventions that the parsers don't check.

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::prometheus::tool;
use crate::commands_with_proxy::{RoleProcess, with_ada};
use crate::harness::{Installation, deadline_in, wait_until};
use crate::health::get;

/// A user's metrics, read with a key for them.
fn cache_metrics(installation: &Installation) -> String {
    let created = |scope: &str| {
        let key =
            installation.json(&["api-key", "create", "ada@example.org", "--name", scope, "--scope", scope]);
        format!("Authorization: Bearer {}", key["api_key"].as_str().unwrap())
    };
    let read = |header: &str, path: &str| {
        let url = format!("http://{}/api/v1{path}", installation.web());
        let output =
            Command::new("curl").args(["-s", "--fail-with-body", "-H", header, &url]).output().unwrap();
        assert!(output.status.success(), "{path}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let caches: serde_json::Value = serde_json::from_str(&read(&created("read"), "/caches")).unwrap();
    let id = caches["items"][0]["id"].as_str().unwrap();
    read(&created("metrics"), &format!("/caches/{id}/metrics"))
}

#[test]
fn promtool_finds_nothing_wrong_with_the_metrics() {
    let (installation, _) = with_ada();
    let (_proxy, _webui) = (RoleProcess::proxy(&installation), RoleProcess::webui(&installation));
    let dir = tempfile::tempdir().unwrap();
    let promtool = tool("promtool", &dir);
    let metrics = |role: &str| {
        let mut response = String::new();
        wait_until(deadline_in(20), "it is ready", || {
            response = get(installation.role_health(role), "/metrics").unwrap_or_default();
            response.contains("memgate_role_ready 1\n")
        });
        response.split_once("\r\n\r\n").unwrap().1.to_owned()
    };
    for text in [metrics("proxy"), metrics("webui"), cache_metrics(&installation)] {
        let mut check = Command::new(&promtool);
        check.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut check = check.spawn().unwrap();
        check.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = check.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.is_empty(), "{said}\n{text}");
    }
}
