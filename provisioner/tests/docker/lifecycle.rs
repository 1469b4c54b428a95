//! The life of an instance from sign-up to removal, with another installation on the same machine.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use store::{DesiredState, InstanceState};

use crate::harness::{Installation, count, docker, free_port, get, inspect, ready, readyz, resyncs, until};

const KINDS: [&str; 4] = ["container", "volume", "network", "image"];

#[tokio::test]
async fn a_new_instance_runs_without_waiting_for_a_resync() {
    let mut installation = Installation::new().await;
    // Only the store's notification can make an instance run in time. `deploy/measure` measures how long it takes.
    installation.config.reconcile_seconds = 3_600;
    installation.start_provisioner();
    installation.until_ready().await;
    let mut times = Vec::new();
    for _ in 0..5 {
        let instance = installation.sign_up().await;
        let started = Instant::now();
        let route = installation.until_running(&instance, 0).await;
        times.push(started.elapsed());
        assert_eq!(
            installation.request(&instance, &route, "version"),
            Some(format!("VERSION {}", route.version.clone().unwrap()))
        );
        assert_eq!((route.generation, route.message), (1, None));
    }
    println!("sign-up to running: {times:?}");
    let metrics = get(installation.config.health, "/metrics").unwrap();
    assert!(metrics.contains("memgate_provisioner_actions_total{action=\"create\"} 5"), "{metrics}");
}

#[tokio::test]
async fn teardown_leaves_nothing_and_spares_other_installations() {
    let mut installation = Installation::start().await;
    let other = Installation::start().await;
    let (other_instance, other_route) = other.running_instance().await;
    installation.running_instance().await;
    installation.running_instance().await;
    installation.stop_provisioner();
    assert_eq!(
        KINDS.map(|kind| count(kind, &installation.id)),
        [2, 2, 1, 1],
        "a stop leaves the caches running"
    );

    let removed = provisioner::teardown(&installation.config, &installation.id).await.unwrap();
    let counts = [removed.containers, removed.volumes, removed.networks, removed.images, removed.tables];
    assert_eq!(counts, [2, 2, 1, 1, 1]);
    assert_eq!(KINDS.map(|kind| count(kind, &installation.id)), [0; 4]);
    let rules = crate::harness::output("nft", &["list", "tables"]);
    assert!(!rules.contains(&installation.id), "{rules}");
    assert_eq!(
        provisioner::teardown(&installation.config, &installation.id).await.unwrap(),
        provisioner::Removed::default()
    );

    assert!(other.request(&other_instance, &other_route, "version").is_some());
    assert_eq!(other.route(&other_instance).await, Some(other_route));
    assert!(provisioner::teardown(&installation.config, "no id!").await.is_err());
}

//
#[tokio::test]
async fn a_released_address_cools_down() {
    let installation = Installation::start().await;
    let (first, route) = installation.running_instance().await;
    for (wanted, state) in [
        (DesiredState::Suspended, InstanceState::Suspended),
        (DesiredState::Deleting, InstanceState::Deleting),
    ] {
        installation.store.set_desired_state(&first.id, wanted).await.unwrap();
        let released = installation.until_route(&first, |r| r.state == state && r.address.is_none()).await;
        assert_eq!((released.container, released.version), (None, None));
        assert_eq!([count("container", &installation.id), count("volume", &installation.id)], [0, 0]);
        if wanted == DesiredState::Suspended {
            installation.store.set_desired_state(&first.id, DesiredState::Running).await.unwrap();
            let resumed = installation.until_running(&first, route.generation).await;
            assert_ne!(resumed.address, route.address, "the address cools down for all instances");
        }
    }
    let mut addresses = HashSet::from([route.address]);
    for _ in 0..3 {
        let (_, route) = installation.running_instance().await;
        assert!(addresses.insert(route.address.clone()), "{route:?} has an address that cools down");
    }
}

// F-13.
#[tokio::test]
async fn only_one_provisioner_leads() {
    let mut installation = Installation::start().await;
    let mut config = installation.config.clone();
    config.health = free_port();
    let second = installation.spawn(config.clone());
    until("waiting", Duration::from_secs(5), || async {
        readyz(config.health)?.contains("another provisioner").then_some(())
    })
    .await;
    installation.stop_provisioner();
    until("leading", Duration::from_secs(5), || async { ready(config.health).then_some(()) }).await;
    installation.running_instance().await;
    second.stop();
}

