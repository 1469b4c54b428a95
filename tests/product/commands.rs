//! The command line's contract without any running role: documents, messages, exit statuses.

mod accounts;
mod api_keys;
mod caches;
mod help;
mod ordinary_user;
mod plans;
mod settings;
mod stores;
mod tokens;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use serde_json::Value;

use crate::harness::Installation;

/// An installation after `memgate migrate`.
fn migrated() -> Installation {
    let installation = Installation::with_sqlite();
    assert!(installation.run(&["migrate"]).status.success());
    installation
}

/// Runs a command that must fail with `status`. Returns its `{"error","fix"}`.
fn failure(installation: &Installation, arguments: &[&str], status: i32) -> (String, String) {
    let output = installation.memgate(arguments).arg("--json").output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {stderr}");
    let last = stderr.lines().last().unwrap_or_default();
    let printed: Value = serde_json::from_str(last).unwrap_or_else(|_| panic!("{arguments:?}: {stderr}"));
    (printed["error"].as_str().unwrap().to_owned(), printed["fix"].as_str().unwrap().to_owned())
}

#[test]
fn user_and_tokens_are_created_and_revoked() {
    let installation = migrated();
    let added = installation.json(&["user", "add", "Ada@Example.org", "--no-wait"]);
    assert_eq!(added["email"], "ada@example.org");
    assert_eq!(added["endpoint"], installation.endpoint().to_string());
    let (username, password) = (added["username"].as_str().unwrap(), added["password"].as_str().unwrap());
    assert_eq!(added["token"], format!("{username}_{password}"));
    assert!(username.starts_with("mg_") && username.len() == 15, "{username}");

    let made = installation.json(&["token", "create", "ada@example.org", "--name", "ci"]);
    for key in ["email", "cache", "endpoint", "username", "password", "token"] {
        assert!(made[key].is_string(), "{key}");
    }
    let tokens = installation.json(&["token", "list", "ada@example.org"]);
    let tokens = tokens["tokens"].as_array().unwrap();
    assert_eq!(tokens.len(), 2);
    assert!(tokens.iter().any(|token| token["name"] == "ci" && token["revoked_at"].is_null()));

    let id = made["username"].as_str().unwrap();
    assert!(installation.json(&["token", "revoke", id])["revoked_at"].is_i64());
    let shown = installation.json(&["user", "show", "ada@example.org"]);
    assert_eq!(shown["caches"][0]["state"], "pending");
    assert_eq!(shown["tokens"].as_array().unwrap().iter().filter(|t| t["revoked_at"].is_i64()).count(), 1);

    assert_eq!(installation.json(&["user", "list"])["users"][0]["email"], "ada@example.org");
    assert_eq!(installation.json(&["instance", "list"])["instances"][0]["state"], "pending");
    assert_eq!(installation.json(&["instance", "show", "ada@example.org"])["memory_mb"], 64);
    // The store contains only hashes of secrets.
    let secret = made["password"].as_str().unwrap().as_bytes();
    for file in ["db/memgate.db", "db/memgate.db-wal"] {
        let kept = fs::read(installation.data().join(file)).unwrap_or_default();
        assert!(!kept.windows(secret.len()).any(|window| window == secret), "{file}");
    }
}

