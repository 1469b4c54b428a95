//! The life of a cache: suspended, resumed and deleted, also from where a crash left that; warm contents; sleep and wake.

use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use store::{
    Instance, InstanceState, NewOperation, Observed, Operation, OperationKind, OperationProgress,
    OperationState, Route,
};

use crate::docker_relay::DockerRelay;
use crate::harness::{Installation, count, docker, inspect, readyz, until};
use crate::operations::{ITEM, ask, done, hits, left, until_finished};

const SECOND: Duration = Duration::from_secs(1);

pub(crate) async fn warm(installation: &Installation) {
    installation.store.update_plan("default", |plan| plan.warm = true).await.unwrap();
}

pub(crate) fn holder(installation: &Installation, instance: &Instance) -> String {
    format!("{}-holder", installation.container(instance))
}

pub(crate) fn memory(installation: &Installation, instance: &Instance) -> String {
    format!("{}-memory", installation.container(instance))
}

pub(crate) async fn until_alone(installation: &Installation) {
    until("the end of the holder", Duration::from_secs(10), || async {
        (count("container", &installation.id) == 1).then_some(())
    })
    .await;
}

// F-36, R-54.
#[tokio::test]
async fn warm_cache_keeps_its_contents_over_a_restart() {
    let mut installation = Installation::start().await;
    warm(&installation).await;
    let (instance, route) = installation.running_instance().await;
    let name = installation.container(&instance);
    installation.fill(&instance, &route, 0, (ITEM, 1_000));
    // Longer than a chunk, which memcached stores in parts.
    installation.fill(&instance, &route, 0, (700_000, 10));
    let large = |route: &Route| installation.hits(&instance, route, (700_000, 10));
    assert_eq!((hits(&installation, &instance, &route, 1_000), large(&route)), (1_000, 10));
    let data = inspect("volume", &memory(&installation, &instance))["Mountpoint"].clone();
    let of_folder = std::fs::metadata(data.as_str().unwrap()).unwrap();
    assert_eq!((of_folder.mode() & 0o777, of_folder.uid(), of_folder.gid()), (0o700, 11211, 11211));

    let before = inspect("container", &name);
    for _ in 0..2 {
        let said = done(&installation, &instance, NewOperation::Restart).await;
        assert_eq!(said, "memcached was restarted; it kept 1010 items");
        assert_eq!((hits(&installation, &instance, &route, 1_000), large(&route)), (1_000, 10));
    }
    let after = inspect("container", &name);
    assert_eq!(after["Id"], before["Id"]);
    assert_ne!(after["State"]["StartedAt"], before["State"]["StartedAt"]);
    assert_eq!(installation.until_running(&instance, 0).await.address, route.address);
    until_alone(&installation).await;
    assert_eq!(done(&installation, &instance, NewOperation::Flush).await, "all items were removed");
    let said = done(&installation, &instance, NewOperation::Restart).await;
    assert_eq!(hits(&installation, &instance, &route, 1_000), 0, "what was flushed stays so: {said}");

    // Killed, it starts empty, which is a repair.
    installation.fill(&instance, &route, 0, (ITEM, 1_000));
    docker(&["kill", &name]);
    until("an event", Duration::from_secs(20), || async {
        let events = installation.store.instance_events(&instance.id, 10).await.unwrap();
        events.iter().any(|event| event.contents_lost).then_some(())
    })
    .await;
    let route = installation.until_running(&instance, 0).await;
    assert_eq!(hits(&installation, &instance, &route, 1_000), 0);

    crash_between_stop_and_start(&mut installation, &instance, &route).await;
    done(&installation, &instance, NewOperation::Suspend).await;
    assert_eq!([count("container", &installation.id), count("volume", &installation.id)], [0, 0]);
}

/// A provisioner ends between stopping a warm cache and starting it.
async fn crash_between_stop_and_start(installation: &mut Installation, instance: &Instance, route: &Route) {
    let name = installation.container(instance);
    installation.fill(instance, route, 0, (ITEM, 1_000));
    installation.stop_provisioner();
    let asked = ask(installation, instance, NewOperation::Restart).await;
    left(installation, &asked, inspect("container", &name)["State"]["StartedAt"].as_str().unwrap()).await;
    hold(installation, instance, (&holder(installation, instance), &memory(installation, instance)));
    docker(&["stop", &name]);
    installation.start_provisioner();
    installation.until_ready().await;
    let ended = until_finished(installation, &asked).await;
    assert_eq!(ended.message.as_deref(), Some("memcached was restarted; it kept 1000 items"));
    assert_eq!(hits(installation, instance, route, 1_000), 1_000);
    until_alone(installation).await;
}

