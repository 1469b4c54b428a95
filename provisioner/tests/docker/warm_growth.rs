//! Warm caches that get more memory, or less: what becomes of their contents, also after a crash between two steps, and
//! whatever a memcached that was taken over has left.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use provisioner::statistics::{self, Statistics};
use store::{ExistingCaches, Instance, InstanceState, NewOperation, OperationState, Plan, Route};

use crate::docker_relay::DockerRelay;
use crate::harness::{Installation, docker, get, inspect, until};
use crate::life::{hold, holder, memory, until_alone, until_asleep, wake, warm};
use crate::operations::{ITEM, ask, done, hits, until_finished};

const MIB: u64 = 1 << 20;
pub(crate) const ITEMS: usize = 1_500;

fn resize(memory_mb: i64) -> NewOperation {
    NewOperation::Resize { memory_mb }
}

async fn statistics_of(installation: &Installation, instance: &Instance, route: &Route) -> Statistics {
    let address = route.address.as_ref().unwrap().parse().unwrap();
    let credential = installation.lane_key.credential(&instance.id, route.generation);
    statistics::read(address, &credential).await.unwrap()
}

/// The volumes with an instance's memory.
fn memories(installation: &Installation, instance: &Instance) -> Vec<String> {
    let name = memory(installation, instance);
    let all = docker(&["volume", "ls", "--format", "{{.Name}}"]);
    all.lines().filter(|it| it.starts_with(&name)).map(str::to_owned).collect()
}

fn exists(container: &str) -> bool {
    docker(&["container", "ls", "-a", "--format", "{{.Names}}"]).lines().any(|name| name == container)
}

/// A warm cache with items, one of which is longer than a chunk.
pub(crate) async fn filled(installation: &Installation) -> (Instance, Route) {
    warm(installation).await;
    let (instance, route) = installation.running_instance().await;
    installation.fill(&instance, &route, 0, (ITEM, ITEMS));
    installation.fill(&instance, &route, 0, (700_000, 1));
    (instance, route)
}

pub(crate) fn has_all(installation: &Installation, instance: &Instance, route: &Route) -> bool {
    let large = installation.hits(instance, route, (700_000, 1));
    (hits(installation, instance, route, ITEMS), large) == (ITEMS, 1)
}

fn kept(memory_mb: i64) -> String {
    format!("memcached has {memory_mb} MB; it kept {} items", ITEMS + 1)
}

