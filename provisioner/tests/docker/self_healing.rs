//! Self-healing: a container that is changed by hand is restored.

use std::time::{Duration, Instant};

use store::{EventAction, EventCause, InstanceState};

use crate::harness::{Installation, docker, inspect, output, resyncs, until};

/// Time limit of a recovery.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(10);

// F-1, F-2.
#[tokio::test]
async fn a_container_is_restored_after_any_change_by_hand() {
    let installation = Installation::start().await;
    let (instance, first) = installation.running_instance().await;
    let name = installation.container(&instance);
    let cases: &[(&str, &[&[&str]], bool)] = &[
        ("kill", &[&["kill", &name]], false),
        ("stop", &[&["stop", "-t", "1", &name]], false),
        ("pause", &[&["pause", &name]], false),
        ("rm", &[&["rm", "-f", &name]], true),
        ("rm with volume", &[&["rm", "-f", &name], &["volume", "rm", &name]], true),
        // The process dies without Docker's doing.
        ("memcached dies", &[&["-9"]], false),
    ];
    let mut before = first.clone();
    for (what, commands, recreated) in cases {
        let revision = before.changed_at;
        let started = Instant::now();
        for command in *commands {
            match command {
                ["-9"] => {
                    let pid = inspect("container", &name)["State"]["Pid"].to_string();
                    output("kill", &["-9", &pid]);
                }
                // Recovery may be faster than the second command, which then fails; that is fine.
                _ => drop(std::process::Command::new("docker").args(*command).output().unwrap()),
            }
        }
        let after = installation
            .until_route(&instance, |r| r.state == InstanceState::Running && r.changed_at > revision)
            .await;
        until(what, RECOVERY_TIMEOUT, || async {
            installation.request(&instance, &installation.route(&instance).await?, "version")
        })
        .await;
        let after = if *recreated { installation.route(&instance).await.unwrap() } else { after };
        println!("{what}: {:?}, generation {}", started.elapsed(), after.generation);
        assert!(started.elapsed() < RECOVERY_TIMEOUT, "{what} took {:?}", started.elapsed());
        assert_eq!(after.address, first.address, "{what}: the address is kept");
        assert_eq!(after.generation > before.generation, *recreated, "{what}: {after:?}");
        before = installation.until_running(&instance, 0).await;
    }
}

//
#[tokio::test]
async fn docker_starts_no_container_by_itself() {
    let mut installation = Installation::start().await;
    let (instance, route) = installation.running_instance().await;
    let name = installation.container(&instance);
    installation.stop_provisioner();
    output("kill", &["-9", &inspect("container", &name)["State"]["Pid"].to_string()]);
    // A restart policy would make it "restarting" or "running".
    until("exit", RECOVERY_TIMEOUT, || async {
        (inspect("container", &name)["State"]["Status"] == "exited").then_some(())
    })
    .await;
    installation.start_provisioner();
    let after = installation
        .until_route(&instance, |it| it.state == InstanceState::Running && it.changed_at > route.changed_at)
        .await;
    assert_eq!(
        (after.generation, &after.container),
        (route.generation, &route.container),
        "started, not replaced"
    );
    assert_eq!(inspect("container", &name)["RestartCount"], 0);
    assert!(installation.request(&instance, &after, "version").is_some());
}

/// An installation whose provisioner checks every second, with one cache that holds a value.
async fn with_value() -> (Installation, store::Instance, store::Route) {
    let mut installation = Installation::new().await;
    installation.config.reconcile_seconds = 1;
    installation.start_provisioner();
    installation.until_ready().await;
    let (instance, route) = installation.running_instance().await;
    assert_eq!(installation.request(&instance, &route, "ms key 5\r\nvalue").as_deref(), Some("HD"));
    (installation, instance, route)
}