/// Starts a holder of a volume, as the provisioner does.
pub(crate) fn hold(installation: &Installation, instance: &Instance, (holder, volume): (&str, &str)) {
    let labels = [format!("memgate={}", installation.id), format!("memgate.instance={}", instance.id)];
    let container = inspect("container", &installation.container(instance));
    let size = inspect("volume", volume)["Labels"]["memgate.spec"].as_str().unwrap().to_owned();
    let memory_mb = size.strip_suffix(" MB").unwrap().parse::<i64>().unwrap() - 1;
    let spec = format!("memgate.spec=memory={memory_mb} connections=1024 item=1048576 warm");
    let mount = format!("source={volume},target=/memory");
    let image = container["Image"].as_str().unwrap().to_owned();
    docker(&[
        "run",
        "-d",
        "--name",
        holder,
        "--label",
        &labels[0],
        "--label",
        &labels[1],
        "--label",
        &spec,
        "--network",
        "none",
        "--user",
        "11211",
        "--mount",
        &mount,
        "--entrypoint",
        "/usr/bin/memcached",
        &image,
        "-l",
        "127.0.0.1",
    ]);
}

fn started_at(installation: &Installation, instance: &Instance) -> String {
    inspect("container", &installation.container(instance))["State"]["StartedAt"].to_string()
}

// F-36.
#[tokio::test]
async fn warm_cache_runs_on_while_its_memory_cannot_be_held() {
    let mut installation = Installation::new().await;
    installation.config.reconcile_seconds = 1;
    let relay = DockerRelay::start(&mut installation);
    installation.start_provisioner();
    installation.until_ready().await;
    warm(&installation).await;
    let (instance, route) = installation.running_instance().await;
    installation.fill(&instance, &route, 0, (ITEM, 10));
    // It needs no holder that can't be started for a moment only.
    relay.refuse("POST", "-holder", 2);
    let said = done(&installation, &instance, NewOperation::Restart).await;
    assert_eq!((said.as_str(), relay.still_refused()), ("memcached was restarted; it kept 10 items", 0));

    let all = 1_000;
    let before = started_at(&installation, &instance);
    relay.refuse("POST", "-holder", all);
    let asked = ask(&installation, &instance, NewOperation::Restart).await;
    let ended = until_finished(&installation, &asked).await;
    assert_eq!(ended.state, OperationState::Failed, "{ended:?}");
    assert!(ended.message.as_ref().unwrap().contains("so it runs on as it was"), "{ended:?}");
    let refused = relay.still_refused();
    let sleeping =
        |seconds| installation.store.update_plan("default", move |plan| plan.sleep_after_seconds = seconds);
    sleeping(Some(1)).await.unwrap();
    until("attempts to put it to sleep", 30 * SECOND, || async {
        (relay.still_refused() + 4 < refused).then_some(())
    })
    .await;
    let runs = installation.route(&instance).await.unwrap();
    assert_eq!((runs.state, started_at(&installation, &instance)), (InstanceState::Running, before));
    relay.refuse("POST", "-holder", 0);
    until_asleep(&installation, &instance).await;
    sleeping(None).await.unwrap();
    let woken = wake(&installation, &instance).await;
    assert_eq!(hits(&installation, &instance, &woken, 10), 10);

    // A crash has left proxies that hold requests.
    let before = started_at(&installation, &instance);
    installation.stop_provisioner();
    let asked = ask(&installation, &instance, NewOperation::Resize { memory_mb: 128 }).await;
    let (state, message) = (InstanceState::Restarting, None);
    let Route { generation, address, container, version, .. } = woken;
    let observed = Observed { state, generation, address, container, version, message };
    installation.store.record_route(&instance.id, &observed).await.unwrap();
    relay.refuse("POST", "-holder", all);
    installation.start_provisioner();
    let ended = until_finished(&installation, &asked).await;
    assert_eq!(ended.state, OperationState::Failed, "{ended:?}");
    let route = installation.until_running(&instance, 0).await;
    let after = started_at(&installation, &instance);
    assert_eq!((after, hits(&installation, &instance, &route, 10)), (before, 10));
    relay.refuse("POST", "-holder", 0);
    let route = installation.until_running(&instance, route.generation).await;
    assert_eq!(hits(&installation, &instance, &route, 10), 10);
}

