//! Faults of one cache's container.

use std::time::Duration;

use serde_json::Value;

use crate::command::{docker, run};
use crate::error::LoadError;
use crate::faults::fault::{Fault, Loses, Promise, Source, UNAVAILABLE};
use crate::faults::scene::Scene;
use crate::filler::{FillOptions, Filled, Filler};

const GONE: Promise = Promise { recovery: 11.0, errors: UNAVAILABLE, loses: Loses::Victim, told: &[] };
const ENDED: Promise = Promise { recovery: 4.0, ..GONE };
const INTERRUPTED: Promise = Promise { recovery: 3.0, errors: UNAVAILABLE, loses: Loses::Nothing, told: &[] };
/// Sizes of items and seconds for which each is stored.
const ITEM_SIZES: [usize; 3] = [1, 1_000, 1_000_000];
const FILL_SECONDS: u64 = 12;
const FILL_CONNECTIONS: usize = 2;
/// Of requests that are sent at once.
const BATCH_BYTES: usize = 500_000;

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "docker-kill",
        does: "`docker kill`",
        rules: "F-1",
        before: "backend unavailable; 0.35 s",
        promise: ENDED,
        inject: |scene| on_container(scene, &["kill"]),
    },
    Fault {
        name: "docker-rm",
        does: "`docker rm -f`",
        rules: "F-1",
        before: "the same; 0.44 s",
        promise: GONE,
        inject: |scene| on_container(scene, &["rm", "-f"]),
    },
    Fault {
        name: "docker-pause",
        does: "`docker pause`",
        rules: "F-2",
        before: "no error, contents kept",
        promise: INTERRUPTED,
        inject: |scene| on_container(scene, &["pause"]),
    },
    Fault {
        name: "docker-stop",
        does: "`docker stop`",
        rules: "F-1",
        before: "restarted; 0.2 s after the stop",
        promise: Promise { recovery: 14.0, ..ENDED },
        inject: |scene| on_container(scene, &["stop"]),
    },
    Fault {
        name: "network-disconnect",
        does: "`docker network disconnect -f`",
        rules: "F-2, R-29",
        before: "replaced, empty; 0.43 s",
        promise: INTERRUPTED,
        inject: |scene| {
            let victim = scene.bed.victim()?;
            let network = scene.bed.network_of(&victim)?;
            scene.begin();
            docker(&["network", "disconnect", "-f", &network, &victim.container]).map(drop)
        },
    },
    Fault {
        name: "volume-removed",
        does: "container and volume removed",
        rules: "F-1",
        before: "remade; 0.48 s",
        promise: GONE,
        inject: volume_removed,
    },
    Fault {
        name: "lane-secret-deleted",
        does: "lane secret deleted in the volume, then `docker kill`",
        rules: "F-1, F-29",
        before: "replaced; 7.0 s",
        promise: GONE,
        inject: lane_secret_deleted,
    },
    Fault {
        name: "image-untagged-kill",
        does: "image untagged, then `docker kill`",
        rules: "F-1",
        before: "image found by its id; 0.31 s",
        promise: ENDED,
        inject: |scene| image_untagged(scene, &["kill"]),
    },
    Fault {
        name: "image-untagged-rm",
        does: "image untagged, then `docker rm -f`",
        rules: "F-1",
        before: "image found by its id; 0.90 s",
        promise: GONE,
        inject: |scene| image_untagged(scene, &["rm", "-f"]),
    },
    Fault {
        name: "memory-fill",
        does: "filled with items of 1 B, 1 KB and 1 MB",
        rules: "R-25",
        before: "not OOM-killed",
        promise: Promise {
            recovery: 2.0,
            errors: &["out of memory", "Out of memory", "backend unavailable", "0x86 Temporary failure"],
            loses: Loses::Contents,
            told: &[],
        },
        inject: memory_fill,
    },
    Fault {
        name: "limits-changed",
        does: "`docker update` to 300 MB and 0.1 CPU",
        rules: "F-22",
        before: "NOT NOTICED",
        promise: Promise::UNNOTICED,
        inject: |scene| limits_changed(scene, "300m"),
    },
    Fault {
        name: "memory-taken-away",
        does: "`docker update` to 30 MB while it is being filled",
        rules: "F-22",
        before: "OOM, replaced; 18 s, cause not recorded",
        promise: Promise { recovery: 18.0, ..GONE },
        inject: memory_taken_away,
    },
    Fault {
        name: "failed-cache",
        does: "its container can't start (its name is taken), 20 s",
        rules: "F-33",
        before: "status exit 0 with failed caches",
        promise: Promise { recovery: 12.0, told: &[(Source::Status, "failed")], ..GONE },
        inject: name_taken,
    },
];

fn on_container(scene: &mut Scene<'_>, command: &[&str]) -> Result<(), LoadError> {
    let victim = scene.bed.victim()?;
    scene.begin();
    docker(&[command, &[&victim.container]].concat()).map(drop)
}

fn volume_of(container: &str) -> Result<String, LoadError> {
    docker(&["inspect", "-f", "{{range .Mounts}}{{.Name}}{{end}}", container])
}

fn volume_removed(scene: &mut Scene<'_>) -> Result<(), LoadError> {
    let victim = scene.bed.victim()?;
    let volume = volume_of(&victim.container)?;
    scene.begin();
    docker(&["rm", "-f", &victim.container])?;
    // The next container may use it already.
    let removed = docker(&["volume", "rm", "-f", &volume]).is_ok();
    scene.note(if removed { "volume removed" } else { "the next container used the volume already" });
    Ok(())
}

