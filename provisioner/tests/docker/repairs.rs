//! Repairs of what all caches share, repairs while something else is away, and the record that each repair leaves.

use std::time::{Duration, Instant};

use store::{EventAction, EventCause, Instance, InstanceEvent, InstanceState, LaneKey, Route};

use crate::docker_relay::DockerRelay;
use crate::harness::{Installation, docker, free_port, get, inspect, output, ready, readyz, resyncs, until};
use crate::store_lock::StoreLock;

const NETWORK_TIMEOUT: Duration = Duration::from_secs(15);
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(5);
const REPORT_TIMEOUT: Duration = Duration::from_secs(15);
/// Without the store: the promise names no time, and the lock of the fault lasts 20 s.
const LOCKED_TIMEOUT: Duration = Duration::from_secs(10);

/// An installation with caches that each hold a value.
async fn with_values(count: usize) -> (Installation, Vec<(Instance, Route)>) {
    let mut installation = Installation::new().await;
    installation.config.reconcile_seconds = 5;
    installation.start_provisioner();
    installation.until_ready().await;
    let mut caches = Vec::new();
    for _ in 0..count {
        let (instance, route) = installation.running_instance().await;
        assert_eq!(installation.request(&instance, &route, "ms key 5\r\nvalue").as_deref(), Some("HD"));
        caches.push((instance, route));
    }
    (installation, caches)
}

fn value(installation: &Installation, (instance, route): &(Instance, Route)) -> Option<String> {
    installation.request(instance, route, "mg key v")
}

async fn until_value(installation: &Installation, cache: &(Instance, Route), within: Duration, what: &str) {
    until(what, within, || async { value(installation, cache).filter(|reply| reply == "VA 5") }).await;
}

/// Waits for an event with this cause, and returns it.
async fn until_event(installation: &Installation, instance: &Instance, cause: EventCause) -> InstanceEvent {
    until(cause.as_str(), Duration::from_secs(20), || async {
        let events = installation.store.instance_events(&instance.id, 50).await.unwrap();
        events.into_iter().find(|event| event.cause == cause)
    })
    .await
}

fn network_of(installation: &Installation, instance: &Instance) -> String {
    let container = inspect("container", &installation.container(instance));
    container["HostConfig"]["NetworkMode"].as_str().unwrap().to_owned()
}

fn image_of(installation: &Installation, instance: &Instance) -> String {
    inspect("container", &installation.container(instance))["Image"].as_str().unwrap().to_owned()
}

// F-16, F-33.
#[tokio::test]
async fn a_broken_bridge_is_made_again_and_contents_are_kept() {
    let (installation, caches) = with_values(3).await;
    let bridge = format!("mg{}-0", installation.id);
    for command in
        [&["link", "del", &bridge][..], &["link", "set", &bridge, "down"], &["addr", "flush", "dev", &bridge]]
    {
        let started = Instant::now();
        output("ip", command);
        until("a report", NETWORK_TIMEOUT, || async {
            readyz(installation.config.health).filter(|text| {
                text.starts_with("HTTP/1.1 503") && text.contains(&format!("the bridge {bridge}"))
            })
        })
        .await;
        // Before that, something elsewhere may answer at their addresses.
        installation.until_ready().await;
        for cache in &caches {
            until_value(&installation, cache, NETWORK_TIMEOUT, "the value").await;
        }
        println!("{command:?}: {:?}", started.elapsed());
        assert!(started.elapsed() < NETWORK_TIMEOUT, "{command:?}: {:?}", started.elapsed());
    }
    for (instance, route) in &caches {
        let event = until_event(&installation, instance, EventCause::NetworkBroken).await;
        assert_eq!((event.action, event.contents_lost), (EventAction::Reattached, false));
        let after = installation.until_running(instance, 0).await;
        assert_eq!((after.generation, &after.container), (route.generation, &route.container));
    }
    let metrics = get(installation.config.health, "/metrics").unwrap();
    assert!(metrics.contains("memgate_provisioner_repairs_total{cause=\"network_broken\"}"), "{metrics}");
    assert!(metrics.contains("memgate_provisioner_condition_failing{part=\"bridge\"} 0"), "{metrics}");
}

