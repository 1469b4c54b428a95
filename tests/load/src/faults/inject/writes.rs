//! SQLite can't be written for a while: it is locked, the disk is full, or it is read-only.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use crate::account::account;
use crate::command::{docker, run};
use crate::error::LoadError;
use crate::faults::fault::{Fault, Loses, Promise, Source, UNAVAILABLE};
use crate::faults::scene::Scene;

const LOCKED_SECONDS: f64 = 20.0;
const FULL_SECONDS: f64 = 15.0;
const READ_ONLY_SECONDS: f64 = 8.0;
/// Tokens that are created while the disk is full.
const TOKENS: usize = 10;
/// Characters of an error that are shown.
const REFUSAL_MAX: usize = 120;
/// Holds the write lock until its stdin ends.
const LOCK: &str = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1], timeout=20, isolation_level=None); \
     db.execute('BEGIN IMMEDIATE'); print('locked', flush=True); sys.stdin.read()";
/// From the fault's begin, also while the store can't be written: 4 s, and a second until the store counts as away.
const REPAIRED: f64 = 6.0;

/// Errors come at the fault's begin; its end is later.
const DEAD_CONTAINER: Promise =
    Promise { recovery: 0.0, errors: UNAVAILABLE, loses: Loses::Victim, told: &[] };

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "locked",
        does: "SQLite write-locked, 20 s",
        rules: "F-17",
        before: "`status` fails after 5 s",
        promise: Promise { told: &[(Source::Status, "not ready")], ..Promise::UNNOTICED },
        inject: |scene| locked(scene, None),
    },
    Fault {
        name: "locked-kill",
        does: "the same, and `docker kill`",
        rules: "F-17, F-34",
        before: "NOT REPAIRED for 20 s",
        promise: DEAD_CONTAINER,
        inject: |scene| locked(scene, Some("kill")),
    },
    Fault {
        name: "locked-rm",
        does: "the same, and `docker rm -f`",
        rules: "F-17, F-34",
        before: "NOT REPAIRED for 20 s",
        promise: DEAD_CONTAINER,
        inject: |scene| locked(scene, Some("rm -f")),
    },
    Fault {
        name: "locked-pause",
        does: "the same, and `docker pause`",
        rules: "F-17, F-34",
        before: "REPLACED, contents lost; 20.7 s",
        promise: Promise { loses: Loses::Nothing, ..DEAD_CONTAINER },
        inject: |scene| locked(scene, Some("pause")),
    },
    Fault {
        name: "disk-full",
        does: "24 MB ext4 full, 15 s",
        rules: "F-6, F-20",
        before: "status exit 0, all ready",
        promise: Promise { told: &[(Source::Status, "not ready")], ..Promise::UNNOTICED },
        inject: |scene| disk_full(scene, None),
    },
    Fault {
        name: "disk-full-kill",
        does: "the same, and `docker kill`",
        rules: "F-20, F-34",
        before: "NOT REPAIRED until there is space",
        promise: DEAD_CONTAINER,
        inject: |scene| disk_full(scene, Some("kill")),
    },
    Fault {
        name: "disk-full-rm",
        does: "the same, and `docker rm -f`",
        rules: "F-20, F-34",
        before: "NOT REPAIRED until there is space",
        promise: DEAD_CONTAINER,
        inject: |scene| disk_full(scene, Some("rm -f")),
    },
    Fault {
        name: "read-only",
        does: "`chattr +i` on the database, 8 s, and `docker kill`",
        rules: "F-18, F-34",
        before: "NEVER WRITTEN AGAIN, cache dead, status exit 0",
        promise: DEAD_CONTAINER,
        inject: read_only,
    },
];

/// A process that holds the write lock, until it is dropped.
struct Lock(Child);

