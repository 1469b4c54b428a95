//! The database file is moved away, an older one is put back, or rows of it are invalid.

use std::fs;

use super::writes::check_integrity;
use crate::command::{docker, run};
use crate::error::LoadError;
use crate::faults::fault::{CLOSED, Fault, Loses, Promise, Source};
use crate::faults::scene::Scene;

const AWAY_SECONDS: f64 = 10.0;
const INVALID_SECONDS: f64 = 5.0;

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "database-moved",
        does: "the database file moved away, 10 s, and back",
        rules: "F-19",
        before: "`status` MAKES AN EMPTY ONE, exit 0",
        promise: Promise { told: &[(Source::Status, "not ready")], ..Promise::UNNOTICED },
        inject: moved,
    },
    Fault {
        name: "older-copy",
        does: "an older copy restored under traffic (`.restore`)",
        rules: "F-4",
        before: "proxy begins again; 0.36 s",
        promise: Promise { recovery: 3.0, errors: CLOSED, loses: Loses::Nothing, told: &[] },
        inject: older_copy,
    },
    Fault {
        name: "invalid-rows",
        does: "invalid text in the first cache's rows of tokens, routes and instances, 5 s",
        rules: "F-15",
        before: "that user only",
        promise: Promise {
            recovery: 5.0,
            errors: &["closed", "backend unavailable", "0x86 Temporary failure", "auth", "Auth", "0x20"],
            loses: Loses::Victim,
            told: &[],
        },
        inject: invalid_rows,
    },
];

fn moved(scene: &mut Scene<'_>) -> Result<(), LoadError> {
    let database = scene.bed.database();
    // Within the file system: another one would make it another file.
    let away = database.with_file_name("moved-away");
    fs::rename(&database, &away)?;
    scene.begin();
    let waited = scene.wait(AWAY_SECONDS);
    let refused = scene.bed.installation.json(&["user", "list"]).err();
    let is_made = database.exists();
    if is_made {
        fs::remove_file(&database)?;
    }
    fs::rename(&away, &database)?;
    scene.end();
    waited?;
    scene.check(!is_made, "no other database is made");
    scene.check(refused.is_some(), "commands refuse to work without it");
    check_integrity(scene)
}

fn older_copy(scene: &mut Scene<'_>) -> Result<(), LoadError> {
    let database = scene.bed.database().to_string_lossy().into_owned();
    let copy = scene.bed.folder.path().join("copy.db").to_string_lossy().into_owned();
    run("sqlite3", &[&database, &format!(".backup {copy}")])?;
    let later = scene.bed.add_user("later@example.org")?;
    scene.begin();
    run("sqlite3", &["-cmd", ".timeout 5000", &database, &format!(".restore {copy}")])?;
    fs::remove_file(&copy)?;
    scene.wait(3.0)?;
    let users = scene.bed.installation.json(&["user", "list"])?.to_string();
    scene.check(!users.contains(&later.email), "the later user is gone");
    let label = format!("label=memgate={}", scene.bed.id()?);
    let expected = scene.bed.accounts.len();
    let all_known = || Ok(docker(&["ps", "-aq", "--filter", &label])?.lines().count() == expected);
    let removed = scene.wait_for(100.0, all_known)?;
    let seconds = scene.seconds();
    scene.check(removed, "the container that belongs to nobody is removed");
    scene.note(format!("the orphan is removed after {seconds:.0} s"));
    Ok(())
}

fn sql(scene: &Scene<'_>, statements: &str) -> Result<String, LoadError> {
    let database = scene.bed.database().to_string_lossy().into_owned();
    run("sqlite3", &["-cmd", ".timeout 10000", &database, statements])
}

fn invalid_rows(scene: &mut Scene<'_>) -> Result<(), LoadError> {
    let victim = scene.bed.victim()?;
    let (id, username) = (victim.id, scene.bed.accounts[0].username.clone());
    let token = username.trim_start_matches("mg_");
    let item_size = sql(scene, &format!("SELECT item_size_max FROM instances WHERE id = '{id}'"))?;
    // Followers of changes are told of them by the revision.
    let change = |token_scopes: &str, item_size: &str, generation: &str| {
        format!(
            "BEGIN IMMEDIATE; UPDATE revision SET value = value + 1; \
             UPDATE tokens SET scopes = {token_scopes}, revision = (SELECT value FROM revision) WHERE id LIKE '%{token}'; \
             UPDATE instances SET item_size_max = {item_size}, revision = (SELECT value FROM revision) WHERE id = '{id}'; \
             UPDATE routes SET generation = {generation}, revision = (SELECT value FROM revision) WHERE instance_id = '{id}'; \
             COMMIT"
        )
    };
    let scopes = sql(scene, &format!("SELECT scopes FROM tokens WHERE id LIKE '%{token}'"))?;
    let generation = victim.generation.to_string();
    sql(scene, &change("'nothing that exists'", "'large'", "'first'"))?;
    scene.begin();
    let waited = scene.wait(INVALID_SECONDS);
    sql(scene, &change(&format!("'{scopes}'"), &item_size, &generation))?;
    scene.end();
    waited?;
    let others = scene.checker.record.seen().of_others;
    scene.check(others == 0, "nobody else is affected");
    Ok(())
}