/// A container that memgate didn't create, removed at the end of the test.
struct ForeignContainer(String);

impl ForeignContainer {
    fn run(installation: &Installation, name: &str, arguments: &[&str], image: &str) -> Self {
        let name = format!("red{}-{name}", installation.id);
        let run = ["run", "-d", "--name", &name];
        docker(&[&run[..], arguments, &[image, "-U", "0"]].concat());
        Self(name)
    }
}

impl Drop for ForeignContainer {
    fn drop(&mut self) {
        let _ = std::process::Command::new("docker").args(["rm", "-f", &self.0]).output();
    }
}

// F-21, F-33.
#[tokio::test]
async fn a_taken_address_is_left_for_another() {
    let (mut installation, caches) = with_values(3).await;
    let (network, image) = (network_of(&installation, &caches[0].0), image_of(&installation, &caches[0].0));
    let [running, killed, killed_now] = [0, 1, 2].map(|number: usize| caches[number].clone());
    let address = |cache: &(Instance, Route)| cache.1.address.clone().unwrap();
    installation.stop_provisioner();
    docker(&["network", "disconnect", "-f", &network, &installation.container(&running.0)]);
    docker(&["kill", &installation.container(&killed.0)]);
    let holders: Vec<_> = [&running, &killed]
        .into_iter()
        .enumerate()
        .map(|(number, cache)| {
            let arguments = ["--network", &network, "--ip", &address(cache)];
            ForeignContainer::run(&installation, &format!("holder{number}"), &arguments, &image)
        })
        .collect();
    // Docker's own choice is none of the addresses that are leased.
    let guest = ForeignContainer::run(&installation, "guest", &["--network", &network], &image);
    let guest = inspect("container", &guest.0)["NetworkSettings"]["Networks"][&network]["IPAddress"].clone();
    let last: u8 = guest.as_str().unwrap().rsplit('.').next().unwrap().parse().unwrap();
    assert!(last >= 240, "{guest}");
    installation.start_provisioner();
    installation.until_ready().await;
    let started = Instant::now();
    for (instance, route) in [&running, &killed] {
        let after = installation.until_running(instance, route.generation).await;
        assert_ne!(after.address, route.address);
        assert!(started.elapsed() < ADDRESS_TIMEOUT, "{:?}", started.elapsed());
        let event = until_event(&installation, instance, EventCause::AddressTaken).await;
        assert!(
            event.contents_lost && event.detail.contains(&format!("red{}-holder", installation.id)),
            "{event:?}"
        );
        assert!(event.detail.contains(route.address.as_ref().unwrap()), "{event:?}");
    }
    println!("another address after {:?}", started.elapsed());
    drop(holders);

    // While the provisioner runs: the cache ends with an address of its own, also if it is faster.
    let container = installation.container(&killed_now.0);
    let started = Instant::now();
    docker(&["rm", "-f", &container]);
    let arguments =
        ["run", "-d", "--name", &format!("red{}-racer", installation.id), "--network", &network, "--ip"];
    let racer = ForeignContainer(arguments[3].to_owned());
    let _ = std::process::Command::new("docker")
        .args(arguments)
        .args([&address(&killed_now), &image, "-U", "0"])
        .output()
        .unwrap();
    let after = installation.until_running(&killed_now.0, killed_now.1.generation).await;
    assert!(started.elapsed() < ADDRESS_TIMEOUT, "{:?}", started.elapsed());
    assert!(installation.request(&killed_now.0, &after, "version").is_some());
    drop(racer);
}