#[test]
fn audit_log_records_actions_and_is_verified() {
    let installation = migrated();
    installation.json(&["user", "add", "ada@example.org", "--no-wait"]);
    let first = installation.json(&["audit", "verify"]);
    assert_eq!(first["entries"], 1);
    let made = installation.json(&["token", "create", "ada@example.org"]);
    installation.json(&["token", "revoke", made["username"].as_str().unwrap()]);
    let list = installation.json(&["audit", "list", "--limit", "2"]);
    let actions: Vec<_> = list["entries"].as_array().unwrap().iter().map(|entry| &entry["action"]).collect();
    assert_eq!(actions, ["token.create", "token.revoke"]);
    let exported = installation.run(&["audit", "export"]).stdout;
    let exported = String::from_utf8(exported).unwrap();
    assert_eq!(exported.lines().count(), 3);
    assert!(!exported.contains(made["password"].as_str().unwrap()));
    let head = first["head"].as_str().unwrap();
    assert_eq!(installation.json(&["audit", "verify", "--head", head])["entries"], 3);
    // In words: dates and e-mail addresses.
    let ada = installation.json(&["user", "show", "ada@example.org"]);
    let rotated =
        installation.json(&["token", "create", "ada@example.org", "--name", "shop", "--expires", "30d"]);
    installation.json(&["token", "rotate", rotated["username"].as_str().unwrap()]);
    let text = String::from_utf8(installation.run(&["audit", "list"]).stdout).unwrap();
    assert!(text.contains("user ada@example.org") && text.contains("(shop of ada@example.org)"), "{text}");
    assert!(text.contains("the old one expires at 20") && text.contains(" UTC"), "{text}");
    assert!(!text.contains(ada["id"].as_str().unwrap()), "{text}");
    let has_milliseconds = text.split(|c: char| !c.is_ascii_digit()).any(|number| number.len() == 13);
    assert!(!has_milliseconds, "{text}");
    // Filters and pages.
    installation.json(&["user", "add", "bob@example.org", "--no-wait"]);
    let seqs = |arguments: &[&str]| -> Vec<i64> {
        let list = installation.json(&[&["audit", "list"], arguments].concat());
        list["entries"].as_array().unwrap().iter().map(|entry| entry["seq"].as_i64().unwrap()).collect()
    };
    assert_eq!(seqs(&["--user", "ada@example.org"]), [1, 2, 3, 4, 5]);
    assert_eq!(seqs(&["--user", "bob@example.org"]), [6]);
    assert_eq!(seqs(&["--user", "ada@example.org", "--limit", "2", "--before", "4"]), [2, 3]);
    assert_eq!(seqs(&["--since", "1h"]).len(), 6);
    assert_eq!(seqs(&["--since", "0s"]), [0; 0]);
    failure(&installation, &["audit", "list", "--user", "nobody@example.org"], 1);
    let (what, fix) = failure(&installation, &["audit", "verify", "--head", "abc"], 1);
    assert!(what.contains("no longer contains that head") && fix.contains("restore"), "{what}: {fix}");
}

#[test]
fn purge_is_refused_with_postgresql() {
    let installation = migrated();
    let files =
        || fs::read_dir(installation.data()).unwrap().flatten().map(|it| it.file_name()).collect::<Vec<_>>();
    let before = files();
    let elsewhere = "store.url=postgres://memgate@127.0.0.1:1/memgate";
    let (error, fix) = failure(&installation, &["down", "--purge", "--set", elsewhere], 1);
    assert_eq!(error, "--purge doesn't empty PostgreSQL");
    assert!(fix.contains("drop the database yourself") && fix.contains("`memgate down`"), "{fix}");
    assert_eq!(files(), before);
}

