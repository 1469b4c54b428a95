//! `memgate plan`.

use super::{failure, migrated};

#[test]
fn plan_is_created_updated_and_used() {
    let installation = migrated();
    let created = installation.json(&[
        "plan",
        "create",
        "small",
        "--memory-mb",
        "32",
        "--operations-per-second",
        "2000",
    ]);
    assert_eq!((&created["memory_mb"], &created["operations_per_second"]), (&32.into(), &2000.into()));
    assert_eq!(created["connections"], 20_000, "other limits are those of the default plan");
    let added = installation.json(&["user", "add", "ada@example.org", "--plan", "small", "--no-wait"]);
    assert_eq!(added["plan"], "small");
    assert_eq!(installation.json(&["instance", "show", "ada@example.org"])["memory_mb"], 32);
    let limits = ["--operations-per-second", "none", "--bytes-per-second", "5000000"];
    let updated = installation.json(&[&["plan", "update", "small"][..], &limits].concat());
    assert!(updated["operations_per_second"].is_null());
    assert_eq!((&updated["bytes_per_second"], &updated["memory_mb"]), (&5_000_000.into(), &32.into()));
    let list = String::from_utf8(installation.run(&["plan", "list"]).stdout).unwrap();
    assert!(list.contains("BYTES/S") && list.contains("5000000") && list.contains("no limit"), "{list}");
    let (error, fix) = failure(&installation, &["plan", "create", "small"], 1);
    assert!(error.contains("plan small already exists") && fix.contains("plan update"), "{error}: {fix}");
    let (error, fix) = failure(&installation, &["plan", "update", "huge", "--connections", "1"], 1);
    assert!(error.contains("no plan huge") && fix.contains("plan list"), "{error}: {fix}");
    failure(&installation, &["plan", "update", "small", "--bytes-per-second", "0"], 2);
}

#[test]
fn plan_update_says_which_caches_keep_their_size() {
    let installation = migrated();
    installation.json(&["user", "add", "ada@example.org", "--no-wait"]);
    let updated = installation.json(&["plan", "update", "default", "--operations-per-second", "100"]);
    assert_eq!(updated["caches_of_other_size"], 0);
    let to_128 = ["plan", "update", "default", "--memory-mb", "128", "--new-caches-only"];
    let updated = installation.json(&to_128);
    assert_eq!((&updated["caches_of_other_size"], &updated["memory_mb"]), (&1.into(), &128.into()));
    assert_eq!(updated["caches_resized"], 0);
    let text = installation.run(&to_128).stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("1 of them keep their memory") && text.contains("created again"), "{text}");
    let (error, fix) = failure(&installation, &["plan", "update", "default"], 2);
    assert!(error == "nothing to update" && fix.contains("--memory-mb"), "{error}: {fix}");
}

#[test]
fn plan_update_resizes_its_caches() {
    let installation = migrated();
    installation.json(&["user", "add", "ada@example.org", "--no-wait"]);
    let updated = installation.json(&["plan", "update", "default", "--memory-mb", "128"]);
    assert_eq!((&updated["caches_resized"], &updated["caches_of_other_size"]), (&1.into(), &0.into()));
    let shown = installation.json(&["cache", "show", "ada@example.org"]);
    assert_eq!(shown["memory_mb"], 128);
    let (error, fix) = failure(&installation, &["plan", "update", "default", "--memory-mb", "1"], 1);
    assert!(error.contains("needs at least 2 MB") && !fix.is_empty(), "{error}: {fix}");
    let both = ["plan", "update", "default", "--memory-mb", "64", "--force", "--new-caches-only"];
    failure(&installation, &both, 2);
    // Those that aren't warm yet are resized in place, and less memory empties warm ones, also if they cease to be.
    let warm = ["plan", "update", "default", "--memory-mb", "100", "--warm", "true"];
    assert_eq!(installation.json(&warm)["caches_resized"], 1);
    let smaller = ["plan", "update", "default", "--memory-mb", "64", "--warm", "false"];
    let (error, fix) = failure(&installation, &smaller, 1);
    assert!(error.contains("empties the warm caches with the plan default: 1"), "{error}");
    assert!(fix.contains("--force") && fix.contains("--new-caches-only"), "{fix}");
    assert_eq!(installation.json(&["cache", "show", "ada@example.org"])["memory_mb"], 100);
    assert_eq!(installation.json(&[&smaller[..], &["--force"]].concat())["caches_resized"], 1);
}