fn limits(installation: &Installation, instance: &Instance) -> [String; 4] {
    let host = inspect("container", &installation.container(instance))["HostConfig"].clone();
    ["Memory", "NanoCpus", "PidsLimit", "RestartPolicy"].map(|name| host[name].to_string())
}

// F-22, F-33.
#[tokio::test]
async fn changed_limits_are_restored_and_the_container_is_kept() {
    let (mut installation, caches) = with_values(1).await;
    let (instance, route) = &caches[0];
    let container = installation.container(instance);
    let before = limits(&installation, instance);
    let change = |more: &[&str]| {
        let update = ["update", "--memory", "300m", "--memory-swap", "300m", "--cpus", "0.1"];
        docker(&[&update[..], more, &[&container]].concat());
    };
    let restored = || async {
        until("limits", Duration::from_secs(5), || async {
            (limits(&installation, instance) == before).then_some(())
        })
        .await;
    };
    change(&["--pids-limit", "7", "--restart", "always", "--cpuset-cpus", "0", "--cpu-shares", "2"]);
    restored().await;
    let event = until_event(&installation, instance, EventCause::LimitsChanged).await;
    assert_eq!((event.action, event.contents_lost), (EventAction::LimitsRestored, false));
    installation.stop_provisioner();
    change(&[]);
    installation.start_provisioner();
    installation.until_ready().await;
    until("limits", Duration::from_secs(5), || async {
        (limits(&installation, instance) == before).then_some(())
    })
    .await;
    assert_eq!(value(&installation, &caches[0]).as_deref(), Some("VA 5"));
    // Nothing is repaired again.
    let actions = || get(installation.config.health, "/metrics").unwrap();
    resyncs(installation.config.health, 2).await;
    assert!(
        actions().contains("memgate_provisioner_actions_total{action=\"restore_limits\"} 1\n"),
        "{}",
        actions()
    );
    assert_eq!(installation.route(instance).await.unwrap().container, route.container);
}

// F-22, F-33.
#[tokio::test]
async fn memory_that_ran_out_is_named_as_the_cause() {
    let (mut installation, caches) = with_values(1).await;
    let (instance, route) = &caches[0];
    let container = installation.container(instance);
    installation.stop_provisioner();
    docker(&["update", "--memory", "12m", "--memory-swap", "12m", "--restart", "no", &container]);
    let fill = || installation.fill(instance, route, 0, (100_000, 400));
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(fill)).is_err(), "it lives on");
    until("the end", Duration::from_secs(10), || async {
        (inspect("container", &container)["State"]["Running"] == false).then_some(())
    })
    .await;
    installation.start_provisioner();
    let event = until_event(&installation, instance, EventCause::OutOfMemory).await;
    assert!(event.contents_lost && event.detail.contains("exit code 137"), "{event:?}");
    let after = installation.until_running(instance, 0).await;
    assert!(installation.request(instance, &after, "version").is_some());
    assert!(limits(&installation, instance)[0].len() > 8, "{:?}", limits(&installation, instance));
}

// F-33, F-1, F-2.
#[tokio::test]
async fn every_repair_leaves_an_event() {
    let (installation, caches) = with_values(1).await;
    let (instance, _) = &caches[0];
    let name = installation.container(instance);
    let cases: &[(&[&str], EventCause, EventAction, bool)] = &[
        (&["pause", &name], EventCause::Paused, EventAction::Unpaused, false),
        (&["kill", &name], EventCause::Stopped, EventAction::Started, true),
        (&["rm", "-f", &name], EventCause::Removed, EventAction::Replaced, true),
        (&["-9"], EventCause::Crashed, EventAction::Started, true),
    ];
    for (command, cause, action, contents_lost) in cases {
        match command {
            ["-9"] => drop(output("kill", &["-9", &inspect("container", &name)["State"]["Pid"].to_string()])),
            _ => drop(docker(command)),
        }
        let event = until_event(&installation, instance, *cause).await;
        assert_eq!((event.action, event.contents_lost), (*action, *contents_lost), "{event:?}");
        installation.until_running(instance, 0).await;
        let events = installation.store.instance_events(&instance.id, 50).await.unwrap();
        assert_eq!(events[0], event, "the last one");
    }
    let events = installation.store.instance_events(&instance.id, 50).await.unwrap();
    assert_eq!(events.len(), cases.len(), "{events:?}");
    assert!(
        events
            .iter()
            .filter(|it| it.cause != EventCause::Paused)
            .all(|it| it.detail.contains("exit code 137"))
    );
}