// F-36, R-54.
#[tokio::test]
async fn warm_cache_keeps_its_contents_when_it_gets_more_memory() {
    let mut installation = Installation::new().await;
    installation.config.reconcile_seconds = 1;
    installation.start_provisioner();
    installation.until_ready().await;
    let (instance, mut route) = filled(&installation).await;
    // The largest has other sizes of items if memcached chooses them.
    for (memory_mb, suffix) in [(128, "-2"), (300, "")] {
        assert_eq!(done(&installation, &instance, resize(memory_mb)).await, kept(memory_mb));
        route = installation.until_running(&instance, route.generation).await;
        assert!(has_all(&installation, &instance, &route));
        until_alone(&installation).await;
        let volume = format!("{}{suffix}", memory(&installation, &instance));
        assert_eq!(memories(&installation, &instance), [volume.as_str()], "no other one is left");
        let options = inspect("volume", &volume)["Options"]["o"].clone();
        assert!(options.as_str().unwrap().contains(&format!("size={}m,", memory_mb + 1)), "{options}");
    }
    let figures = statistics_of(&installation, &instance, &route).await;
    assert_eq!((figures.limit_maxbytes, figures.curr_items), (300 * MIB, ITEMS as u64 + 1));
    // It can use what it got.
    installation.fill(&instance, &route, 1, (ITEM, 10_000));
    let figures = statistics_of(&installation, &instance, &route).await;
    assert_eq!((figures.curr_items, figures.evictions), (10_000 + ITEMS as u64 + 1, 0));
    let said = done(&installation, &instance, NewOperation::Restart).await;
    assert_eq!(said, format!("memcached was restarted; it kept {} items", 10_000 + ITEMS + 1));
    assert!(has_all(&installation, &instance, &route));
    let events = installation.store.instance_events(&instance.id, 10).await.unwrap();
    assert!(!events.is_empty() && events.iter().all(|event| !event.contents_lost), "{events:?}");

    let said = done(&installation, &instance, resize(128)).await;
    assert_eq!(
        said,
        "memcached has 128 MB; its contents could not be kept: a warm cache that gets less memory starts empty"
    );
    route = installation.until_running(&instance, route.generation).await;
    assert_eq!(statistics_of(&installation, &instance, &route).await.curr_items, 0);
    assert_eq!(memories(&installation, &instance), [memory(&installation, &instance)]);

    // Asleep, it is woken for that.
    installation.fill(&instance, &route, 0, (ITEM, ITEMS));
    installation.fill(&instance, &route, 0, (700_000, 1));
    let sleeping =
        |seconds| installation.store.update_plan("default", move |plan| plan.sleep_after_seconds = seconds);
    sleeping(Some(1)).await.unwrap();
    until_asleep(&installation, &instance).await;
    sleeping(None).await.unwrap();
    assert_eq!(done(&installation, &instance, resize(192)).await, kept(192));
    route = installation.until_running(&instance, route.generation).await;
    assert!(has_all(&installation, &instance, &route));
    done(&installation, &instance, NewOperation::Suspend).await;
    assert_eq!(memories(&installation, &instance), [""; 0]);
}

// F-36, R-47.
#[tokio::test]
async fn growth_of_a_warm_cache_goes_on_from_where_a_crash_left_it() {
    let mut installation = Installation::start().await;
    let (instance, mut route) = filled(&installation).await;
    let (name, first) = (installation.container(&instance), holder(&installation, &instance));
    let second = format!("{first}-2");
    let mut memory_mb = 64;
    // The volumes take turns.
    let rounds = [
        ("held", [&first, &second]),
        ("removed", [&second, &first]),
        ("being copied", [&first, &second]),
        ("copied", [&second, &first]),
    ];
    for (what, [source, target]) in rounds {
        memory_mb += 64;
        let asked = ask(&installation, &instance, resize(memory_mb)).await;
        let mut source_was_seen = false;
        until(what, Duration::from_secs(30), || {
            source_was_seen |= exists(source);
            let has_come = match what {
                "held" => source_was_seen,
                "removed" => source_was_seen && !exists(&name),
                "being copied" => exists(target),
                _ => source_was_seen && !exists(source),
            };
            std::future::ready(has_come.then_some(()))
        })
        .await;
        installation.crash_provisioner();
        installation.start_provisioner();
        installation.until_ready().await;
        let ended = until_finished(&installation, &asked).await;
        assert_eq!(ended.state, OperationState::Done, "{what}: {ended:?}");
        route = installation.until_running(&instance, route.generation).await;
        assert!(has_all(&installation, &instance, &route), "{what}: {ended:?}");
        let figures = statistics_of(&installation, &instance, &route).await;
        assert_eq!(i64::try_from(figures.limit_maxbytes / MIB), Ok(memory_mb), "{what}");
        until_alone(&installation).await;
        assert_eq!(memories(&installation, &instance).len(), 1, "{what}");
    }

    // A crash has left a part of a copy, and the cache gets another size meanwhile.
    installation.stop_provisioner();
    let (old, new) = (memory(&installation, &instance), format!("{}-2", memory(&installation, &instance)));
    hold(&installation, &instance, (&first, &old));
    let labels = [format!("memgate={}", installation.id), format!("memgate.instance={}", instance.id)];
    let mut create = vec!["volume", "create", "--label", &labels[0], "--label", &labels[1]];
    create.extend(["--label", "memgate.spec=449 MB", "-o", "type=tmpfs", "-o", "device=tmpfs"]);
    docker(&[&create, &["-o", "o=size=449m,mode=0700,uid=11211,gid=11211", &new][..]].concat());
    hold(&installation, &instance, (&second, &new));
    std::fs::write(mountpoint(&new).join("items"), "part of a copy").unwrap();
    docker(&["stop", &name]);
    docker(&["rm", &name]);
    let asked = ask(&installation, &instance, resize(512)).await;
    installation.start_provisioner();
    installation.until_ready().await;
    assert_eq!(until_finished(&installation, &asked).await.message, Some(kept(512)));
    route = installation.until_running(&instance, route.generation).await;
    assert!(has_all(&installation, &instance, &route));
}

