//! `memgate cache`, and `--cache` of other commands.

use super::{failure, migrated};

const ADA: &str = "ada@example.org";

#[test]
fn caches_are_created_listed_shown_and_deleted() {
    let installation = migrated();
    installation.json(&["user", "add", ADA, "--no-wait"]);
    installation.json(&["plan", "create", "small", "--memory-mb", "32"]);
    let create = ["cache", "create", ADA, "--cache", "sessions", "--plan", "small", "--no-wait"];
    let created = installation.json(&create);
    assert_eq!((&created["cache"], &created["state"]), (&"sessions".into(), &"pending".into()));
    assert_eq!(created["endpoint"], installation.endpoint().to_string());
    let (error, fix) = failure(&installation, &create, 1);
    assert!(error.contains("already has a cache sessions") && fix.contains("--cache"), "{error}: {fix}");

    let list = installation.json(&["cache", "list", ADA]);
    let names: Vec<_> = list["caches"].as_array().unwrap().iter().map(|cache| &cache["cache"]).collect();
    assert_eq!(names, ["default", "sessions"]);
    let shown = installation.json(&["cache", "show", ADA, "--cache", "sessions"]);
    assert_eq!((&shown["plan"], &shown["memory_mb"]), (&"small".into(), &32.into()));
    assert_eq!((&shown["usage"]["hits"], &shown["usage"]["open_connections"]), (&0.into(), &0.into()));
    assert!(shown.get("address").is_none(), "users never see the instance's address");
    let text = String::from_utf8(installation.run(&["cache", "list", ADA]).stdout).unwrap();
    assert!(text.starts_with("CACHE") && text.contains("sessions"), "{text}");

    let token = installation.json(&["token", "create", ADA, "--cache", "sessions"]);
    let delete = ["cache", "delete", ADA, "--cache", "sessions"];
    let (error, fix) = failure(&installation, &delete, 2);
    assert!(error.contains("confirmation") && fix.contains("--yes"), "{error}: {fix}");
    let deleted = installation.json(&[&delete[..], &["--yes", "--no-wait"]].concat());
    assert_eq!(
        (&deleted["operation"]["kind"], &deleted["operation"]["state"]),
        (&"delete".into(), &"pending".into())
    );
    assert_eq!((&deleted["deleted"], &deleted["tokens_revoked"]), (&true.into(), &1.into()));
    let token = installation.json(&["token", "show", token["username"].as_str().unwrap()]);
    assert!(token["revoked_at"].is_i64());
    let (error, _) = failure(&installation, &["cache", "show", ADA, "--cache", "sessions"], 1);
    assert!(error.contains("has no cache sessions"), "{error}");
    installation.json(&create);
}

#[test]
fn a_cache_sleeps_when_it_is_told_to_or_when_its_plan_says() {
    let installation = migrated();
    installation.json(&["user", "add", ADA, "--no-wait"]);
    let update = |time| ["cache", "update", ADA, "--cache", "default", "--sleep-after", time];
    let updated = installation.json(&update("1h"));
    assert_eq!(
        (&updated["sleep_after_seconds_in_effect"], &updated["sleep_after_seconds"]),
        (&3600.into(), &3600.into())
    );
    installation.json(&["plan", "update", "default", "--sleep-after", "30m"]);
    let (error, fix) = failure(&installation, &update("31m"), 1);
    assert!(error.contains("after 30 minutes") && fix.contains("--sleep-after plan"), "{error}: {fix}");
    assert!(!installation.run(&update("59s")).status.success());
    let updated = installation.json(&update("plan"));
    assert_eq!(
        (&updated["sleep_after_seconds_in_effect"], &updated["sleep_after_seconds"]),
        (&1800.into(), &serde_json::Value::Null)
    );
}