fn lane_secret_deleted(scene: &mut Scene<'_>) -> Result<(), LoadError> {
    let victim = scene.bed.victim()?;
    let folder = docker(&["volume", "inspect", "-f", "{{.Mountpoint}}", &volume_of(&victim.container)?])?;
    run("find", &[&folder, "-type", "f", "-delete"])?;
    scene.begin();
    docker(&["kill", &victim.container]).map(drop)
}

fn image_untagged(scene: &mut Scene<'_>, command: &[&str]) -> Result<(), LoadError> {
    let image = format!("reference=memgate-{}-memcached", scene.bed.id()?);
    let tags = docker(&["image", "ls", "--filter", &image, "--format", "{{.Repository}}:{{.Tag}}"])?;
    for tag in tags.lines() {
        docker(&["rmi", "-f", tag])?;
    }
    scene.note(format!("{} tags removed", tags.lines().count()));
    on_container(scene, command)
}

fn memory_fill(scene: &mut Scene<'_>) -> Result<(), LoadError> {
    let victim = scene.bed.victim()?;
    scene.begin();
    let mut stored = Vec::new();
    for size in ITEM_SIZES {
        let filled = fill(scene, size, Duration::from_secs(FILL_SECONDS));
        // Without any, nothing was tried.
        scene.check(filled.stored_in_all() > 0 && filled.wrong == 0, "items were stored, and none is wrong");
        stored.push(format!("{} of {size} B", filled.stored_in_all()));
        if !filled.errors.is_empty() {
            scene.note(format!("replies to these: {:?}", filled.errors));
        }
        scene.wait(0.0)?;
    }
    scene.end();
    scene.note(format!("stored {}", stored.join(", ")));
    let state = docker(&["inspect", "-f", "{{.State.OOMKilled}} {{.State.Running}}", &victim.container])?;
    scene.check(state == "false true", "the container isn't killed for memory");
    Ok(())
}

/// Stores items through the proxy, many at a time, and reads some.
fn fill(scene: &Scene<'_>, size: usize, length: Duration) -> Filled {
    let (endpoint, account) = (scene.bed.installation.endpoint(), &scene.bed.accounts[0]);
    let options = FillOptions {
        name: "fill".to_owned(),
        sizes: vec![size],
        connections: FILL_CONNECTIONS,
        batch_bytes: BATCH_BYTES,
        reads: true,
    };
    scene.bed.runtime.block_on(async {
        let filler = Filler::start(endpoint, account, &options);
        tokio::time::sleep(length).await;
        filler.stop().await
    })
}

fn limits(container: &str) -> Result<[Value; 3], LoadError> {
    let config = docker(&["inspect", "-f", "{{json .HostConfig}}", container])?;
    let config: Value = serde_json::from_str(&config)?;
    Ok(["Memory", "MemorySwap", "NanoCpus"].map(|key| config[key].clone()))
}

fn limits_changed(scene: &mut Scene<'_>, memory: &str) -> Result<(), LoadError> {
    let victim = scene.bed.victim()?;
    let before = limits(&victim.container)?;
    scene.begin();
    docker(&["update", "--memory", memory, "--memory-swap", memory, "--cpus", "0.1", &victim.container])?;
    let restored = scene.wait_for(35.0, || Ok(limits(&victim.container)? == before))?;
    let seconds = scene.seconds();
    scene.check(restored, "the limits are restored");
    scene.note(format!("limits restored after {seconds:.1} s"));
    Ok(())
}

fn memory_taken_away(scene: &mut Scene<'_>) -> Result<(), LoadError> {
    let victim = scene.bed.victim()?;
    let before = limits(&victim.container)?;
    // Little memory is in use: Docker refuses a limit that is below it.
    docker(&["kill", &victim.container])?;
    let is_running = || Ok(docker(&["inspect", "-f", "{{.State.Running}}", &victim.container])? == "true");
    scene.wait_for(10.0, is_running)?;
    scene.wait(2.0)?;
    scene.begin();
    let arguments = ["update", "--memory", "30m", "--memory-swap", "30m", &victim.container];
    let taken = docker(&arguments).is_ok();
    scene.note(if taken { "Docker took the limit" } else { "Docker refused the limit" });
    let filled = fill(scene, 100_000, Duration::from_secs(6));
    scene.note(format!("filled with {} MB", filled.stored_in_all() / 10));
    let victim = || scene.bed.victim();
    let restored =
        scene.wait_for(35.0, || Ok(limits(&victim()?.container).is_ok_and(|now| now == before)))?;
    scene.check(restored, "the limits are restored");
    let events = scene.bed.installation.json(&["instance", "events", &scene.bed.accounts[0].email])?;
    let causes: Vec<String> = events["events"]
        .as_array()
        .into_iter()
        .flatten()
        .take(2)
        .filter_map(|event| event["cause"].as_str().map(str::to_owned))
        .collect();
    scene.note(format!("recorded causes: {}", causes.join(", ")));
    Ok(())
}

/// A container that isn't memgate's takes the name under which a removed one is to be made again.
fn name_taken(scene: &mut Scene<'_>) -> Result<(), LoadError> {
    let victim = scene.bed.victim()?;
    let name = docker(&["inspect", "-f", "{{.Name}}", &victim.container])?.trim_start_matches('/').to_owned();
    let image = docker(&["inspect", "-f", "{{.Image}}", &victim.container])?;
    let holder = docker(&["create", &image])?;
    scene.begin();
    docker(&["rm", "-f", &victim.container])?;
    // The provisioner is fast, too: the first has the name.
    let mut taken = docker(&["rename", &holder, &name]).is_ok();
    for _ in 0..20 {
        if !taken {
            let _ = docker(&["rm", "-f", &name]);
            taken = docker(&["rename", &holder, &name]).is_ok();
        }
    }
    scene.check(taken, "the name could be taken");
    let waited = scene.wait(20.0);
    docker(&["rm", "-f", &holder])?;
    scene.end();
    waited
}
