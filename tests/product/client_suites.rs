//! What client libraries' own tests ask of a server, in our words: each case runs through the proxy and against memcached
//! itself, and both must look the same to the library's user, except for the differences named here.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use testkit::{Memcached, MemcachedBinary, StandaloneMemcached, TestProxy};

use crate::client_libraries::tool;

/// A script of tests/clients, and the addresses of its memcached's network.
struct Suite {
    script: &'static str,
    instance: &'static str,
    cases_min: usize,
    /// Cases that may have another result through the proxy, each with the reason.
    differences: &'static [(&'static str, &'static str)],
}

const SUITES: [Suite; 4] = [
    Suite {
        script: "cases_pymemcache.py",
        instance: "10.99.51.1",
        cases_min: 30,
        differences: &[
            ("commands_of_an_operator", "they reach beyond the caller's own data"),
            ("empty_key", "the proxy replies as memcached 1.6.45, whatever version runs"),
        ],
    },
    Suite { script: "cases_bmemcached.py", instance: "10.99.52.1", cases_min: 18, differences: &[] },
    Suite { script: "cases_pylibmc.py", instance: "10.99.53.1", cases_min: 22, differences: &[] },
    Suite { script: "cases_php.php", instance: "10.99.54.1", cases_min: 30, differences: &[] },
];

/// Runs a suite. Returns the results by case.
fn run(script: &str, endpoint: SocketAddr, credentials: &[&str]) -> BTreeMap<String, String> {
    let mut command = if script.ends_with(".php") {
        Command::new("php")
    } else {
        Command::new(tool("MEMGATE_TEST_PYTHON", "target/tools/python/bin/python"))
    };
    // For pip's pylibmc, as docs/clients.md says.
    command.env("SASL_PATH", format!("/usr/lib/{}-linux-gnu/sasl2", std::env::consts::ARCH));
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script);
    let output = command.arg(path).arg(endpoint.to_string()).args(credentials).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {stderr}");
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(|line| serde_json::from_str::<(String, String)>(line).unwrap()).collect()
}

fn compare(suite: &Suite) {
    let direct = StandaloneMemcached::start(&MemcachedBinary::debian());
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ada@example.org");
    let _memcached = Memcached::start(&proxy, &token, suite.instance);
    let (username, secret) = (token.id().username(), token.secret().reveal().to_owned());
    let expected = run(suite.script, direct.address, &[]);
    let found = run(suite.script, proxy.config.listen, &[&username, &secret]);
    assert!(expected.len() >= suite.cases_min, "{} cases", expected.len());
    assert_eq!(expected.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
    let mut wrong = Vec::new();
    for (case, expected) in &expected {
        let is_named = suite.differences.iter().any(|(name, _)| name == case);
        let found = &found[case];
        if expected != found && !is_named {
            wrong.push(format!("{case}\n  memcached: {expected}\n  proxy:     {found}"));
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", suite.script, wrong.join("\n"));
}

// S-1, S-7.
#[test]
fn pymemcache_sees_no_difference() {
    compare(&SUITES[0]);
}

// S-1.
#[test]
fn python_binary_memcached_sees_no_difference() {
    compare(&SUITES[1]);
}

// S-1.
#[test]
fn pylibmc_sees_no_difference() {
    compare(&SUITES[2]);
}

// S-1.
#[test]
fn php_memcached_sees_no_difference() {
    compare(&SUITES[3]);
}