// F-29.
#[tokio::test]
async fn a_leader_with_the_wrong_key_replaces_nothing() {
    let (mut installation, caches) = with_values(3).await;
    let key = installation.lane_key.clone();
    installation.lane_key = LaneKey::load_or_create(&installation.dir().join("other.key")).unwrap();
    let config =
        provisioner::Config { health: free_port(), reconcile_seconds: 1, ..installation.config.clone() };
    let stand_by = installation.spawn(config.clone());
    until("standing by", Duration::from_secs(10), || async {
        readyz(config.health).filter(|text| text.contains("waits"))
    })
    .await;
    installation.stop_provisioner();
    let report = until("a report", REPORT_TIMEOUT, || async {
        readyz(config.health).filter(|text| text.starts_with("HTTP/1.1 503") && text.contains("lane.key"))
    })
    .await;
    assert!(report.contains("3 of 3 caches reject their secret"), "{report}");
    let waiting = installation.sign_up().await;
    // Changes by hand don't provoke it either; a container that has stopped is started, which needs no key.
    docker(&["kill", &installation.container(&caches[2].0)]);
    resyncs(config.health, 4).await;
    for (instance, route) in &caches {
        let container = inspect("container", &installation.container(instance));
        assert_eq!(container["Id"].as_str(), route.container.as_deref());
    }
    until("all run", REPORT_TIMEOUT, || async {
        let runs =
            |instance| inspect("container", &installation.container(instance))["State"]["Running"] == true;
        caches.iter().all(|(instance, _)| runs(instance)).then_some(())
    })
    .await;
    assert_eq!(
        installation.route(&caches[0].0).await.as_ref(),
        Some(&caches[0].1),
        "its owner notices nothing"
    );
    assert!(installation.route(&waiting).await.is_none_or(|route| route.container.is_none()));
    let metrics = get(config.health, "/metrics").unwrap();
    assert!(metrics.contains("memgate_provisioner_condition_failing{part=\"secrets\"} 1"), "{metrics}");
    stand_by.stop();
    installation.lane_key = key;
    installation.start_provisioner();
    installation.until_ready().await;
    installation.until_running(&waiting, 0).await;
    for cache in &caches[..2] {
        assert_eq!(value(&installation, cache).as_deref(), Some("VA 5"));
    }
}

// F-29, F-33.
#[tokio::test]
async fn one_cache_with_a_wrong_secret_is_replaced() {
    let (installation, caches) = with_values(3).await;
    let (instance, route) = &caches[0];
    let container = installation.container(instance);
    let volume = inspect("volume", &container)["Mountpoint"].as_str().unwrap().to_owned();
    std::fs::write(format!("{volume}/auth"), "lane:0000\n").unwrap();
    docker(&["kill", &container]);
    let after = installation.until_running(instance, route.generation).await;
    assert!(installation.request(instance, &after, "version").is_some());
    let event = until_event(&installation, instance, EventCause::WrongSecret).await;
    assert_eq!((event.action, event.contents_lost), (EventAction::Replaced, true), "{event:?}");
    for cache in &caches[1..] {
        assert_eq!(value(&installation, cache).as_deref(), Some("VA 5"));
    }
}

