//! Warm caches whose memcached takes long to take its contents back, or hangs on what a hijacked one has left.

use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use store::{EventCause, Instance, InstanceState, NewOperation, Operation, OperationState};

use crate::docker_relay::DockerRelay;
use crate::harness::{Installation, docker, get, inspect, output, resyncs, until};
use crate::life::{hold, holder, memory, until_alone, until_asleep, wake, warm};
use crate::operations::{ITEM, ask, hits, until_finished};
use crate::warm_growth::{ITEMS, filled, has_all, mountpoint};

/// Checks without an answer, one after the other, that prove that a memcached hangs which takes nothing back.
const SILENT_CHECKS: u32 = 4;

/// Stops a warm cache for a restart, as a provisioner does just before it ends, and puts a pipe in the place of what memcached
/// has saved: the next one waits until somebody writes to it. Returns what was saved, the pipe, and the restart.
async fn stopped_with_pipe(
    installation: &mut Installation,
    instance: &Instance,
) -> (String, PathBuf, Operation) {
    installation.stop_provisioner();
    let volume = memory(installation, instance);
    hold(installation, instance, (&holder(installation, instance), &volume));
    docker(&["stop", &installation.container(instance)]);
    let pipe = mountpoint(&volume).join("items.meta");
    let saved = std::fs::read_to_string(&pipe).unwrap();
    std::fs::remove_file(&pipe).unwrap();
    output("mkfifo", &["-m", "600", pipe.to_str().unwrap()]);
    chown(&pipe, Some(11211), Some(11211)).unwrap();
    let asked = ask(installation, instance, NewOperation::Restart).await;
    (saved, pipe, asked)
}

/// Writes to a pipe that somebody reads.
fn write_to(pipe: &Path, text: &str) {
    let nonblocking = 0o4000;
    let mut pipe = std::fs::OpenOptions::new().write(true).custom_flags(nonblocking).open(pipe).unwrap();
    pipe.write_all(text.as_bytes()).unwrap();
}

fn failures(installation: &Installation, action: &str) -> u32 {
    let name = format!("memgate_provisioner_action_failures_total{{action=\"{action}\"}} ");
    let metrics = get(installation.config.health, "/metrics").unwrap_or_default();
    metrics.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap_or(0)
}

// F-36, R-29.
#[tokio::test]
async fn memcached_that_takes_its_contents_back_for_long_is_no_failure() {
    let mut installation = Installation::start().await;
    let (instance, route) = filled(&installation).await;
    let (saved, pipe, asked) = stopped_with_pipe(&mut installation, &instance).await;
    installation.start_provisioner();
    installation.until_ready().await;
    until("checks without an answer", Duration::from_secs(60), || async {
        (failures(&installation, "probe") >= SILENT_CHECKS).then_some(())
    })
    .await;
    let waiting = installation.store.operation(&asked.cache_id, &asked.id).await.unwrap().unwrap();
    assert_eq!(waiting.state, OperationState::Running, "{waiting:?}");
    assert!(waiting.message.as_ref().unwrap().contains("takes its contents back"), "{waiting:?}");
    assert_eq!(installation.route(&instance).await.unwrap().state, InstanceState::Restarting);
    write_to(&pipe, &saved);
    let ended = until_finished(&installation, &asked).await;
    let said = format!("memcached was restarted; it kept {} items", ITEMS + 1);
    assert_eq!((ended.state, ended.message), (OperationState::Done, Some(said)));
    let after = installation.until_running(&instance, 0).await;
    assert_eq!((after.generation, &after.container), (route.generation, &route.container));
    assert!(has_all(&installation, &instance, &after));
    until_alone(&installation).await;
    let events = installation.store.instance_events(&instance.id, 10).await.unwrap();
    assert!(events.iter().all(|event| !event.contents_lost), "{events:?}");
}

// F-36: a stop would lose the contents.
#[tokio::test]
async fn an_operation_waits_while_memcached_takes_its_contents_back() {
    let mut installation = Installation::start().await;
    let (instance, route) = filled(&installation).await;
    let (saved, pipe, restart) = stopped_with_pipe(&mut installation, &instance).await;
    installation.start_provisioner();
    installation.until_ready().await;
    until("a check without an answer", Duration::from_secs(60), || async {
        (failures(&installation, "probe") > 0).then_some(())
    })
    .await;
    let resize = ask(&installation, &instance, NewOperation::Resize { memory_mb: 128 }).await;
    until("the resize to wait", Duration::from_secs(60), || async {
        (failures(&installation, "keep") >= SILENT_CHECKS).then_some(())
    })
    .await;
    let waiting = installation.store.operation(&resize.cache_id, &resize.id).await.unwrap().unwrap();
    assert!(waiting.message.as_ref().unwrap().contains("takes its contents back"), "{waiting:?}");
    write_to(&pipe, &saved);
    for asked in [&restart, &resize] {
        let ended = until_finished(&installation, asked).await;
        assert_eq!(ended.state, OperationState::Done, "{ended:?}");
    }
    let after = installation.until_running(&instance, route.generation).await;
    assert!(has_all(&installation, &instance, &after));
    until_alone(&installation).await;
}

// F-36, R-54.
#[tokio::test]
async fn memory_that_memcached_hangs_on_is_given_up() {
    let mut installation = Installation::start().await;
    let (instance, route) = filled(&installation).await;
    let (_, pipe, asked) = stopped_with_pipe(&mut installation, &instance).await;
    installation.start_provisioner();
    installation.until_ready().await;
    let ended = until_finished(&installation, &asked).await;
    let said = "memcached was restarted; its contents could not be kept: memcached didn't answer";
    assert_eq!((ended.state, ended.message.as_deref()), (OperationState::Done, Some(said)));
    let route = installation.until_running(&instance, route.generation).await;
    assert_eq!(hits(&installation, &instance, &route, ITEMS), 0);
    until_alone(&installation).await;
    assert!(!pipe.exists(), "its next memcached has other memory");
    let events = until("an event", Duration::from_secs(10), || async {
        let events = installation.store.instance_events(&instance.id, 10).await.unwrap();
        (!events.is_empty()).then_some(events)
    })
    .await;
    assert!(events[0].contents_lost && events[0].cause == EventCause::Hung, "{events:?}");
}

//
#[tokio::test]
async fn resyncs_do_not_ask_for_holders_which_do_not_answer_during_a_copy() {
    let mut installation = Installation::new().await;
    let relay = DockerRelay::start(&mut installation);
    installation.config.reconcile_seconds = 1;
    warm(&installation).await;
    installation.start_provisioner();
    installation.until_ready().await;
    let (instance, route) = installation.running_instance().await;
    installation.fill(&instance, &route, 0, (ITEM, ITEMS));
    let sleeping =
        |seconds| installation.store.update_plan("default", move |plan| plan.sleep_after_seconds = seconds);
    sleeping(Some(1)).await.unwrap();
    until_asleep(&installation, &instance).await;
    // The work on the instance itself asks for it.
    resyncs(installation.config.health, 2).await;
    // It runs, as during a copy.
    let id = inspect("container", &holder(&installation, &instance))["Id"].as_str().unwrap().to_owned();
    let asks_for_it = format!("/containers/{id}/json").leak();
    relay.refuse("GET", asks_for_it, 100);
    // One of five asks for more than the list of containers.
    resyncs(installation.config.health, 7).await;
    assert_eq!(relay.still_refused(), 100);
    relay.refuse("GET", asks_for_it, 0);
    sleeping(None).await.unwrap();
    let woken = wake(&installation, &instance).await;
    assert_eq!(hits(&installation, &instance, &woken, ITEMS), ITEMS);
}