// F-36.
#[tokio::test]
async fn cache_becomes_warm_when_it_is_started_next() {
    let installation = Installation::start().await;
    let (instance, route) = installation.running_instance().await;
    installation.fill(&instance, &route, 0, (ITEM, 10));
    warm(&installation).await;
    let said = done(&installation, &instance, NewOperation::Flush).await;
    assert_eq!((said.as_str(), count("volume", &installation.id)), ("all items were removed", 1));
    installation.fill(&instance, &route, 0, (ITEM, 10));
    let said = done(&installation, &instance, NewOperation::Restart).await;
    assert!(said.contains("could not be kept: it wasn't warm yet"), "{said}");
    let route = installation.until_running(&instance, route.generation).await;
    installation.fill(&instance, &route, 0, (ITEM, 10));
    let said = done(&installation, &instance, NewOperation::Restart).await;
    assert_eq!(said, "memcached was restarted; it kept 10 items");
}

pub(crate) async fn until_asleep(installation: &Installation, instance: &Instance) -> Route {
    let asleep = installation.until_route(instance, |route| route.state == InstanceState::Asleep).await;
    until("the end of the container", Duration::from_secs(10), || async {
        let state = inspect("container", &installation.container(instance))["State"]["Running"].clone();
        (state == false).then_some(())
    })
    .await;
    asleep
}

pub(crate) async fn wake(installation: &Installation, instance: &Instance) -> Route {
    installation.store.request_wake(std::slice::from_ref(&instance.id)).await.unwrap();
    installation.until_running(instance, 0).await
}

// F-37, F-36, F-33.
#[tokio::test]
async fn idle_cache_sleeps_gives_its_memory_back_and_wakes_as_it_was() {
    let mut installation = Installation::new().await;
    (installation.config.reconcile_seconds, installation.config.memory_mb) = (1, Some(300));
    installation.start_provisioner();
    installation.until_ready().await;
    let (instance, route) = installation.running_instance().await;
    installation.fill(&instance, &route, 0, (ITEM, 10));
    installation.store.update_plan("default", |plan| plan.sleep_after_seconds = Some(1)).await.unwrap();
    let asleep = until_asleep(&installation, &instance).await;
    assert_eq!((&asleep.address, asleep.generation), (&route.address, route.generation), "both are kept");
    installation.store.update_plan("default", |plan| plan.sleep_after_seconds = None).await.unwrap();
    // Two others fit only while it sleeps.
    let others = [installation.running_instance().await.0, installation.running_instance().await.0];
    installation.store.request_wake(std::slice::from_ref(&instance.id)).await.unwrap();
    let waiting = installation.until_route(&instance, |route| route.message.is_some()).await;
    assert!(waiting.message.as_ref().unwrap().starts_with("waiting for memory"), "{waiting:?}");
    assert_eq!(waiting.state, InstanceState::Restarting, "it is not forgotten");
    installation.store.delete_cache(&others[0].cache_id).await.unwrap();
    let woken = installation.until_running(&instance, 0).await;
    assert_eq!((&woken.address, woken.generation), (&route.address, route.generation));
    assert_eq!(hits(&installation, &instance, &woken, 10), 0, "it isn't warm");

    warm(&installation).await;
    done(&installation, &instance, NewOperation::Restart).await;
    let route = installation.until_running(&instance, woken.generation).await;
    let events = installation.store.instance_events(&instance.id, 10).await.unwrap();
    assert_eq!(events, [], "a wake that waits is no repair");
    installation.fill(&instance, &route, 0, (ITEM, 10));
    installation.store.update_plan("default", |plan| plan.sleep_after_seconds = Some(1)).await.unwrap();
    until_asleep(&installation, &instance).await;
    installation.stop_provisioner();
    installation.start_provisioner();
    installation.until_ready().await;
    assert_eq!(installation.route(&instance).await.unwrap().state, InstanceState::Asleep);
    let woken = wake(&installation, &instance).await;
    assert_eq!(hits(&installation, &instance, &woken, 10), 10);
    // An operation wakes it, too.
    until_asleep(&installation, &instance).await;
    assert_eq!(done(&installation, &instance, NewOperation::Flush).await, "all items were removed");
    // Asleep or not, nothing is left of a deleted cache.
    until_asleep(&installation, &instance).await;
    installation.store.delete_cache(&instance.cache_id).await.unwrap();
    until("the removal", Duration::from_secs(10), || async {
        let deleted = installation.store.operations_of(&instance.cache_id, 1).await.unwrap().remove(0);
        (deleted.state == OperationState::Done).then_some(())
    })
    .await;
    let name = installation.container(&instance);
    assert!(!docker(&["container", "ls", "-a", "--format", "{{.Names}}"]).contains(&name));
    assert!(!docker(&["volume", "ls", "--format", "{{.Name}}"]).contains(&name));
}