pub(crate) fn mountpoint(volume: &str) -> std::path::PathBuf {
    inspect("volume", volume)["Mountpoint"].as_str().unwrap().into()
}

//
#[tokio::test]
async fn what_a_hijacked_memcached_leaves_is_not_copied() {
    let mut installation = Installation::start().await;
    let (instance, route) = filled(&installation).await;
    let name = installation.container(&instance);
    installation.stop_provisioner();
    let volume = memory(&installation, &instance);
    hold(&installation, &instance, (&holder(&installation, &instance), &volume));
    docker(&["stop", &name]);
    let meta = mountpoint(&volume).join("items.meta");
    assert!(std::fs::read_to_string(&meta).unwrap().contains("Kmaxbytes 67108864\n"));
    std::fs::remove_file(&meta).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &meta).unwrap();
    let asked = ask(&installation, &instance, resize(128)).await;
    installation.start_provisioner();
    installation.until_ready().await;
    let ended = until_finished(&installation, &asked).await;
    let why = "its memory holds something else than memcached's files";
    let said = format!("memcached has 128 MB; its contents could not be kept: {why}");
    assert_eq!((ended.state, ended.message), (OperationState::Done, Some(said)));
    let route = installation.until_running(&instance, route.generation).await;
    assert_eq!((route.state, hits(&installation, &instance, &route, ITEMS)), (InstanceState::Running, 0));
    until_alone(&installation).await;
    assert_eq!(memories(&installation, &instance).len(), 1);
    let events = installation.store.instance_events(&instance.id, 10).await.unwrap();
    assert!(events[0].contents_lost, "{events:?}");
}

/// The creations and removals of an installation's containers, like `create NAME`, as Docker tells of them.
struct DockerEvents {
    lines: Arc<Mutex<Vec<String>>>,
    docker: Child,
}

impl DockerEvents {
    fn follow(installation: &Installation) -> Self {
        let label = format!("label=memgate={}", installation.id);
        let filters = ["type=container", "event=create", "event=destroy", &label];
        let mut docker = Command::new("docker")
            .args(["events", "--format", "{{.Action}} {{.Actor.Attributes.name}}"])
            .args(filters.iter().flat_map(|filter| ["--filter", filter]))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (lines, output) = (Arc::new(Mutex::new(Vec::new())), docker.stdout.take().unwrap());
        let written = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                written.lock().unwrap().push(line);
            }
        });
        Self { lines, docker }
    }

    /// When something happened, as its place among all that did.
    fn place_of(&self, event: &str) -> Option<usize> {
        self.lines.lock().unwrap().iter().position(|line| line == event)
    }
}

impl Drop for DockerEvents {
    fn drop(&mut self) {
        let _ = self.docker.kill();
        let _ = self.docker.wait();
    }
}