// F-30.
#[tokio::test]
async fn a_docker_that_hangs_is_reported() {
    let mut installation = Installation::new().await;
    let relay = DockerRelay::start(&mut installation);
    installation.start_provisioner();
    installation.until_ready().await;
    installation.running_instance().await;
    let started = Instant::now();
    relay.freeze();
    let report = until("a report", REPORT_TIMEOUT, || async {
        readyz(installation.config.health).filter(|text| text.starts_with("HTTP/1.1 503"))
    })
    .await;
    println!("reported after {:?}", started.elapsed());
    assert!(report.contains("Docker doesn't answer"), "{report}");
    let waiting = installation.sign_up().await;
    let metrics = get(installation.config.health, "/metrics").unwrap();
    assert!(!metrics.contains("memgate_provisioner_docker_timeouts_total 0"), "{metrics}");
    assert!(metrics.contains("memgate_provisioner_condition_failing{part=\"docker\"} 1"), "{metrics}");
    relay.thaw();
    installation.until_running(&waiting, 0).await;
    until("ready", Duration::from_secs(10), || async { ready(installation.config.health).then_some(()) })
        .await;
}

// F-34, F-17, F-20.
#[tokio::test]
async fn repairs_need_no_store() {
    let (installation, caches) = with_values(4).await;
    let name = |number: usize| installation.container(&caches[number].0);
    let lock = StoreLock::take(&installation.dir().join("memgate.db"));
    docker(&["pause", &name(0)]);
    docker(&["kill", &name(1)]);
    docker(&["rm", "-f", &name(2)]);
    docker(&["stop", "-t", "1", &name(3)]);
    let started = Instant::now();
    until_value(&installation, &caches[0], LOCKED_TIMEOUT, "the value of the paused cache").await;
    for (instance, route) in &caches[1..] {
        // On the recorded route: no proxy can be told of another.
        until("an answer", LOCKED_TIMEOUT, || async { installation.request(instance, route, "version") })
            .await;
    }
    println!("repaired during the lock after {:?}", started.elapsed());
    drop(lock);
    for (number, (instance, route)) in caches.iter().enumerate() {
        let after = installation.until_running(instance, 0).await;
        let kept = number != 2;
        assert_eq!(
            (after.generation, after.container == route.container),
            (route.generation, kept),
            "{number}"
        );
        let event = &until_events(&installation, instance).await[0];
        assert_eq!(event.contents_lost, number != 0, "{event:?}");
    }
    assert_eq!(value(&installation, &caches[0]).as_deref(), Some("VA 5"), "a paused cache is kept");
}

async fn until_events(installation: &Installation, instance: &Instance) -> Vec<InstanceEvent> {
    until("events", Duration::from_secs(20), || async {
        Some(installation.store.instance_events(&instance.id, 50).await.unwrap()).filter(|it| !it.is_empty())
    })
    .await
}

// F-33.
#[tokio::test]
async fn a_failed_cache_is_a_warning_and_tried_soon_after_its_cause_is_gone() {
    let mut installation = Installation::new().await;
    let image = provisioner::ensure_image(&installation.config, &installation.id).await.unwrap();
    let instance = installation.sign_up().await;
    let name = installation.container(&instance);
    docker(&["create", "--name", &name, &image]);
    installation.start_provisioner();
    installation.until_route(&instance, |route| route.state == InstanceState::Failed).await;
    until("a warning", Duration::from_secs(5), || async {
        readyz(installation.config.health).filter(|text| text.contains("1 cache has failed"))
    })
    .await;
    let event = &until_events(&installation, &instance).await[0];
    assert!(event.action == EventAction::Failed && event.detail.contains(&name), "{event:?}");
    docker(&["rm", "-f", &name]);
    let started = Instant::now();
    installation.until_running(&instance, 0).await;
    println!("running again after {:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(12), "{:?}", started.elapsed());
    until("no warning", Duration::from_secs(5), || async {
        readyz(installation.config.health).filter(|text| text.ends_with("ready\n"))
    })
    .await;
}