// F-37.
#[tokio::test]
async fn cache_sleeps_when_its_user_wants_and_wakes_with_the_next_command() {
    let mut installation = Installation::new().await;
    installation.config.reconcile_seconds = 1;
    installation.start_provisioner();
    installation.until_ready().await;
    let (instance, _) = installation.running_instance().await;
    let (other, _) = installation.running_instance().await;
    let before = started_at(&installation, &other);
    let sleep =
        async |seconds| installation.store.set_sleep_after(&instance.cache_id, seconds).await.unwrap();
    sleep(Some(1)).await;
    until_asleep(&installation, &instance).await;
    let runs = installation.route(&other).await.unwrap();
    assert_eq!(
        (runs.state, started_at(&installation, &other)),
        (InstanceState::Running, before),
        "another's"
    );
    sleep(None).await;
    let woken = wake(&installation, &instance).await;
    assert_eq!(woken.state, InstanceState::Running);
    sleep(Some(1)).await;
    until_asleep(&installation, &instance).await;
}

/// The newest operation on a cache, which must be of this kind.
async fn newest(installation: &Installation, instance: &Instance, kind: OperationKind) -> Operation {
    let newest = installation.store.operations_of(&instance.cache_id, 1).await.unwrap().remove(0);
    assert_eq!(newest.kind, kind);
    newest
}

//
#[tokio::test]
async fn suspension_and_deletion_go_on_from_where_a_crash_left_them() {
    let mut installation = Installation::start().await;
    let (instance, mut route) = installation.running_instance().await;
    let name = installation.container(&instance);
    let store = installation.store.clone();
    for is_deletion in [false, true] {
        let state = if is_deletion { InstanceState::Deleting } else { InstanceState::Suspended };
        for (what, is_begun, command) in [
            ("asked", false, &[][..]),
            ("begun", true, &[]),
            ("stopped", true, &["stop", "-t", "1"]),
            ("removed", true, &["rm", "-f"]),
        ] {
            if is_deletion && what != "removed" {
                continue;
            }
            installation.stop_provisioner();
            let asked = if is_deletion {
                store.delete_cache(&instance.cache_id).await.unwrap();
                newest(&installation, &instance, OperationKind::Delete).await
            } else {
                ask(&installation, &instance, NewOperation::Suspend).await
            };
            if is_begun {
                let (state, progress, message, checkpoint) = (OperationState::Running, 5, None, None);
                let begun = OperationProgress { state, progress, message, checkpoint };
                store.record_operation(&asked.id, &begun).await.unwrap();
            }
            if !command.is_empty() {
                docker(&[command, &[name.as_str()]].concat());
            }
            installation.start_provisioner();
            let ended = until_finished(&installation, &asked).await;
            assert_eq!((ended.state, ended.progress), (OperationState::Done, 100), "{what}: {ended:?}");
            let gone = installation.until_route(&instance, |route| route.state == state).await;
            assert_eq!((gone.address, gone.container), (None, None));
            assert_eq!(count("container", &installation.id) + count("volume", &installation.id), 0, "{what}");
            if !is_deletion {
                assert!(done(&installation, &instance, NewOperation::Suspend).await.contains("is stopped"));
                assert_eq!(done(&installation, &instance, NewOperation::Resume).await, "the cache runs");
                assert_eq!(
                    done(&installation, &instance, NewOperation::Resume).await,
                    "the cache runs",
                    "again"
                );
                let resumed = installation.until_running(&instance, route.generation).await;
                assert_ne!(resumed.address, route.address, "the address cools down");
                route = resumed;
            }
        }
    }
    // While Docker is away, what was asked for waits, with the reason.
    let mut config = installation.config.clone();
    config.docker_socket = installation.dir().join("none.sock");
    installation.stop_provisioner();
    let without_docker = installation.spawn(config.clone());
    until("a report", 10 * SECOND, || async { readyz(config.health)?.contains("Docker").then_some(()) })
        .await;
    let other = installation.sign_up().await;
    let asked = ask(&installation, &other, NewOperation::Suspend).await;
    until("the reason", 10 * SECOND, || async {
        let read = store.operation(&asked.cache_id, &asked.id).await.unwrap().unwrap();
        assert!(!read.state.is_finished());
        read.message
    })
    .await;
    drop(without_docker);
    installation.start_provisioner();
    assert_eq!(until_finished(&installation, &asked).await.state, OperationState::Done);
}