#[test]
fn plan_has_a_weight_a_number_of_caches_and_a_price() {
    let installation = migrated();
    let price = "<b>5 € a month</b>";
    let create =
        ["plan", "create", "large", "--cpu-weight", "200", "--caches-per-user", "2", "--price-label", price];
    let created = installation.json(&create);
    assert_eq!((&created["cpu_weight"], &created["caches_per_user"]), (&200.into(), &2.into()));
    assert_eq!(created["price_label"], price);
    let list = String::from_utf8(installation.run(&["plan", "list"]).stdout).unwrap();
    assert!(list.contains("CPU WEIGHT") && list.contains(price), "{list}");
    installation.json(&["user", "add", "ada@example.org", "--plan", "large", "--no-wait"]);
    let add = |name: &'static str| ["cache", "create", "ada@example.org", "--cache", name, "--no-wait"];
    installation.json(&add("second"));
    let (error, fix) = failure(&installation, &add("third"), 1);
    assert!(error.contains("limit of caches") && fix.contains("--caches-per-user"), "{error}: {fix}");
    let changed = ["plan", "update", "large", "--caches-per-user", "none", "--price-label", ""];
    let changed = installation.json(&changed);
    assert!(changed["caches_per_user"].is_null() && changed["price_label"].is_null(), "{changed}");
    installation.json(&add("third"));
    let long = "x".repeat(61);
    for wrong in [["--price-label", &long], ["--price-label", "a\u{1b}[31mb"], ["--cpu-weight", "0"]] {
        failure(&installation, &[&["plan", "update", "large"][..], &wrong].concat(), 2);
    }
}

//
#[test]
fn plan_with_more_connections_than_a_cache_gets_is_warned_about() {
    let installation = migrated();
    let warning = |arguments: &[&str], proxy: &str| {
        let output = installation.memgate(arguments).args(["--set", proxy]).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{arguments:?}: {stderr}");
        stderr
    };
    let small = "proxy.connections=1000";
    let told = warning(&["plan", "create", "large", "--connections", "251"], small);
    assert!(told.contains("plan large allows 251 connections") && told.contains("(1000): 250"), "{told}");
    let update = ["plan", "update", "large", "--connections"];
    assert_eq!(warning(&[&update[..], &["250"]].concat(), small), "");
    assert_eq!(warning(&[&update[..], &["251"]].concat(), "proxy.connections=1004"), "");
    assert!(warning(&[&update[..], &["252"]].concat(), "proxy.connections=1004").contains(": 251"));
    let told = warning(&["plan", "list"], small);
    assert_eq!(told.lines().count(), 2, "the default plan, too: {told}");
    let help = String::from_utf8(installation.run(&["plan", "update", "--help"]).stdout).unwrap();
    assert!(help.contains("a quarter of") && help.contains("Examples:"), "{help}");
}

#[test]
fn only_an_unused_plan_is_deleted() {
    let installation = migrated();
    installation.json(&["plan", "create", "small"]);
    installation.json(&["user", "add", "ada@example.org", "--plan", "small", "--no-wait"]);
    let (error, fix) = failure(&installation, &["plan", "delete", "small", "--yes"], 1);
    assert!(error.contains("have the plan small") && fix.contains("memgate user update"), "{error}: {fix}");
    installation.json(&["user", "update", "ada@example.org", "--plan", "default"]);
    let (error, fix) = failure(&installation, &["plan", "delete", "small"], 2);
    assert!(error.contains("confirmation") && fix.contains("--yes"), "{error}: {fix}");
    assert_eq!(installation.json(&["plan", "delete", "small", "--yes"])["deleted"], true);
    for (name, what) in [("small", "no plan small"), ("default", "the default plan can't be deleted")] {
        let (error, _) = failure(&installation, &["plan", "delete", name, "--yes"], 1);
        assert_eq!(error, what);
    }
}

#[test]
fn plan_of_new_users_is_not_deleted() {
    let installation = migrated();
    installation.json(&["plan", "create", "small"]);
    let of_new_users = ["plan", "delete", "small", "--yes", "--set", "webui.plan=small"];
    let (error, fix) = failure(&installation, &of_new_users, 1);
    assert!(error.contains("new users get the plan small") && fix.contains("webui.plan"), "{error}: {fix}");
    assert_eq!(installation.json(&["plan", "delete", "small", "--yes"])["deleted"], true);
}
