//! Sets `BUILD_VERSION`: the package's version, and the commit that it is built from, if git knows it. Cargo passes it on to
//! what it runs, where `MEMGATE_...` would be a setting.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let version = env!("CARGO_PKG_VERSION");
    let version = match git(&["rev-parse", "--short=12", "HEAD"]) {
        Some(commit) => format!("{version} ({commit})"),
        None => version.to_owned(),
    };
    println!("cargo:rustc-env=BUILD_VERSION={version}");
    // The reflog changes with every commit and checkout; without one, HEAD, its branch and packed refs do.
    let branch = git(&["rev-parse", "--symbolic-full-name", "HEAD"]).unwrap_or_default();
    for name in ["HEAD", "logs/HEAD", "packed-refs", &branch] {
        let path = git(&["rev-parse", "--git-path", name]);
        // Cargo would run this script every time for a path that doesn't exist.
        if let Some(path) = path.filter(|path| Path::new(path).is_file()) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
}

/// What git prints, in this package's repository and in no repository around it.
fn git(arguments: &[&str]) -> Option<String> {
    if arguments.contains(&"") || !Path::new(".git").exists() {
        return None;
    }
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
