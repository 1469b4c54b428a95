//! Faults of what caches share in the network: addresses, the bridge, the firewall.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rustix::process::Signal;

use crate::command::{docker, run, signal};
use crate::error::LoadError;
use crate::faults::fault::{Fault, Loses, Promise, Source, UNAVAILABLE};
use crate::faults::scene::Scene;

const MEMCACHED_PORT: u16 = 11211;
/// While the provisioner can't act: less than after which it counts as hung.
const HELD_SECONDS: f64 = 4.0;
/// How long a container that stays on the address is watched.
const STAYS_SECONDS: f64 = 15.0;

const ANOTHER_ADDRESS: Promise =
    Promise { recovery: 5.0, errors: UNAVAILABLE, loses: Loses::Victim, told: &[] };

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "foreign-address",
        does: "a plain memcached takes the cache's address while the provisioner is stopped for 4 s",
        rules: "F-21, L-4",
        before: "THE LANE OPENED, 25 sets in the foreign container",
        promise: ANOTHER_ADDRESS,
        inject: |scene| foreign_container(scene, 0.0),
    },
    Fault {
        name: "foreign-address-stays",
        does: "the same, and it stays",
        rules: "F-21",
        before: "FAILED FOR EVER, status exit 0",
        promise: ANOTHER_ADDRESS,
        inject: |scene| foreign_container(scene, STAYS_SECONDS),
    },
    Fault {
        name: "network-removed",
        does: "all containers disconnected, network removed, while the provisioner is stopped for that",
        rules: "F-16",
        before: "all remade, empty; 2.5 s",
        promise: Promise { recovery: 15.0, errors: UNAVAILABLE, loses: Loses::Nothing, told: &[] },
        inject: network_removed,
    },
    Fault {
        name: "bridge-deleted",
        does: "`ip link del` of the bridge",
        rules: "F-16",
        before: "TOTAL OUTAGE FOR EVER, ready, status exit 0",
        promise: Promise {
            recovery: 15.0,
            errors: UNAVAILABLE,
            loses: Loses::Nothing,
            told: &[(Source::Provisioner, "the bridge")],
        },
        inject: bridge_deleted,
    },
    Fault {
        name: "firewall-removed",
        does: "`nft delete table`",
        rules: "R-39",
        before: "back after 13.5 s",
        promise: Promise::UNNOTICED,
        inject: firewall_removed,
    },
];

fn foreign_container(scene: &mut Scene<'_>, stays: f64) -> Result<(), LoadError> {
    let victim = scene.bed.victim()?;
    let network = scene.bed.network_of(&victim)?;
    let image = docker(&["inspect", "-f", "{{.Image}}", &victim.container])?;
    let provisioner = role_pid(scene, "provisioner")?;
    signal(provisioner, Signal::STOP)?;
    scene.begin();
    docker(&["rm", "-f", &victim.container])?;
    let run = ["run", "-d", "--network", &network, "--ip", &victim.address, &image, "-U", "0"];
    let started = docker(&run);
    let held = started.as_ref().map_or(Ok(()), |_| scene.wait(HELD_SECONDS));
    signal(provisioner, Signal::CONT)?;
    scene.end();
    let holder = started?;
    let waited = held.and_then(|()| scene.wait(stays));
    let stored = stored_items(&victim.address);
    let address = scene.bed.victim().map(|now| now.address);
    docker(&["rm", "-f", &holder])?;
    waited?;
    let stored = stored?;
    scene.check(stored == 0, "nothing was stored in the foreign container");
    scene.note(format!("{stored} items in the foreign container"));
    if stays > 0.0 {
        scene.check(address.is_ok_and(|now| now != victim.address), "it runs at another address");
        let quiet_for = scene.checker.record.last_error().map_or(stays, |at| at.elapsed().as_secs_f64());
        scene.note(format!("no error for {quiet_for:.1} s when it was removed"));
        scene.check(quiet_for > 2.0, "the cache works while the foreign container stays");
    }
    Ok(())
}

/// How many sets a plain memcached has had.
fn stored_items(address: &str) -> Result<u64, LoadError> {
    let ip = address.parse().map_err(|_| LoadError::invalid_run("an address can't be read"))?;
    let target = SocketAddr::new(ip, MEMCACHED_PORT);
    let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"stats\r\nquit\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let sets = text.lines().find_map(|line| line.strip_prefix("STAT cmd_set ")?.trim().parse().ok());
    sets.ok_or_else(|| LoadError::invalid_run("the foreign container has no statistics"))
}

fn role_pid(scene: &Scene<'_>, role: &str) -> Result<u32, LoadError> {
    let pid = scene.bed.installation.role_pid(role);
    pid.ok_or_else(|| LoadError::invalid_run(format!("the {role} doesn't run")))
}

fn network_removed(scene: &mut Scene<'_>) -> Result<(), LoadError> {
    let instances = scene.bed.instances()?;
    let network = scene.bed.network_of(&instances[0])?;
    let script =
        "for c in $1; do docker network disconnect -f \"$0\" $c & done; wait; docker network rm \"$0\"";
    let containers: Vec<&str> = instances.iter().map(|instance| instance.container.as_str()).collect();
    // It would connect them again meanwhile: Docker removes no network that has containers.
    let provisioner = role_pid(scene, "provisioner")?;
    signal(provisioner, Signal::STOP)?;
    scene.begin();
    let removed = run("sh", &["-c", script, &network, &containers.join(" ")]);
    signal(provisioner, Signal::CONT)?;
    scene.end();
    removed.map(drop)
}

fn bridge_deleted(scene: &mut Scene<'_>) -> Result<(), LoadError> {
    let bridge = format!("mg{}-0", scene.bed.id()?);
    scene.begin();
    run("ip", &["link", "del", &bridge]).map(drop)
}

fn firewall_removed(scene: &mut Scene<'_>) -> Result<(), LoadError> {
    let id = scene.bed.id()?;
    let tables = || -> Result<Vec<String>, LoadError> {
        let all = run("nft", &["list", "tables"])?;
        Ok(all.lines().filter(|line| line.contains(&id)).map(str::to_owned).collect())
    };
    let before = tables()?;
    scene.begin();
    for table in &before {
        let words: Vec<&str> = table.split_whitespace().skip(1).collect();
        run("nft", &[&["delete", "table"], &words[..]].concat())?;
    }
    let restored = scene.wait_for(35.0, || Ok(!before.is_empty() && tables()?.len() == before.len()))?;
    let seconds = scene.seconds();
    scene.check(restored && seconds < 3.0, "the rules are restored within a second or two");
    scene.note(format!("rules restored after {seconds:.1} s"));
    Ok(())
}