//
#[tokio::test]
async fn a_cache_without_free_connections_is_kept() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let raised = rustix::process::Rlimit { current: limit, maximum: limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let (installation, instance, route) = with_value().await;
    let address: std::net::SocketAddr = format!("{}:11211", route.address.as_ref().unwrap()).parse().unwrap();
    // memcached takes 1,024; the rest it closes.
    let held: Vec<_> = (0..1_100).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
    let full = installation.until_route(&instance, |route| route.message.is_some()).await;
    assert!(full.message.as_ref().unwrap().contains("connections are in use"), "{full:?}");
    resyncs(installation.config.health, 5).await;
    let kept = installation.route(&instance).await.unwrap();
    assert_eq!(
        (kept.state, kept.generation, &kept.container),
        (InstanceState::Running, route.generation, &route.container)
    );
    drop(held);
    installation.until_route(&instance, |route| route.message.is_none()).await;
    assert_eq!(installation.request(&instance, &route, "mg key v").as_deref(), Some("VA 5"));
}

// R-29, F-2.
#[tokio::test]
async fn a_memcached_that_hangs_is_replaced_and_one_that_stumbles_is_kept() {
    let (installation, instance, route) = with_value().await;
    let pid = || inspect("container", &installation.container(&instance))["State"]["Pid"].to_string();
    let signal = |name: &str| drop(output("kill", &[name, &pid()]));
    signal("-STOP");
    installation.until_route(&instance, |route| route.state == InstanceState::Restarting).await;
    signal("-CONT");
    let kept = installation.until_running(&instance, 0).await;
    assert_eq!((kept.generation, &kept.container), (route.generation, &route.container));
    assert_eq!(installation.request(&instance, &route, "mg key v").as_deref(), Some("VA 5"));

    signal("-STOP");
    let started = Instant::now();
    let replaced = installation.until_running(&instance, route.generation).await;
    println!("replaced after {:?}", started.elapsed());
    assert!(installation.request(&instance, &replaced, "version").is_some());
}

/// While it exists, the host has no way to one address.
struct LostWay(String);

impl LostWay {
    fn to(address: &str) -> Self {
        let route = format!("{address}/32");
        output("ip", &["route", "add", "blackhole", &route]);
        Self(route)
    }
}

impl Drop for LostWay {
    fn drop(&mut self) {
        output("ip", &["route", "del", "blackhole", &self.0]);
    }
}

//
#[tokio::test]
async fn a_cache_that_cannot_be_reached_is_kept() {
    let (installation, instance, route) = with_value().await;
    let address = route.address.clone().unwrap();
    let lost_way = LostWay::to(&address);
    let lost = installation.until_route(&instance, |route| route.state == InstanceState::Failed).await;
    resyncs(installation.config.health, 12).await;
    drop(lost_way);
    assert!(lost.message.as_ref().unwrap().contains("can't be reached"), "{lost:?}");
    let found = installation.until_running(&instance, 0).await;
    assert_eq!((found.generation, &found.container), (route.generation, &route.container));
    assert_eq!(installation.request(&instance, &route, "mg key v").as_deref(), Some("VA 5"));
}

// R-29, F-2.
#[tokio::test]
async fn a_lost_interface_is_restored_with_the_contents() {
    let (installation, instance, route) = with_value().await;
    let pid = inspect("container", &installation.container(&instance))["State"]["Pid"].to_string();
    output("nsenter", &["-t", &pid, "-n", "ip", "link", "del", "eth0"]);
    installation.until_route(&instance, |route| route.state == InstanceState::Restarting).await;
    let restored = installation.until_running(&instance, 0).await;
    assert_eq!(
        (restored.generation, &restored.container, &restored.address),
        (route.generation, &route.container, &route.address)
    );
    assert_eq!(installation.request(&instance, &route, "mg key v").as_deref(), Some("VA 5"));
}

