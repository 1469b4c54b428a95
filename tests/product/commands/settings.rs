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
    assert!(error.contains("proxy.lisen") && error.contains("typo.toml:2"), "{error}");
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
    installation.json(&["plan", "create", "file"]);
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

#[test]
fn config_check_finds_what_can_not_work() {
    let installation = migrated();
    let check = |settings: &[&str]| {
        let settings: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
        let output = installation.memgate(&[&["config", "check"], &settings[..]].concat()).output().unwrap();
        let printed = [&output.stdout[..], &output.stderr].concat();
        (output.status.success(), String::from_utf8(printed).unwrap())
    };
    let (valid, printed) = check(&[]);
    assert!(valid && printed.contains("the settings are valid"), "{printed}");
    let (valid, printed) = check(&[
        "proxy.tls_certificate=/nope.pem",
        "webui.endpoint=cache.example.org",
        "webui.plan=nosuch",
        "webui.base_url=cache.example.org",
        "provisioner.cpus=-1.0",
        "provisioner.subnets=10.0.0.0/30",
    ]);
    assert!(!valid && !printed.contains("the settings are valid"), "{printed}");
    for part in [
        "proxy.tls_certificate and proxy.tls_key must be set together",
        "webui.endpoint is `cache.example.org`",
        "webui.plan is nosuch, and there is no such plan",
        "webui.base_url is `cache.example.org`",
        "provisioner.cpus is invalid",
        "provisioner.subnets is invalid",
    ] {
        assert!(printed.contains(part), "{part}: {printed}");
    }
    // A certificate with another one's key.
    let new = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (one, other) = (new(), new());
    let [pem, key, wrong] = ["one.pem", "one.key", "other.key"].map(|name| installation.dir().join(name));
    fs::write(&pem, one.cert.pem()).unwrap();
    fs::write(&key, one.signing_key.serialize_pem()).unwrap();
    fs::write(&wrong, other.signing_key.serialize_pem()).unwrap();
    let certificate = format!("proxy.tls_certificate={}", pem.display());
    let with = |key: &std::path::Path| check(&[&certificate, &format!("proxy.tls_key={}", key.display())]);
    let (valid, printed) = with(&key);
    assert!(valid, "{printed}");
    let (valid, printed) = with(&wrong);
    assert!(!valid && printed.contains("don't belong together"), "{printed}");
}
