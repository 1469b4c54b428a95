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