// F-36, R-47.
#[tokio::test]
async fn warm_caches_of_a_plan_get_more_memory_one_after_the_other() {
    let installation = Installation::start().await;
    let events = DockerEvents::follow(&installation);
    let caches = [filled(&installation).await, filled(&installation).await, filled(&installation).await];
    let grow = |plan: &mut Plan| plan.memory_mb = 128;
    let updated = installation.store.update_plan_and("default", ExistingCaches::Resize, grow).await.unwrap();
    assert_eq!(updated.resized, caches.len());
    let mut copies = Vec::new();
    for (instance, route) in &caches {
        let asked = installation.store.operations_of(&instance.cache_id, 1).await.unwrap().remove(0);
        assert_eq!(until_finished(&installation, &asked).await.message, Some(kept(128)));
        let route = installation.until_running(instance, route.generation).await;
        assert!(has_all(&installation, instance, &route));
        let holder = holder(&installation, instance);
        let copied = until("Docker's word of it", Duration::from_secs(10), || async {
            let begun = events.place_of(&format!("create {holder}-2"))?;
            Some((begun, events.place_of(&format!("destroy {holder}"))?))
        });
        copies.push(copied.await);
    }
    copies.sort_unstable();
    let overlap = copies.windows(2).find(|pair| pair[1].0 < pair[0].1);
    assert_eq!(overlap, None, "{:?}", events.lines.lock().unwrap());
}

// F-36, R-54.
#[tokio::test]
async fn contents_are_kept_while_docker_fails_to_copy_them() {
    let mut installation = Installation::new().await;
    let relay = DockerRelay::start(&mut installation);
    installation.start_provisioner();
    installation.until_ready().await;
    let (instance, mut route) = filled(&installation).await;
    // It can't read, and can't write: that ends while it is being written to. Then it can't start the second holder.
    for (method, part, memory_mb) in
        [("GET", "-holder/archive", 128), ("PUT", "-holder/archive", 192), ("POST", "-holder-2", 256)]
    {
        relay.refuse(method, part, 2);
        assert_eq!(done(&installation, &instance, resize(memory_mb)).await, kept(memory_mb), "{method}");
        assert_eq!(relay.still_refused(), 0, "{method}");
        route = installation.until_running(&instance, route.generation).await;
        assert!(has_all(&installation, &instance, &route), "{method}");
        until_alone(&installation).await;
        assert_eq!(memories(&installation, &instance).len(), 1, "{method}");
    }
    // If that lasts, it keeps its old size, until it is asked for again.
    relay.refuse("GET", "/archive", 3);
    let asked = ask(&installation, &instance, resize(320)).await;
    let ended = until_finished(&installation, &asked).await;
    assert_eq!((ended.state, relay.still_refused()), (OperationState::Failed, 0), "{ended:?}");
    assert!(ended.message.as_ref().unwrap().contains("keeps its old size, and its contents"), "{ended:?}");
    route = installation.until_running(&instance, route.generation).await;
    assert!(has_all(&installation, &instance, &route));
    let limit = async |route| statistics_of(&installation, &instance, route).await.limit_maxbytes;
    assert_eq!(limit(&route).await, 256 * MIB);
    until_alone(&installation).await;
    let said = done(&installation, &instance, NewOperation::Restart).await;
    assert_eq!(said, format!("memcached was restarted; it kept {} items", ITEMS + 1));
    assert_eq!(limit(&route).await, 256 * MIB);
    assert_eq!(done(&installation, &instance, resize(320)).await, kept(320));
    route = installation.until_running(&instance, route.generation).await;
    assert!(has_all(&installation, &instance, &route));
    let events = installation.store.instance_events(&instance.id, 10).await.unwrap();
    assert!(events.iter().all(|event| !event.contents_lost), "{events:?}");
}

// F-36.
#[tokio::test]
async fn failed_copies_count_also_while_other_caches_have_their_turn() {
    let mut installation = Installation::new().await;
    let relay = DockerRelay::start(&mut installation);
    installation.start_provisioner();
    installation.until_ready().await;
    let caches = [filled(&installation).await, filled(&installation).await];
    let (attempts, all) = (2 * 3, 100);
    relay.refuse("GET", "/archive", all);
    let grow = |plan: &mut Plan| plan.memory_mb = 128;
    installation.store.update_plan_and("default", ExistingCaches::Resize, grow).await.unwrap();
    for (instance, route) in &caches {
        let asked = installation.store.operations_of(&instance.cache_id, 1).await.unwrap().remove(0);
        let ended = until_finished(&installation, &asked).await;
        assert_eq!(ended.state, OperationState::Failed, "{ended:?}");
        let route = installation.until_running(instance, route.generation).await;
        assert!(has_all(&installation, instance, &route));
    }
    assert_eq!(all - relay.still_refused(), attempts);
}

