//! What an operator sees of a running product.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use crate::harness::{Installation, Product, is_root};
use crate::text_client::TextClient;

// L-4: the secret is shown to an instance only, by this command too.
#[test]
fn instance_shows_what_its_memcached_says() {
    let product = Product::start();
    let ada = product.add_user("ada@example.org");
    let mut client = TextClient::log_in(product.endpoint(), &ada);
    assert_eq!(client.set("secret-key", b"secret-value"), "STORED");
    assert_eq!(client.get("secret-key"), Ok(Some(b"secret-value".to_vec())));
    let shown = product.json(&["instance", "show", &ada.email]);
    let memcached = &shown["memcached"];
    assert_eq!((&memcached["curr_items"], &memcached["evictions"]), (&1.into(), &0.into()));
    assert_eq!(memcached["limit_maxbytes"], 64 << 20);
    assert!(memcached["bytes"].as_i64().is_some_and(|bytes| (50..1000).contains(&bytes)), "{memcached}");
    let text = String::from_utf8(product.run(&["instance", "show", &ada.email]).stdout).unwrap();
    let container = shown["container"].as_str().unwrap();
    assert!(text.contains(&container[..12]) && !text.contains(container), "{text}");
    assert!(text.contains("of 64.0 MB") && !text.contains("message"), "{text}");
    let list = String::from_utf8(product.run(&["instance", "list"]).stdout).unwrap();
    assert!(list.contains("CONNECTIONS") && list.contains(" of 20000") && list.contains("HITS"), "{list}");
    let dry = product.json(&["down", "--dry-run"]);
    assert_eq!((&dry["containers"], &dry["stopped"], &dry["tables"]), (&1.into(), &true.into(), &1.into()));
    assert_eq!(client.get("secret-key"), Ok(Some(b"secret-value".to_vec())));
}

// everybody may read it, and nobody but root may write it.
#[test]
fn everybody_may_read_the_ca_certificate() {
    if !is_root() {
        return;
    }
    let product = Product::start();
    fs::set_permissions(product.dir(), Permissions::from_mode(0o755)).unwrap();
    let line = &product.stdout_lines[0];
    let rest = line.strip_prefix("TLS: let clients trust ").unwrap();
    let (path, url) = rest.split_once(", also at ").unwrap();
    let nobody = |arguments: &[&str]| {
        let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
        Command::new("setpriv").args(nobody).args(arguments).output().unwrap()
    };
    let read = nobody(&["cat", path]);
    assert!(read.status.success() && read.stdout.starts_with(b"-----BEGIN CERTIFICATE-----"), "{read:?}");
    assert_eq!(nobody(&["curl", "--silent", "--fail", url]).stdout, read.stdout);
    for change in [&["sh", "-c", "echo x >> \"$0\"", path][..], &["rm", "-f", path], &["touch", path]] {
        assert!(!nobody(change).status.success(), "{change:?}");
    }
    assert_eq!(fs::read(path).unwrap(), read.stdout);
}

/// `./deploy/up` with a build that is already there, and with one that isn't.
#[test]
fn deploy_up_shows_the_build_and_says_how_to_get_the_command() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (bin, target) = (dir.path().join("bin"), dir.path().join("target"));
    let memgate = target.join("release/memgate");
    fs::create_dir_all(&bin).unwrap();
    let write = |path: &Path, script: &str| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    };
    write(
        &bin.join("cargo"),
        "if [ \"$1\" = --version ]; then echo cargo 1.99.0; else echo \"   Compiling memgate: $*\" >&2; fi",
    );
    let up = || {
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/up"));
        let output = command.arg("-v").env("PATH", path).env("CARGO_TARGET_DIR", &target).output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (_, told) = up();
    assert!(
        told.contains("the first time takes some minutes") && told.contains("Compiling memgate"),
        "{told}"
    );
    assert!(!told.contains("--quiet"), "{told}");
    write(&memgate, "echo started \"$@\"");
    let (printed, told) = up();
    assert_eq!(printed, "started up -v\n", "{told}");
    let hint = format!("sudo ln -sf {} /usr/local/bin/memgate", memgate.display());
    assert!(told.contains(&hint) && !told.contains("the first time"), "{told}");
    symlink(&memgate, bin.join("memgate")).unwrap();
    let (printed, told) = up();
    assert!(printed == "started up -v\n" && !told.contains("ln -sf"), "{told}");
}

/// README shows what `user add` prints.
#[test]
fn readme_shows_what_user_add_prints() {
    let installation = Installation::new();
    assert!(installation.run(&["migrate"]).status.success());
    let printed = installation.run(&["user", "add", "ada@example.org", "--no-wait"]).stdout;
    let printed = String::from_utf8(printed).unwrap();
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let (_, shown) = readme.split_once("The secret is shown only once:\n\n").unwrap();
    let shown: Vec<&str> = shown
        .lines()
        .map_while(|line| line.strip_prefix("    ").or((line.is_empty()).then_some("")))
        .collect();
    let first_words = |lines: &[&str]| -> Vec<String> {
        let words = lines.iter().filter_map(|line| line.split_whitespace().next().map(str::to_owned));
        words.collect()
    };
    assert_eq!(first_words(&shown), first_words(&printed.lines().collect::<Vec<_>>()));
    assert_eq!(shown.iter().rfind(|line| !line.is_empty()), printed.lines().last().as_ref());
}