impl Lock {
    fn take(scene: &Scene<'_>) -> Result<Self, LoadError> {
        let mut command = Command::new("python3");
        command.args(["-c", LOCK]).arg(scene.bed.database());
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        if let Some(stdout) = process.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let lock = Self(process);
        if line.trim() == "locked" {
            Ok(lock)
        } else {
            Err(LoadError::invalid_run("can't lock the database"))
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Hits the first cache's container, if asked to, and waits. The callers' last error must be soon after it.
fn hit_and_wait(scene: &mut Scene<'_>, hit: Option<&str>, seconds: f64) -> Result<(), LoadError> {
    let Some(hit) = hit else { return scene.wait(seconds) };
    let victim = scene.bed.victim()?;
    let mut command: Vec<&str> = hit.split(' ').collect();
    command.push(&victim.container);
    docker(&command)?;
    scene.wait(seconds)?;
    if let (Some(last), Some(begun)) = (scene.checker.record.last_error(), scene.begun) {
        let repaired = last.saturating_duration_since(begun).as_secs_f64();
        scene.check(repaired < REPAIRED, "the container is repaired meanwhile");
    }
    Ok(())
}

fn locked(scene: &mut Scene<'_>, hit: Option<&str>) -> Result<(), LoadError> {
    let lock = Lock::take(scene)?;
    scene.begin();
    let done = hit_and_wait(scene, hit, LOCKED_SECONDS / 2.0).and_then(|()| {
        let listed = scene.bed.installation.json(&["user", "list"]).is_ok();
        scene.check(listed, "commands that read work meanwhile");
        scene.wait(LOCKED_SECONDS / 2.0)
    });
    drop(lock);
    scene.end();
    done
}

fn disk_full(scene: &mut Scene<'_>, hit: Option<&str>) -> Result<(), LoadError> {
    let email = scene.bed.accounts[1].email.clone();
    // A log file that has grown has room for many writes.
    let database = scene.bed.database().to_string_lossy().into_owned();
    run("sqlite3", &["-cmd", ".timeout 5000", &database, "PRAGMA wal_checkpoint(TRUNCATE)"])?;
    scene.bed.disk.fill()?;
    scene.begin();
    let done = hit_and_wait(scene, hit, FULL_SECONDS);
    // It may have room again: with enough commands it hasn't.
    let (mut created, mut refusal) = (Vec::new(), None);
    for number in 0..TOKENS {
        match create_token(scene, &email, &format!("disk-full-{number}")) {
            Ok(id) => created.push(id),
            Err(error) => refusal = refusal.or(Some(error.to_string())),
        }
    }
    scene.bed.disk.free()?;
    scene.end();
    done?;
    let words = refusal.unwrap_or_default();
    let words: String = words.chars().take(REFUSAL_MAX).collect();
    scene.note(format!("{} of {TOKENS} new tokens refused: {words}", TOKENS - created.len()));
    let again = create_token(scene, &email, "again");
    scene.check(again.is_ok(), "the next write works");
    for id in created.into_iter().chain(again) {
        scene.bed.installation.json(&["token", "revoke", &id])?;
    }
    check_integrity(scene)
}

/// SQLite's own check.
pub(super) fn check_integrity(scene: &mut Scene<'_>) -> Result<(), LoadError> {
    let database = scene.bed.database().to_string_lossy().into_owned();
    let answer = run("sqlite3", &[&format!("file:{database}?mode=ro"), "PRAGMA integrity_check"])?;
    scene.check(answer == "ok", "the integrity check passes");
    Ok(())
}

fn read_only(scene: &mut Scene<'_>) -> Result<(), LoadError> {
    let database = scene.bed.database().to_string_lossy().into_owned();
    // Not "-shm": the kernel ends a process that writes to the memory of such a file.
    let files = [database.clone(), format!("{database}-wal")];
    let change = |flag: &str| run("chattr", &[flag, &files[0], &files[1]]).map(drop);
    change("+i")?;
    scene.begin();
    let done = hit_and_wait(scene, Some("kill"), READ_ONLY_SECONDS);
    change("-i")?;
    scene.end();
    done?;
    let email = scene.bed.accounts[1].email.clone();
    let mut created = None;
    let written = scene.wait_for(20.0, || {
        created = create_token(scene, &email, "writable").ok();
        Ok(created.is_some())
    })?;
    scene.check(written, "commands write again");
    if let Some(id) = created {
        let revoked = scene.bed.installation.json(&["token", "revoke", &id]);
        scene.check(revoked.is_ok(), "a token is revoked, and the proxy says so");
    }
    Ok(())
}

/// Returns its name for other commands.
fn create_token(scene: &Scene<'_>, email: &str, name: &str) -> Result<String, LoadError> {
    let created = scene.bed.installation.json(&["token", "create", email, "--name", name])?;
    Ok(account(&created)?.username)
}
