//! Settings: unknown keys, and the precedence of file, environment and `--set`.

use std::fs;

use serde_json::Value;

use super::{failure, migrated};

#[test]
fn unknown_settings_are_rejected_in_every_layer() {
    let installation = migrated();
    let file = installation.dir().join("typo.toml");
    fs::write(&file, "[proxy]\nlisen = \"127.0.0.1:1\"\n").unwrap();
    let (error, fix) = failure(&installation, &["config", "check", "--config", file.to_str().unwrap()], 1);
    assert!(error.contains("proxy.lisen") && error.contains("typo.toml"), "{error}");
    assert!(fix.contains("proxy.listen"), "{fix}");

    for (name, key, suggestion) in [
        ("MEMGATE_PROXY__LISEN", "proxy.lisen", "proxy.listen"),
        ("MEMGATE_PROXY_LISTEN", "proxy_listen", "proxy.listen"),
        ("MEMGATE_STOER__PATH", "stoer", "store"),
    ] {
        let output = installation.memgate(&["config", "check"]).env(name, "x").output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr.contains(key) && stderr.contains(suggestion), "{name}: {stderr}");
    }
    let (error, fix) = failure(&installation, &["config", "check", "--set", "webui.listn=1"], 1);
    assert!(error.contains("webui.listn") && fix.contains("webui.listen"), "{error}: {fix}");
    let (error, _) = failure(&installation, &["config", "check", "--set", "webui.listen=here"], 1);
    assert!(error.contains("webui.listen"), "{error}");
}

#[test]
fn later_layers_take_precedence() {
    let installation = migrated();
    let file = installation.data().join("memgate.toml");
    fs::write(&file, "[log]\nfilter = \"warn\"\n[webui]\nplan = \"file\"\n").unwrap();
    let read = installation.json(&["config", "check"]);
    assert_eq!((&read["log"]["filter"], &read["webui"]["plan"]), (&"warn".into(), &"file".into()));
    let output = installation
        .memgate(&["config", "check", "--json"])
        .env("MEMGATE_LOG__FILTER", "error")
        .output()
        .unwrap();
    let read: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(read["log"]["filter"], "error");
    let output = installation
        .memgate(&["config", "check", "--json", "--set", "log.filter=debug"])
        .env("MEMGATE_LOG__FILTER", "error")
        .output()
        .unwrap();
    let read: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(read["log"]["filter"], "debug");
    let read = installation.json(&["config", "check", "--set", "store.url=postgres://a@h/d?password=secret"]);
    assert_eq!(read["store"]["url"], "postgres://a@h/d?password=***");
    // The endpoint defaults to the proxy's listen address.
    assert_eq!(read["webui"]["endpoint"], installation.endpoint().to_string());
}
