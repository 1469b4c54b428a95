//! `memgate user update` and `delete`, and what deletes: what happens to existing caches, questions, dry runs.

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::{failure, migrated};
use crate::harness::{Installation, MEMGATE};

const ADA: &str = "ada@example.org";

#[test]
fn another_plan_says_what_existing_caches_keep() {
    let installation = migrated();
    installation.json(&["plan", "create", "small", "--memory-mb", "32", "--operations-per-second", "100"]);
    installation.json(&["user", "add", ADA, "--no-wait"]);
    installation.json(&["cache", "create", ADA, "--cache", "tiny", "--plan", "small", "--no-wait"]);
    let updated = installation.json(&["user", "update", ADA, "--plan", "small", "--admin", "yes"]);
    assert_eq!((&updated["plan"], &updated["is_admin"]), (&"small".into(), &true.into()));
    assert_eq!(updated["keep_their_size"], serde_json::json!([]));
    for cache in ["default", "tiny"] {
        assert_eq!(installation.json(&["cache", "show", ADA, "--cache", cache])["plan"], "small");
    }
    // The memory follows, and is given to memcached by an operation.
    let shown = installation.json(&["cache", "show", ADA, "--cache", "default"]);
    assert_eq!((&shown["memory_mb"], &shown["operations"][0]["memory_mb"]), (&32.into(), &32.into()));
    // The others stay; a cache that is created again has the plan's.
    installation.json(&["plan", "create", "many", "--memory-mb", "32", "--connections", "50000"]);
    installation.json(&["cache", "create", ADA, "--cache", "busy", "--plan", "many", "--no-wait"]);
    let updated = installation.json(&["user", "update", ADA, "--plan", "many"]);
    assert_eq!(updated["keep_their_size"], serde_json::json!(["default", "tiny"]));
    let text = installation.run(&["user", "update", ADA, "--admin", "no"]).stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("Cache default differs from its plan") && !text.contains("Cache busy"), "{text}");
    installation.json(&["cache", "delete", ADA, "--cache", "busy", "--yes", "--no-wait"]);
    installation.json(&["user", "update", ADA, "--plan", "small"]);
    installation.json(&["cache", "delete", ADA, "--cache", "default", "--yes", "--no-wait"]);
    installation.json(&["cache", "create", ADA, "--no-wait"]);
    assert_eq!(installation.json(&["cache", "show", ADA, "--cache", "default"])["memory_mb"], 32);
    assert_eq!(
        installation.json(&["user", "update", ADA, "--plan", "small"])["keep_their_size"],
        serde_json::json!([])
    );

    let (error, fix) = failure(&installation, &["user", "update", ADA, "--plan", "gold"], 1);
    assert!(error == "no plan gold" && fix.contains("`memgate plan list`"), "{error}: {fix}");
    let (error, fix) = failure(&installation, &["user", "update", ADA], 2);
    assert!(error == "nothing to update" && fix.contains("--plan"), "{error}: {fix}");
    failure(&installation, &["user", "update", "bob@example.org", "--plan", "small"], 1);
    failure(&installation, &["user", "update", ADA, "--admin", "perhaps"], 2);
}

#[test]
fn another_plan_empties_warm_caches_only_with_force() {
    let installation = migrated();
    for (name, memory_mb) in [("large", "256"), ("small", "128")] {
        installation.json(&["plan", "create", name, "--memory-mb", memory_mb, "--warm", "true"]);
    }
    installation.json(&["user", "add", ADA, "--plan", "large", "--no-wait"]);
    let smaller = ["user", "update", ADA, "--plan", "small"];
    let (error, fix) = failure(&installation, &smaller, 1);
    assert!(
        error.contains("plan small empties the user's warm caches: 1") && fix.contains("--force"),
        "{fix}"
    );
    assert_eq!(installation.json(&["user", "show", ADA])["plan"], "large");
    assert_eq!(installation.json(&[&smaller[..], &["--force"]].concat())["plan"], "small");
    assert_eq!(installation.json(&["cache", "show", ADA])["memory_mb"], 128);
    installation.json(&["user", "update", ADA, "--plan", "large"]);
    failure(&installation, &["user", "update", ADA, "--admin", "yes", "--force"], 2);
}

#[test]
fn dry_runs_delete_nothing() {
    let installation = migrated();
    installation.json(&["user", "add", ADA, "--no-wait"]);
    installation.json(&["plan", "create", "small"]);
    let deleted = installation.json(&["user", "delete", ADA, "--dry-run"]);
    assert_eq!((&deleted["deleted"], &deleted["tokens"]), (&false.into(), &1.into()));
    assert_eq!(deleted["caches"], serde_json::json!(["default"]));
    let deleted = installation.json(&["cache", "delete", ADA, "--dry-run"]);
    assert_eq!((&deleted["deleted"], &deleted["tokens_revoked"]), (&false.into(), &1.into()));
    assert_eq!(installation.json(&["plan", "delete", "small", "--dry-run"])["deleted"], false);
    let shown = installation.json(&["user", "show", ADA]);
    assert_eq!(shown["caches"].as_array().unwrap().len(), 1);
    assert!(shown["tokens"][0]["revoked_at"].is_null());
    failure(&installation, &["user", "delete", ADA, "--dry-run", "--yes"], 2);
    let down = installation.json(&["down", "--purge", "--dry-run"]);
    assert_eq!((&down["dry_run"], &down["containers"]), (&true.into(), &0.into()));
    let files = down["files"].as_array().unwrap();
    assert!(files.iter().any(|file| file.as_str().unwrap().ends_with("token.key")), "{files:?}");
    assert!(installation.data().join("token.key").exists());
}

#[test]
fn first_token_has_one_name_everywhere() {
    let installation = migrated();
    installation.json(&["user", "add", ADA, "--no-wait"]);
    assert_eq!(installation.json(&["token", "list", ADA])["tokens"][0]["name"], "First token");
}

/// Runs a command on a terminal, where `answer` is typed.
fn on_a_terminal(installation: &Installation, command: &str, answer: &str) -> (bool, String) {
    let line = format!("{MEMGATE} {command}");
    let prepared = installation.memgate(&[]);
    let variables = prepared.get_envs().filter_map(|(name, value)| Some((name, value?)));
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]).envs(variables);
    let mut script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    script.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
    let output = script.wait_with_output().unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn deleting_asks_on_a_terminal() {
    let installation = migrated();
    installation.json(&["user", "add", ADA, "--no-wait"]);
    let delete = format!("user delete {ADA}");
    for (command, question) in [
        (delete.as_str(), "Delete ada@example.org (caches: default; active tokens: 1)? [y/N]"),
        ("down --purge", "and all users, tokens and keys in"),
    ] {
        let (succeeds, printed) = on_a_terminal(&installation, command, "n\n");
        assert!(!succeeds && printed.contains(question), "{command}: {printed}");
        assert!(printed.contains("nothing was deleted"), "{command}: {printed}");
        assert_eq!(installation.json(&["user", "list"])["users"].as_array().unwrap().len(), 1);
    }
    let (succeeds, printed) = on_a_terminal(&installation, &delete, "y\n");
    assert!(succeeds && printed.contains("deleted ada@example.org"), "{printed}");
    // Neither asks with --yes.
    let (succeeds, printed) = on_a_terminal(&installation, "down --purge --yes", "");
    assert!(succeeds && !printed.contains("[y/N]") && !installation.data().exists(), "{printed}");
}
