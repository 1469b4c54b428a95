//! Docker's API is away or hangs.

use crate::command::docker;
use crate::error::LoadError;
use crate::faults::fault::{CLOSED, Fault, Loses, Promise, Source, UNAVAILABLE};
use crate::faults::scene::Scene;

const AWAY_SECONDS: f64 = 15.0;
const HANG_SECONDS: f64 = 60.0;
/// The container stays dead until Docker answers; then it is back in 10 s.
const DEAD_CONTAINER: Promise =
    Promise { recovery: 10.0, errors: UNAVAILABLE, loses: Loses::Victim, told: &[] };

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "docker-api-away",
        does: "Docker's socket away, 15 s; a sign-up and `docker kill` meanwhile",
        rules: "F-3",
        before: "as promised; 2.0 s after its return",
        promise: Promise {
            told: &[(Source::Status, "Docker"), (Source::Provisioner, "Docker")],
            ..DEAD_CONTAINER
        },
        inject: away,
    },
    Fault {
        name: "docker-api-hangs",
        does: "Docker's socket takes requests and answers none, 60 s; `docker kill` meanwhile",
        rules: "F-30",
        before: "PROVISIONER READY, no log line; 0.6 s",
        promise: Promise {
            told: &[(Source::Status, "Docker"), (Source::Provisioner, "Docker")],
            ..DEAD_CONTAINER
        },
        inject: hangs,
    },
    Fault {
        name: "docker-away-at-start",
        does: "`memgate up` starts while Docker's socket is away",
        rules: "F-3",
        before: "UP ENDS, no proxy",
        promise: Promise {
            recovery: 10.0,
            errors: CLOSED,
            loses: Loses::Nothing,
            told: &[(Source::Status, "Docker")],
        },
        inject: away_at_start,
    },
];

fn away(scene: &mut Scene<'_>) -> Result<(), LoadError> {
    let victim = scene.bed.victim()?;
    scene.bed.relay.close();
    scene.begin();
    let done = docker(&["kill", &victim.container]).and_then(|_| {
        let added = scene.bed.installation.json(&["user", "add", "pending@example.org", "--no-wait"])?;
        scene.note(format!("a sign-up meanwhile: {}", added["state"].as_str().unwrap_or("?")));
        scene.wait(AWAY_SECONDS)
    });
    scene.bed.relay.open()?;
    scene.end();
    done?;
    let installation = &scene.bed.installation;
    let running = || {
        let shown = installation.json(&["instance", "show", "pending@example.org"])?;
        Ok(shown["state"] == "running")
    };
    let runs = scene.wait_for(30.0, running)?;
    scene.check(runs, "the new cache runs");
    scene.bed.installation.json(&["user", "delete", "pending@example.org", "--yes"]).map(drop)
}

fn hangs(scene: &mut Scene<'_>) -> Result<(), LoadError> {
    let victim = scene.bed.victim()?;
    scene.bed.relay.hang(true);
    scene.begin();
    let done = docker(&["kill", &victim.container]).and_then(|_| scene.wait(HANG_SECONDS));
    scene.bed.relay.hang(false);
    scene.end();
    done
}

fn away_at_start(scene: &mut Scene<'_>) -> Result<(), LoadError> {
    scene.begin();
    scene.bed.installation.end_up("TERM");
    scene.bed.relay.close();
    let started = scene.bed.installation.spawn_up();
    let caches = scene.bed.accounts.len();
    let done = started.and_then(|_| {
        let since = std::time::Instant::now();
        let record = &scene.checker.record;
        let served = scene.wait_for(20.0, || Ok(record.all_answered_since(since, caches)))?;
        scene.check(served, "the proxy serves all caches without Docker");
        scene.wait(5.0)
    });
    scene.bed.relay.open()?;
    scene.end();
    done
}