// F-13: a resync is due in an hour.
#[tokio::test]
async fn lost_leadership_is_noticed_between_resyncs() {
    let mut installation = Installation::new().await;
    installation.config.reconcile_seconds = 3_600;
    installation.start_provisioner();
    installation.until_ready().await;
    let leads = || {
        let metrics = get(installation.config.health, "/metrics")?;
        Some(metrics.lines().any(|line| line == "memgate_provisioner_leader 1"))
    };
    assert_eq!(leads(), Some(true));
    let path = installation.dir().join("memgate.leader");
    std::fs::rename(&path, installation.dir().join("moved")).unwrap();
    let other = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&path).unwrap();
    other.lock().unwrap();
    let noticed = Duration::from_secs(10);
    until("it doesn't lead", noticed, || async { (!leads()?).then_some(()) }).await;
    drop(other);
    until("it leads again", noticed, || async { leads()?.then_some(()) }).await;
}

// F-12.
#[tokio::test]
async fn old_orphans_are_removed() {
    let mut installation = Installation::new().await;
    installation.config.reconcile_seconds = 1;
    installation.start_provisioner();
    installation.until_ready().await;
    installation.running_instance().await;
    let label = |key: &str, value: &str| format!("{key}={value}");
    let own = label("memgate", &installation.id);
    let create_volume = |name: &str, created: store::Timestamp| {
        let labels =
            [own.clone(), label("memgate.instance", name), label("memgate.created", &created.to_string())];
        let name = format!("memgate-{}-{name}", installation.id);
        docker(&[
            "volume", "create", "--label", &labels[0], "--label", &labels[1], "--label", &labels[2], &name,
        ]);
    };
    create_volume("young", store::now());
    create_volume("old", store::now().saturating_sub(Duration::from_secs(61)));
    until("the old volume to be removed", Duration::from_secs(10), || async {
        (count("volume", &installation.id) == 2).then_some(())
    })
    .await;
    assert!(docker(&["volume", "ls", "-q"]).contains(&format!("memgate-{}-young", installation.id)));
}

// F-12.
#[tokio::test]
async fn a_network_that_was_never_recorded_is_removed_before_another_is_added() {
    let mut installation = Installation::new().await;
    let label = format!("memgate={}", installation.id);
    let created = format!("memgate.created={}", store::now());
    let name = format!("memgate-{}-net-0", installation.id);
    docker(&["network", "create", "--internal", "--label", &label, "--label", &created, &name]);
    installation.start_provisioner();
    installation.until_ready().await;
    until("the first network", Duration::from_secs(10), || async {
        (installation.store.networks().await.unwrap().len() == 1).then_some(())
    })
    .await;
    assert_eq!(count("network", &installation.id), 1);
}

// F-15.
#[tokio::test]
async fn what_has_an_unreadable_row_is_reported_and_kept() {
    let mut installation = Installation::new().await;
    installation.config.reconcile_seconds = 1;
    let (id, created) = (installation.id.clone(), store::now().saturating_sub(Duration::from_secs(61)));
    let name = |number: u8| format!("memgate-{id}-net-{number}");
    for number in [7, 8] {
        let labels = [format!("memgate={id}"), format!("memgate.created={created}")];
        docker(&[
            "network",
            "create",
            "--internal",
            "--label",
            &labels[0],
            "--label",
            &labels[1],
            &name(number),
        ]);
    }
    installation.execute(&format!(
        "INSERT INTO networks (name, bridge, subnet, gateway, created_at) VALUES ('{}', zeroblob(3), 'x', 'x', 1)",
        name(7)
    ));
    installation.start_provisioner();
    installation.until_ready().await;
    let (instance, _) = installation.running_instance().await;
    installation.execute(&format!("UPDATE instances SET memory_mb = 'x' WHERE id = '{}'", instance.id));
    until("a report", Duration::from_secs(10), || async {
        get(installation.config.health, "/status").filter(|text| text.contains("row that can't be read: 1"))
    })
    .await;
    let exists = |number: u8| {
        let filter = format!("name={}", name(number));
        !docker(&["network", "ls", "-q", "--filter", &filter]).is_empty()
    };
    until("the one without a row to be removed", Duration::from_secs(10), || async {
        (!exists(8)).then_some(())
    })
    .await;
    resyncs(installation.config.health, 2).await;
    assert!(exists(7), "its row can't be read");
    inspect("container", &installation.container(&instance));
}

/// A proxy of Docker's socket that can be opened and closed.
struct SocketProxy {
    path: std::path::PathBuf,
    open: Arc<AtomicBool>,
}