// F-2, F-16, F-33.
#[tokio::test]
async fn a_disconnected_container_is_connected_again_with_its_contents() {
    let mut installation = Installation::start().await;
    let (instance, route) = installation.running_instance().await;
    assert_eq!(installation.request(&instance, &route, "ms key 5\r\nvalue").as_deref(), Some("HD"));
    let name = installation.container(&instance);
    let network = inspect("container", &name)["HostConfig"]["NetworkMode"].as_str().unwrap().to_owned();
    for (number, and_network) in [(1, false), (2, true)] {
        let started = Instant::now();
        if and_network {
            // Else it would be faster than the second command.
            installation.stop_provisioner();
        }
        docker(&["network", "disconnect", "-f", &network, &name]);
        if and_network {
            docker(&["network", "rm", &network]);
            installation.start_provisioner();
            installation.until_ready().await;
        }
        println!("connected again after {:?}", started.elapsed());
        let after = installation.until_running(&instance, 0).await;
        assert_eq!((after.generation, &after.container), (route.generation, &route.container));
        until("the event", RECOVERY_TIMEOUT, || async {
            let events = installation.store.instance_events(&instance.id, 50).await.unwrap();
            let event = events.into_iter().find(|event| event.cause == EventCause::Disconnected)?;
            assert_eq!((event.action, event.contents_lost), (EventAction::Reattached, false));
            (event.count >= number).then_some(())
        })
        .await;
        // Without the network, something elsewhere may answer.
        until("its address", RECOVERY_TIMEOUT, || async {
            let found = inspect("container", &name)["NetworkSettings"]["Networks"][&network].clone();
            (found["IPAddress"].as_str() == route.address.as_deref()).then_some(())
        })
        .await;
        until("the value", RECOVERY_TIMEOUT, || async {
            installation.request(&instance, &route, "mg key v").filter(|reply| reply == "VA 5")
        })
        .await;
    }
}

// R-29, F-2, F-16: as a provisioner leaves them that ends while it makes a network again.
#[tokio::test]
async fn contents_are_kept_if_a_provisioner_ends_while_it_makes_a_network_again() {
    let (mut installation, instance, route) = with_value().await;
    let name = installation.container(&instance);
    let network = inspect("container", &name)["HostConfig"]["NetworkMode"].as_str().unwrap().to_owned();
    let disconnect: &[&str] = &["network", "disconnect", "-f", &network, &name];
    for (what, commands) in [
        ("paused and disconnected", [&["pause", &name][..], disconnect]),
        ("without network", [disconnect, &["network", "rm", &network]]),
    ] {
        installation.stop_provisioner();
        commands.iter().for_each(|command| drop(docker(command)));
        let started = Instant::now();
        installation.start_provisioner();
        installation.until_ready().await;
        until(what, RECOVERY_TIMEOUT, || async {
            installation.request(&instance, &route, "mg key v").filter(|reply| reply == "VA 5")
        })
        .await;
        println!("{what}: {:?}", started.elapsed());
        let after = installation.until_running(&instance, 0).await;
        assert_eq!((after.generation, &after.container), (route.generation, &route.container), "{what}");
    }
    let events = installation.store.instance_events(&instance.id, 50).await.unwrap();
    assert!(events.iter().all(|event| !event.contents_lost), "{events:?}");
}

#[tokio::test]
async fn proxies_learn_of_a_removed_container() {
    let installation = Installation::start().await;
    let (instance, _) = installation.running_instance().await;
    let mut feed = installation.store.feed().await.unwrap();
    docker(&["rm", "-f", &installation.container(&instance)]);
    let mut states = Vec::new();
    while states.last() != Some(&InstanceState::Running) {
        feed.next().await.unwrap();
        states.push(installation.route(&instance).await.unwrap().state);
    }
    assert_eq!(states, [InstanceState::Restarting, InstanceState::Running]);
}

#[tokio::test]
async fn changes_while_the_provisioner_was_down_are_repaired() {
    let mut installation = Installation::start().await;
    let (kept, kept_route) = installation.running_instance().await;
    let (removed, removed_route) = installation.running_instance().await;
    let stopped = installation.stop_provisioner();
    assert!(stopped < Duration::from_secs(5), "{stopped:?}");
    docker(&["rm", "-f", &installation.container(&removed)]);

    installation.start_provisioner();
    let restored = installation.until_running(&removed, removed_route.generation).await;
    assert_eq!(restored.address, removed_route.address);
    assert_eq!(installation.route(&kept).await, Some(kept_route), "a healthy instance is not touched");
}
