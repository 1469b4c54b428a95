//! Rules of the code that no compiler checks: who may depend on whom, which modules stay pure, import cycles,
//! lengths, words, metric labels, and that every rule of docs/ has its test.

mod cycles;
mod labels;
mod settings;
mod sizes;
mod source;
mod traceability;
mod words;

use std::collections::BTreeSet;
use std::fs;

use source::{Source, root};

/// A crate of ours, and all it may depend on among ours and the libraries that have one owner.
const MAY_DEPEND_ON: [(&str, &[&str]); 10] = [
    (".", &["daemon", "identity", "provisioner", "proxy", "store", "webui"]),
    ("daemon", &[]),
    ("identity", &["store"]),
    ("provisioner", &["daemon", "store", "bollard"]),
    ("proxy", &["daemon", "store"]),
    ("store", &["sqlx"]),
    ("tests/fuzz", &["proxy"]),
    ("tests/load", &["daemon", "store"]),
    ("tests/testkit", &["daemon", "proxy", "store"]),
    ("webui", &["daemon", "identity", "store"]),
];

/// Bytes and values in, values out: no sockets, no waiting, no store, no clock.
const PURE: [&str; 10] = [
    "daemon/src/source",
    "proxy/src/auth/backoff",
    "proxy/src/login",
    "proxy/src/policy",
    "proxy/src/protocol",
    "proxy/src/transport/address",
    "proxy/src/transport/proxy_protocol",
    "provisioner/src/pages",
    "provisioner/src/plan",
    "provisioner/src/subnet",
];
const IMPURE: [&str; 12] = [
    "tokio",
    ".await",
    "async fn",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "store::Store",
    "SystemTime::now",
    "Instant::now",
    "Timestamp::now",
    "std::fs",
    "std::thread",
];

/// The folders of all crates that are part of the product, or of its tests.
fn crates() -> Vec<&'static str> {
    MAY_DEPEND_ON.iter().map(|(folder, _)| *folder).collect()
}

#[test]
fn every_crate_is_listed() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let members = manifest.lines().find_map(|line| line.strip_prefix("members = ")).unwrap();
    for member in members.split('"').skip(1).step_by(2) {
        assert!(crates().contains(&member), "{member} is missing from MAY_DEPEND_ON");
    }
}

#[test]
fn every_edge_is_allowed() {
    let ours = crates().into_iter().filter_map(|folder| folder.rsplit('/').next());
    let restricted: BTreeSet<&str> = ours.chain(["bollard", "sqlx"]).collect();
    for (folder, allowed) in MAY_DEPEND_ON {
        let manifest = root().join(folder).join("Cargo.toml");
        for name in dependencies(&fs::read_to_string(&manifest).unwrap()) {
            let fine = !restricted.contains(name.as_str()) || allowed.contains(&name.as_str());
            assert!(fine, "{} may not depend on {name}", manifest.display());
        }
    }
}

/// Names under [dependencies] and [build-dependencies]; tests may depend on more.
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
    for name in PURE {
        let files = source::module(name);
        assert!(!files.is_empty(), "{name} is on the list of pure modules and doesn't exist");
        for file in files.iter().filter(|file| !file.path.ends_with("/tests.rs")) {
            for (number, line) in Source::parse(&file.text).product_code().lines().enumerate() {
                let impure = IMPURE.iter().find(|impure| line.contains(*impure));
                assert!(impure.is_none(), "{}:{}: {impure:?} in a pure module", file.path, number + 1);
            }
        }
    }
}

#[test]
fn libraries_stay_with_their_owner() {
    for (word, owner) in [("bollard::", "provisioner/"), ("sqlx::", "store/")] {
        for file in product_files() {
            let ours = file.path.starts_with(owner);
            assert!(ours || !file.text.contains(word), "{} uses {word}", file.path);
        }
    }
}

#[test]
fn no_unsafe_code_and_no_file_without_a_first_line() {
    for file in product_files() {
        assert!(file.text.starts_with("//!"), "{} doesn't say what it is for", file.path);
        let unsafe_code = file.text.lines().any(|line| line.trim_start().starts_with("unsafe "));
        assert!(!unsafe_code, "{} holds unsafe code", file.path);
    }
}

// V-7.
#[test]
fn the_data_path_can_not_panic_on_input() {
    let lib = fs::read_to_string(root().join("proxy/src/lib.rs")).unwrap();
    let denied = lib.lines().find_map(|line| line.strip_prefix("#![deny(")).unwrap_or_default();
    for lint in ["unwrap_used", "expect_used", "indexing_slicing", "as_conversions"] {
        assert!(denied.contains(&format!("clippy::{lint}")), "proxy/src/lib.rs doesn't deny clippy::{lint}");
    }
}

// V-8.
#[test]
fn release_builds_check_overflow_and_unwind() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let (_, release) = manifest.split_once("[profile.release]").unwrap();
    let release = release.split("\n[").next().unwrap_or_default();
    assert!(release.contains("overflow-checks = true") && !release.contains("panic = \"abort\""));
}

fn product_files() -> Vec<source::File> {
    crates().into_iter().flat_map(|folder| source::files(&format!("{folder}/src"), &[".rs"])).collect()
}