#[test]
fn every_error_names_the_fix() {
    let installation = migrated();
    installation.json(&["user", "add", "ada@example.org", "--no-wait"]);
    for (arguments, what) in [
        (["user", "add", "ada@example.org", "--no-wait"].as_slice(), "taken"),
        (&["user", "add", "ADA@example.org", "--no-wait"], "taken"),
        (&["user", "add", "ada", "--no-wait"], "e-mail"),
        (&["user", "add", "bob@example.org", "--plan", "gold", "--no-wait"], "plan"),
        (&["user", "show", "bob@example.org"], "no user"),
        (&["token", "create", "bob@example.org"], "no user"),
        (&["token", "list", "bob@example.org"], "no user"),
        (&["token", "revoke", "mg_000000000000"], "no such token"),
        (&["token", "revoke", "x"], "no such token"),
        (&["token", "show", "x"], "no such token"),
        (&["token", "certify", "mg_000000000000"], "no such token"),
        (&["token", "rotate", "mg_000000000000"], "no such token"),
        (&["token", "update", "mg_000000000000", "--scope", "read"], "no such token"),
        (&["instance", "show", "bob@example.org"], "no user"),
        (&["status"], "not everything is ready"),
        (&["user", "list", "--config", "/nonexistent.toml"], "no settings file"),
        (&["user", "list", "--data", "/nonexistent"], "no memgate data"),
    ] {
        let (error, fix) = failure(&installation, arguments, 1);
        assert!(error.contains(what) && !fix.is_empty(), "{arguments:?}: {error}: {fix}");
    }
    assert_eq!(installation.json(&["user", "list"])["users"].as_array().unwrap().len(), 1);
    for arguments in [
        ["user"].as_slice(),
        &["no-such-command"],
        &["user", "add"],
        &["token", "create", "a", "-x"],
        &["audit", "list", "--limit", "0"],
        &["audit", "list", "--limit=-1"],
    ] {
        failure(&installation, arguments, 2);
    }
    let create = ["token", "create", "ada@example.org"];
    for (wrong, what) in [
        (["--scope", "admin"].as_slice(), "use read, write, flush or stats"),
        (&["--scope", ","], "use some of read, write, flush, stats"),
        (&["--prefix", "two words"], "without spaces"),
        (&["--expires", "tomorrow"], "write it like 90s"),
        (&["--expires", "0s"], "or never"),
        (&["--allow-from", "10.0.0.1/8"], "write 10.0.0.0/8"),
        (&["--allow-from", "any", "--allow-from", "::/0"], "any is combined with networks"),
    ] {
        let (error, _) = failure(&installation, &[&create[..], wrong].concat(), 2);
        assert!(error.contains(what), "{wrong:?}: {error}");
    }
    let (error, fix) = failure(&installation, &["token", "update", "mg_000000000000"], 2);
    assert!(error.contains("nothing to update") && fix.contains("--scope"), "{error}: {fix}");
    let plain = installation.run(&["user", "show", "bob@example.org"]);
    assert_eq!(
        String::from_utf8_lossy(&plain.stderr),
        "error: no user bob@example.org: `memgate user list` shows all users\n"
    );
    assert!(plain.stdout.is_empty());
}

#[test]
fn passwords_are_read_from_stdin_and_stored_as_argon2id() {
    let installation = migrated();
    let add = |email: &str, password: &str| {
        let mut child = installation
            .memgate(&["user", "add", email, "--password-stdin", "--no-wait", "--json"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let short = add("ada@example.org", "short\n");
    assert_eq!(short.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&short.stderr).contains("10"), "{short:?}");
    let good = add("ada@example.org", "correct horse battery\n");
    assert!(good.status.success(), "{good:?}");
    let kept: Vec<u8> = ["db/memgate.db", "db/memgate.db-wal"]
        .iter()
        .flat_map(|file| fs::read(installation.data().join(file)).unwrap_or_default())
        .collect();
    let contains = |text: &str| kept.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(contains("$argon2id$v=19$m=19456,t=2,p=1$") && !contains("correct horse"));
}

// W-14.
#[test]
fn world_readable_keys_and_databases_are_rejected() {
    for file in ["token.key", "db/memgate.db"] {
        let installation = migrated();
        let path = installation.data().join(file);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let (error, fix) = failure(&installation, &["up"], 1);
        assert!(error.contains("read by everybody") && fix.contains("chmod o="), "{file}: {error}: {fix}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644, "{file}");
    }
}

#[test]
fn deleting_needs_yes_without_a_terminal() {
    let installation = migrated();
    installation.json(&["user", "add", "ada@example.org", "--no-wait"]);
    let (error, fix) = failure(&installation, &["user", "delete", "ada@example.org"], 2);
    assert!(error.contains("confirmation") && fix.contains("--yes"), "{error}: {fix}");
    assert_eq!(installation.json(&["user", "list"])["users"].as_array().unwrap().len(), 1);
}