// F-36, F-37, R-25.
#[tokio::test]
async fn sleeping_cache_without_room_for_a_copy_wakes_with_its_old_size() {
    let mut installation = Installation::new().await;
    (installation.config.memory_mb, installation.config.reconcile_seconds) = (Some(150), 1);
    installation.start_provisioner();
    installation.until_ready().await;
    let (instance, route) = filled(&installation).await;
    let sleeping =
        |seconds| installation.store.update_plan("default", move |plan| plan.sleep_after_seconds = seconds);
    sleeping(Some(1)).await.unwrap();
    until_asleep(&installation, &instance).await;
    sleeping(None).await.unwrap();
    let asked = ask(&installation, &instance, resize(65)).await;
    let message =
        || async { installation.store.operation(&asked.cache_id, &asked.id).await.unwrap().unwrap().message };
    let waiting = until("a reason", Duration::from_secs(20), message).await;
    assert!(waiting.starts_with("waiting for memory"), "{waiting}");
    assert_eq!(installation.route(&instance).await.unwrap().state, InstanceState::Asleep);
    let woken = wake(&installation, &instance).await;
    assert_eq!(woken.generation, route.generation);
    assert!(has_all(&installation, &instance, &woken));
    // A crash that leaves the holder only changes nothing of that.
    installation.stop_provisioner();
    let (keeper, volume) = (holder(&installation, &instance), memory(&installation, &instance));
    hold(&installation, &instance, (&keeper, &volume));
    let name = installation.container(&instance);
    docker(&["stop", &name]);
    docker(&["rm", &name]);
    installation.start_provisioner();
    installation.until_ready().await;
    let again = installation.until_running(&instance, route.generation).await;
    assert!(has_all(&installation, &instance, &again));
    installation.stop_provisioner();
    installation.config.memory_mb = Some(170);
    installation.start_provisioner();
    installation.until_ready().await;
    assert_eq!(until_finished(&installation, &asked).await.message, Some(kept(65)));
}

// F-36, R-25.
#[tokio::test]
async fn copy_of_a_warm_cache_waits_for_the_memory_of_both_volumes() {
    let mut installation = Installation::new().await;
    // Enough for a memcached of 65 MB, and not for two volumes with their holders.
    installation.config.memory_mb = Some(150);
    installation.start_provisioner();
    installation.until_ready().await;
    let (instance, route) = filled(&installation).await;
    let asked = ask(&installation, &instance, resize(65)).await;
    let waiting = until("a reason", Duration::from_secs(20), || async {
        installation.store.operation(&asked.cache_id, &asked.id).await.unwrap().unwrap().message
    })
    .await;
    assert!(waiting.starts_with("waiting for memory"), "{waiting}");
    assert_eq!(installation.route(&instance).await.map(|it| it.generation), Some(route.generation));
    assert!(has_all(&installation, &instance, &route), "it goes on as it is");
    installation.stop_provisioner();
    installation.config.memory_mb = Some(170);
    installation.start_provisioner();
    installation.until_ready().await;
    assert_eq!(until_finished(&installation, &asked).await.message, Some(kept(65)));
    let reserved = 141 * MIB + MIB / 4;
    let line = format!("memgate_provisioner_memory_reserved_bytes {reserved}");
    until(&line, Duration::from_secs(10), || async {
        get(installation.config.health, "/metrics")?.contains(&line).then_some(())
    })
    .await;
}
