//! The memory of the machine is shared out to as many caches as it can bear.

use std::time::Duration;

use store::{DesiredState, InstanceState, NewOperation, OperationState};

use crate::harness::{Installation, get, inspect, until};
use crate::operations::{ask, until_finished};

/// Waits until the provisioner's metrics have this line.
async fn until_metric(installation: &Installation, line: &str) {
    let health = installation.config.health;
    until(line, Duration::from_secs(30), || async {
        get(health, "/metrics")?.lines().any(|it| it == line).then_some(())
    })
    .await;
}

#[tokio::test]
async fn caches_beyond_the_memory_wait_for_room() {
    let mut installation = Installation::new().await;
    // Two caches of the default plan have limits of 140 MB each.
    installation.config.memory_mb = Some(300);
    installation.start_provisioner();
    installation.until_ready().await;
    let (first, _) = installation.running_instance().await;
    let (second, second_route) = installation.running_instance().await;

    let third = installation.sign_up().await;
    let waiting = installation.until_route(&third, |route| route.message.is_some()).await;
    assert_eq!(waiting.state, InstanceState::Pending);
    let message = waiting.message.unwrap();
    assert!(message.contains("waiting for memory") && message.contains("operator"), "{message}");
    let metrics = get(installation.config.health, "/metrics").unwrap();
    for line in [
        "memgate_provisioner_instances_waiting_for_memory 1".to_owned(),
        format!("memgate_provisioner_memory_budget_bytes {}", 300 << 20),
        format!("memgate_provisioner_memory_reserved_bytes {}", 280 << 20),
    ] {
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }

    let reported = || get(installation.config.health, "/status").unwrap().contains("wait for memory: 1");
    until("a report", Duration::from_secs(10), || async { reported().then_some(()) }).await;

    // What runs counts after a restart, too.
    installation.stop_provisioner();
    installation.start_provisioner();
    installation.until_ready().await;
    until_metric(&installation, "memgate_provisioner_instances_waiting_for_memory 1").await;
    assert_eq!(installation.route(&second).await, Some(second_route));

    installation.store.set_desired_state(&first.id, DesiredState::Deleting).await.unwrap();
    let running = installation.until_running(&third, 0).await;
    assert_eq!(running.message, None);
    let health = installation.config.health;
    until("no report", Duration::from_secs(10), || async {
        (!get(health, "/status")?.contains("wait for memory")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_size_without_room_waits_and_counts_for_nothing() {
    const WAITING: &str = "memgate_provisioner_instances_waiting_for_memory";
    let reserved = |mb: u64| format!("memgate_provisioner_memory_reserved_bytes {}", mb << 20);
    let mut installation = Installation::new().await;
    installation.config.memory_mb = Some(300);
    installation.start_provisioner();
    installation.until_ready().await;
    let (cache, route) = installation.running_instance().await;
    until_metric(&installation, &reserved(140)).await;

    installation.set_limits(&cache, "memory_mb = 640").await;
    until_metric(&installation, &format!("{WAITING} 1")).await;
    // After a restart, too, it counts with the size that it has.
    installation.stop_provisioner();
    installation.start_provisioner();
    installation.until_ready().await;
    until_metric(&installation, &format!("{WAITING} 1")).await;
    until_metric(&installation, &reserved(140)).await;

    installation.set_limits(&cache, "memory_mb = 64").await;
    until_metric(&installation, &format!("{WAITING} 0")).await;
    let kept = installation.until_route(&cache, |route| route.message.is_none()).await;
    assert_eq!((kept.generation, kept.container), (route.generation, route.container));

    // A smaller size makes room for another cache.
    let (other, _) = installation.running_instance().await;
    let waiting = installation.sign_up().await;
    until_metric(&installation, &format!("{WAITING} 1")).await;
    for instance in [&cache, &other] {
        let small = "memory_mb = 1, item_size_max = 524288, connections = 1";
        installation.set_limits(instance, small).await;
    }
    installation.until_running(&waiting, 0).await;
    until_metric(&installation, &format!("{WAITING} 0")).await;
}

// F-37.
#[tokio::test]
async fn an_operation_wakes_no_cache_without_room() {
    let mut installation = Installation::new().await;
    (installation.config.reconcile_seconds, installation.config.memory_mb) = (1, Some(300));
    installation.start_provisioner();
    installation.until_ready().await;
    let (sleeper, _) = installation.running_instance().await;
    installation.store.update_plan("default", |plan| plan.sleep_after_seconds = Some(1)).await.unwrap();
    installation.until_route(&sleeper, |route| route.state == InstanceState::Asleep).await;
    installation.store.update_plan("default", |plan| plan.sleep_after_seconds = None).await.unwrap();
    let others = [installation.running_instance().await.0, installation.running_instance().await.0];
    let asked = ask(&installation, &sleeper, NewOperation::Restart).await;
    let waiting = installation.until_route(&sleeper, |route| route.message.is_some()).await;
    assert!(waiting.message.as_ref().unwrap().starts_with("waiting for memory"), "{waiting:?}");
    let is_running = || inspect("container", &installation.container(&sleeper))["State"]["Running"].clone();
    assert_eq!(is_running(), false);
    installation.store.delete_cache(&others[0].cache_id).await.unwrap();
    assert_eq!(until_finished(&installation, &asked).await.state, OperationState::Done);
    assert_eq!(is_running(), true);
}