//
#[test]
fn operations_on_a_cache_that_does_not_run_name_the_fix() {
    let installation = migrated();
    installation.json(&["user", "add", ADA, "--no-wait"]);
    for command in ["restart", "flush"] {
        let (error, fix) = failure(&installation, &["cache", command, ADA], 1);
        assert_eq!(error, "the cache isn't running (pending)");
        assert!(fix.contains("`memgate cache show ada@example.org --cache default`"), "{fix}");
    }
    let resize = ["cache", "resize", ADA, "--no-wait", "--memory-mb"];
    let asked = installation.json(&[&resize[..], &["128"]].concat());
    assert_eq!((&asked["kind"], &asked["state"]), (&"resize".into(), &"pending".into()));
    assert_eq!((&asked["cache"], &asked["memory_mb"]), (&"default".into(), &128.into()));
    let again = installation.json(&[&resize[..], &["32"]].concat());
    assert_eq!((&again["id"], &again["memory_mb"]), (&asked["id"], &32.into()));
    assert_eq!(installation.json(&["cache", "show", ADA])["memory_mb"], 32);
    assert!(installation.json(&["cache", "show", ADA])["statistics"].is_null());
    failure(&installation, &[&resize[..], &["7"]].concat(), 2);
    let (error, fix) = failure(&installation, &["cache", "restart", ADA, "--cache", "shop"], 1);
    assert!(error.contains("has no cache shop") && fix.contains("memgate cache list"), "{error}: {fix}");
    installation.json(&["user", "suspend", ADA]);
    let (error, fix) = failure(&installation, &[&resize[..], &["64"]].concat(), 1);
    assert!(error.contains("suspended") && fix.contains("memgate user resume ada@example.org"), "{fix}");
}

#[test]
fn number_of_caches_is_limited() {
    let installation = migrated();
    installation.json(&["user", "add", ADA, "--no-wait"]);
    for name in ["b", "c"] {
        installation.json(&["cache", "create", ADA, "--cache", name, "--no-wait"]);
    }
    let create = ["cache", "create", ADA, "--cache", "d", "--no-wait"];
    let (error, fix) = failure(&installation, &create, 1);
    assert!(error.contains("limit of caches") && fix.contains("limits.caches_per_user"), "{error}: {fix}");
    installation.json(&[&create[..], &["--set", "limits.caches_per_user=4"]].concat());
    for (arguments, what) in [
        (["cache", "create", ADA, "--cache", "e", "--plan", "gold"].as_slice(), "no plan gold"),
        (&["cache", "list", "bob@example.org"], "no user"),
        (&["cache", "create", "bob@example.org"], "no user"),
    ] {
        let (error, _) = failure(&installation, arguments, 1);
        assert!(error.contains(what), "{arguments:?}: {error}");
    }
    let (error, _) = failure(&installation, &["cache", "create", ADA, "--cache", "Upper Case"], 2);
    assert!(error.contains("cache name"), "{error}");
}

#[test]
fn cache_must_be_named_if_a_user_has_several() {
    let installation = migrated();
    let added = installation.json(&["user", "add", ADA, "--no-wait"]);
    assert_eq!(added["cache"], "default");
    assert_eq!(installation.json(&["token", "create", ADA])["cache"], "default", "the only cache is implied");
    installation.json(&["cache", "create", ADA, "--cache", "b", "--no-wait"]);
    for command in [
        ["token", "create", ADA].as_slice(),
        &["token", "list", ADA],
        &["cache", "show", ADA],
        &["cache", "delete", ADA, "--yes"],
        &["instance", "show", ADA],
        &["connection", "list", ADA],
    ] {
        let (error, fix) = failure(&installation, command, 2);
        assert_eq!((error.as_str(), fix.as_str()), ("which cache", "use --cache NAME (default, b)"));
    }
    let token = installation.json(&["token", "create", ADA, "--cache", "b", "--name", "shop"]);
    assert_eq!(token["cache"], "b");
    let list = installation.json(&["token", "list", ADA, "--cache", "b"]);
    let tokens = list["tokens"].as_array().unwrap();
    assert_eq!((tokens.len(), &tokens[0]["name"], &tokens[0]["cache"]), (1, &"shop".into(), &"b".into()));
    assert_eq!(installation.json(&["instance", "show", ADA, "--cache", "b"])["cache"], "b");
    let user = installation.json(&["user", "show", ADA]);
    assert_eq!((user["caches"].as_array().unwrap().len(), user["tokens"].as_array().unwrap().len()), (2, 3));
}
