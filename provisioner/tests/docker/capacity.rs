//! The memory of the machine is shared out to as many caches as it can bear.

use std::time::Duration;

use store::{DesiredState, InstanceState};

use crate::harness::{Installation, get, until};

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

    // What runs counts after a restart, too.
    installation.stop_provisioner();
    installation.start_provisioner();
    installation.until_ready().await;
    until("waiting again", Duration::from_secs(10), || async {
        let metrics = get(installation.config.health, "/metrics")?;
        metrics.contains("memgate_provisioner_instances_waiting_for_memory 1").then_some(())
    })
    .await;
    assert_eq!(installation.route(&second).await, Some(second_route));

    installation.store.set_desired_state(&first.id, DesiredState::Deleting).await.unwrap();
    let running = installation.until_running(&third, 0).await;
    assert_eq!(running.message, None);
}
