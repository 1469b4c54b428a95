//! Who may depend on whom, and which modules stay pure. `deny.toml` says the first half too; this test
//! needs no tool, and names the file that breaks a rule.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const CRATES: [&str; 6] = ["daemon", "provisioner", "proxy", "store", "tests/load", "webui"];

/// A crate of ours, and all it may depend on among ours and the libraries that have one owner.
const MAY_DEPEND_ON: [(&str, &[&str]); 8] = [
    (".", &["daemon", "provisioner", "proxy", "store", "webui"]),
    ("daemon", &[]),
    ("provisioner", &["daemon", "store", "bollard"]),
    ("proxy", &["daemon", "store"]),
    ("store", &["sqlx"]),
    ("tests/fuzz", &["proxy"]),
    ("tests/load", &["daemon", "store"]),
    ("webui", &["daemon", "store"]),
];

/// Bytes and values in, values out: no sockets, no waiting, no store, no clock.
const PURE: [&str; 9] = [
    "proxy/src/auth/backoff",
    "proxy/src/auth/login",
    "proxy/src/policy",
    "proxy/src/protocol",
    "proxy/src/transport/address",
    "proxy/src/transport/proxy_protocol",
    "provisioner/src/plan",
    "provisioner/src/subnet",
    "provisioner/src/plan.rs",
];
const IMPURE: [&str; 7] =
    ["tokio", ".await", "async fn", "std::net::Tcp", "store::Store", "SystemTime", "Instant::now"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_edge_is_allowed() {
    let restricted: BTreeSet<&str> = CRATES.into_iter().chain(["bollard", "sqlx"]).collect();
    for (folder, allowed) in MAY_DEPEND_ON {
        let manifest = root().join(folder).join("Cargo.toml");
        for name in dependencies(&fs::read_to_string(&manifest).unwrap()) {
            let fine = !restricted.contains(name.as_str()) || allowed.contains(&name.as_str());
            assert!(fine, "{} may not depend on {name}", manifest.display());
        }
    }
}

/// Names under [dependencies] and [build-dependencies]; what tests need is theirs.
fn dependencies(manifest: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut counts = false;
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            counts = line.ends_with("dependencies]")
                && !line.contains("dev-dependencies")
                && !line.contains("workspace.");
        } else if counts && let Some((name, _)) = line.split_once(['.', '=', ' ']) {
            names.push(name.to_owned());
        }
    }
    names
}

#[test]
fn pure_modules_are_pure() {
    let mut seen = 0;
    for path in PURE.iter().flat_map(|path| sources(path)) {
        seen += 1;
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (number, line) in code.lines().enumerate() {
            let line = line.split("//").next().unwrap_or_default();
            for impure in IMPURE {
                assert!(
                    !line.contains(impure),
                    "{}:{}: {impure} in a pure module",
                    path.display(),
                    number + 1
                );
            }
        }
    }
    assert!(seen > 5, "the list of pure modules names nothing that is there");
}

#[test]
fn no_file_speaks_of_what_it_may_not_know() {
    for (word, owner) in [("bollard", "provisioner"), ("sqlx", "store")] {
        for path in CRATES.iter().chain(&["."]).flat_map(|name| sources(&format!("{name}/src"))) {
            let ours = path.strip_prefix(root()).unwrap().starts_with(owner);
            let uses = fs::read_to_string(&path).unwrap().contains(&format!("{word}::"));
            assert!(ours || !uses, "{} uses {word}", path.display());
        }
    }
}

#[test]
fn nothing_unsafe_and_no_file_without_a_first_line() {
    for path in CRATES.iter().chain(&["."]).flat_map(|name| sources(&format!("{name}/src"))) {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("//!"), "{} doesn't say what it is for", path.display());
        let unsafe_code = text.lines().any(|line| line.trim_start().starts_with("unsafe "));
        assert!(!unsafe_code, "{} holds unsafe code", path.display());
    }
}

/// Rust files at or below a path under the root: `name` is a folder, a file, or a file without its `.rs`.
fn sources(name: &str) -> Vec<PathBuf> {
    let path = root().join(name);
    let mut found = Vec::new();
    collect(&path, &mut found);
    collect(&path.with_extension("rs"), &mut found);
    found.sort();
    found.dedup();
    found
}

fn collect(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_file() && path.extension().is_some_and(|extension| extension == "rs") {
        found.push(path.to_path_buf());
    } else if let Ok(entries) = fs::read_dir(path) {
        entries.flatten().for_each(|entry| collect(&entry.path(), found));
    }
}
