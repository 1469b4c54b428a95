//! The Docker Engine itself is restarted: a second one, which runs this installation's containers only.

use crate::error::LoadError;
use crate::faults::fault::{Fault, Loses, Promise, Source, UNAVAILABLE};
use crate::faults::own_docker::OwnDocker;
use crate::faults::scene::Scene;

/// Longer than Docker needs for an upgrade of itself.
const AWAY_SECONDS: f64 = 60.0;

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "docker-restart",
        does: "the Docker Engine stopped, and started again after a minute",
        rules: "F-3",
        before: "not measured",
        // Docker stops all containers.
        promise: Promise {
            recovery: 10.0,
            errors: UNAVAILABLE,
            loses: Loses::AllContents,
            told: &[(Source::Status, "Docker"), (Source::Provisioner, "Docker")],
        },
        inject: |scene| restart(scene, false),
    },
    Fault {
        name: "docker-restart-live",
        does: "the same with `live-restore`",
        rules: "F-3",
        before: "not measured",
        promise: Promise {
            told: &[(Source::Status, "Docker"), (Source::Provisioner, "Docker")],
            ..Promise::UNNOTICED
        },
        inject: |scene| restart(scene, true),
    },
];

fn engine<'s>(scene: &'s mut Scene<'_>) -> Result<&'s mut OwnDocker, LoadError> {
    scene.bed.docker.as_mut().ok_or_else(|| LoadError::invalid_run("there is no Docker Engine of its own"))
}

fn restart(scene: &mut Scene<'_>, live_restore: bool) -> Result<(), LoadError> {
    if live_restore {
        // It must know that before it is stopped: started so before, and containers are back.
        engine(scene)?.stop();
        engine(scene)?.start_again(true)?;
        let caches = scene.bed.accounts.len();
        let started = std::time::Instant::now();
        let record = &scene.checker.record;
        scene.wait_for(60.0, || Ok(record.all_answered_since(started, caches)))?;
        scene.wait(12.0)?;
        scene.bed.store_kept()?;
        scene.checker.record.restart();
    }
    scene.begin();
    engine(scene)?.stop();
    let waited = scene.wait(AWAY_SECONDS);
    engine(scene)?.start_again(live_restore)?;
    scene.end();
    waited
}