impl SocketProxy {
    fn new(dir: &Path) -> Self {
        let (path, open) = (dir.join("docker.sock"), Arc::new(AtomicBool::new(true)));
        let listener = UnixListener::bind(&path).unwrap();
        let is_open = Arc::clone(&open);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if is_open.load(Ordering::SeqCst) {
                    let docker = UnixStream::connect("/var/run/docker.sock").unwrap();
                    for (from, to) in [(&client, &docker), (&docker, &client)] {
                        let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                        let is_open = Arc::clone(&is_open);
                        std::thread::spawn(move || forward(from, to, &is_open));
                    }
                }
            }
        });
        Self { path, open }
    }

    fn set_open(&self, open: bool) {
        self.open.store(open, Ordering::SeqCst);
    }
}

/// Forwards bytes until one side ends or the proxy closes.
fn forward(mut from: UnixStream, mut to: UnixStream, open: &AtomicBool) {
    from.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut bytes = [0; 16 << 10];
    while open.load(Ordering::SeqCst) {
        match from.read(&mut bytes) {
            Ok(0) => break,
            Ok(n) if to.write_all(&bytes[..n]).is_ok() => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            _ => break,
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
    if !open.load(Ordering::SeqCst) {
        let _ = from.shutdown(std::net::Shutdown::Both);
    }
}

// F-3.
#[tokio::test]
async fn an_outage_of_docker_is_survived() {
    let mut installation = Installation::new().await;
    let proxy = SocketProxy::new(installation.dir());
    installation.config.docker_socket = proxy.path.clone();
    installation.start_provisioner();
    installation.until_ready().await;
    let (before, before_route) = installation.running_instance().await;

    proxy.set_open(false);
    until("not ready", Duration::from_secs(5), || async {
        readyz(installation.config.health)?.contains("Docker doesn't answer").then_some(())
    })
    .await;
    let during = installation.sign_up().await;
    let waiting = installation.until_route(&during, |r| r.message.is_some()).await;
    assert_eq!(waiting.state, InstanceState::Pending);
    assert!(waiting.message.unwrap().contains("starts by itself"));
    assert_eq!(installation.route(&before).await, Some(before_route.clone()), "it keeps running");

    proxy.set_open(true);
    let opened = Instant::now();
    let route = installation.until_running(&during, 0).await;
    assert!(opened.elapsed() < Duration::from_secs(10), "{:?}", opened.elapsed());
    assert_eq!(route.message, None);
    assert_eq!(installation.route(&before).await, Some(before_route));
    installation.until_ready().await;
}

/// Takes minutes and 2 GB of memory: `cargo test -p provisioner --test docker -- --ignored`.
#[tokio::test]
#[ignore = "long: 200 caches"]
async fn two_hundred_instances_run_and_recover() {
    const COUNT: usize = 200;
    let mut installation = Installation::start().await;
    let started = Instant::now();
    let mut instances = Vec::new();
    for _ in 0..COUNT {
        instances.push(installation.sign_up().await);
    }
    all_running(&installation, &instances).await;
    println!("{COUNT} running after {:?}", started.elapsed());

    let restarted = Instant::now();
    installation.stop_provisioner();
    installation.start_provisioner();
    let new = installation.sign_up().await;
    installation.until_running(&new, 0).await;
    println!("one more, during the first resync: {:?}", restarted.elapsed());

    let killed = Instant::now();
    let ids = docker(&["ps", "-q", "--filter", &format!("label=memgate={}", installation.id)]);
    // One by one: Docker 20.10 miscounts a network's containers if dozens die at once while others start, and
    // then can't remove the network until Docker restarts.
    for id in ids.lines() {
        docker(&["kill", id]);
    }
    println!("{} killed in {:?}", ids.lines().count(), killed.elapsed());
    let killed = Instant::now();
    let pending = async || {
        installation
            .store
            .instances()
            .await
            .unwrap()
            .iter()
            .filter(|i| i.state() != InstanceState::Running)
            .count()
    };
    let restarting = pending().await;
    all_running(&installation, &instances).await;
    println!("recovered in {:?} ({restarting} were restarting at first)", killed.elapsed());

    let ended = Instant::now();
    installation.stop_provisioner();
    let removed = provisioner::teardown(&installation.config, &installation.id).await.unwrap();
    println!("{removed:?} in {:?}", ended.elapsed());
    assert_eq!(removed.containers, COUNT + 1);
}

async fn all_running(installation: &Installation, instances: &[store::Instance]) {
    until("all to run", Duration::from_secs(180), || async {
        let now = installation.store.instances().await.unwrap();
        let running = now.iter().filter(|i| i.state() == InstanceState::Running).count();
        (running >= instances.len()).then_some(())
    })
    .await;
    for instance in instances {
        let route = installation.until_running(instance, 0).await;
        assert!(installation.request(instance, &route, "version").is_some(), "{route:?}");
    }
}
