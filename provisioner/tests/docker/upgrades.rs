//! the upgrade of all instances to the image that new ones get.

use std::time::Duration;

use store::{
    ImageUpgrade, Instance, InstanceState, Operation, OperationState, StoreError, UpgradeState, UpgradeWanted,
};

use crate::harness::{Installation, inspect, until};
use crate::images::{broken_memcached, installation, operators_binary};

async fn until_upgrade(
    installation: &Installation,
    what: &str,
    matches: impl Fn(&ImageUpgrade) -> bool,
) -> ImageUpgrade {
    until(what, Duration::from_secs(90), || async {
        installation.store.image_upgrade().await.unwrap().filter(|upgrade| matches(upgrade))
    })
    .await
}

fn is(state: UpgradeState) -> impl Fn(&ImageUpgrade) -> bool {
    move |upgrade| upgrade.progress.state == state
}

async fn running_instances(installation: &mut Installation, count: usize) -> Vec<Instance> {
    installation.start_provisioner();
    installation.until_ready().await;
    let mut instances = Vec::new();
    for _ in 0..count {
        instances.push(installation.running_instance().await.0);
    }
    instances
}

/// The id of each instance's container, and of its image.
fn containers(installation: &Installation, instances: &[Instance]) -> Vec<(String, String)> {
    let read = |instance| {
        let found = inspect("container", &installation.container(instance));
        let text = |name: &str| found[name].as_str().unwrap().to_owned();
        (text("Id"), text("Image"))
    };
    instances.iter().map(read).collect()
}

fn is_begun(operations: &[Operation]) -> bool {
    operations.iter().any(|operation| operation.state == OperationState::Running)
}

async fn actions(installation: &Installation) -> Vec<String> {
    let entries = installation.store.audit_after(0, 1_000).await.unwrap();
    entries.into_iter().map(|entry| entry.action).filter(|action| action.starts_with("image.")).collect()
}

//
#[tokio::test]
async fn an_upgrade_can_be_paused_and_goes_on_after_a_crash() {
    let mut installation = installation().await;
    let binary = operators_binary(&installation).await;
    let instances = running_instances(&mut installation, 5).await;
    let before = containers(&installation, &instances);
    let (config, id) = (installation.config.clone(), installation.id.clone());
    provisioner::build_image_from(&config, &id, &binary).await.unwrap();
    let image = provisioner::image_status(&config, &id).await.unwrap().unwrap();
    assert_eq!((image.containers, image.outdated), (0, 5));

    let store = installation.store.clone();
    store.start_image_upgrade(2).await.unwrap();
    assert!(matches!(store.start_image_upgrade(2).await, Err(StoreError::AlreadyExists(_))), "never twice");
    until_upgrade(&installation, "the first one", |upgrade| upgrade.progress.done >= 1).await;
    store.set_image_upgrade(UpgradeWanted::Paused, None).await.unwrap();
    let paused = until_upgrade(&installation, "the pause", is(UpgradeState::Paused)).await;
    let upgraded =
        |containers: &[(String, String)]| containers.iter().filter(|(_, it)| *it == image.id).count();
    let at_pause = containers(&installation, &instances);
    assert_eq!(i64::try_from(upgraded(&at_pause)).unwrap(), paused.progress.done);
    assert!((1..5).contains(&upgraded(&at_pause)), "{paused:?}");
    assert_eq!(paused.progress.total, 5);

    // A crash with all that are left in flight.
    store.set_image_upgrade(UpgradeWanted::Running, Some(4)).await.unwrap();
    until("restarts in flight", Duration::from_secs(30), || async {
        let open = store.open_operations().await.unwrap();
        (open.len() == 5 - upgraded(&at_pause) && is_begun(&open)).then_some(())
    })
    .await;
    installation.crash_provisioner();
    let in_flight = store.open_operations().await.unwrap();
    assert_ne!(in_flight, []);
    installation.start_provisioner();
    let done = until_upgrade(&installation, "the end", is(UpgradeState::Done)).await;
    assert_eq!(store.open_operations().await.unwrap(), [], "not before the last one has ended");
    for it in in_flight {
        let ended = store.operation(&it.cache_id, &it.id).await.unwrap().unwrap();
        assert_eq!(ended.state, OperationState::Done);
    }
    assert_eq!((done.progress.total, done.progress.done, done.progress.failed), (5, 5, 0));
    let after = containers(&installation, &instances);
    assert_eq!(upgraded(&after), 5);
    assert!(after.iter().zip(&before).all(|(after, before)| after.0 != before.0));
    // Those that had it were left alone.
    let kept = at_pause.iter().zip(&after).filter(|(paused, after)| paused.0 == after.0).count();
    assert_eq!(kept, upgraded(&at_pause));
    assert_eq!(
        actions(&installation).await,
        ["image.upgrade", "image.upgrade_pause", "image.upgrade_resume"]
    );
    for instance in &instances {
        assert_eq!(store.instance_events(&instance.id, 10).await.unwrap(), [], "an upgrade is no repair");
    }
    store.start_image_upgrade(1).await.unwrap();
    let nothing = until_upgrade(&installation, "nothing to do", is(UpgradeState::Done)).await;
    assert_eq!((nothing.progress.total, nothing.progress.message), (0, None));
    assert!(matches!(
        store.set_image_upgrade(UpgradeWanted::Paused, None).await,
        Err(StoreError::NotFound(_))
    ));
}

//
#[tokio::test]
async fn an_upgrade_to_a_broken_image_stops_by_itself() {
    let mut installation = installation().await;
    let instances = running_instances(&mut installation, 4).await;
    let before = containers(&installation, &instances);
    let (config, id) = (installation.config.clone(), installation.id.clone());
    let broken = broken_memcached(installation.dir());
    provisioner::build_image_from(&config, &id, &broken).await.unwrap();
    installation.store.start_image_upgrade(4).await.unwrap();
    // Failures count although the one who counted them is gone.
    until_upgrade(&installation, "a failure", |upgrade| upgrade.progress.failed == 1).await;
    installation.crash_provisioner();
    installation.start_provisioner();
    let stopped = until_upgrade(&installation, "the stop", is(UpgradeState::Stopped)).await;
    assert_eq!((stopped.progress.failed, stopped.progress.done), (2, 0), "one at a time");
    let message = stopped.progress.message.unwrap();
    assert!(message.starts_with("restarts with the new image fail (memcached "), "{message}");
    assert!(message.contains("): build another with `memgate image build`, then run"), "{message}");
    let mut untouched = 0;
    for (instance, before) in instances.iter().zip(&before) {
        let route = installation.route(instance).await.unwrap();
        untouched +=
            usize::from(route.state == InstanceState::Running && route.container.as_ref() == Some(&before.0));
    }
    assert_eq!(untouched, 2, "the others keep the image that they have");

    // Another image brings the failed ones back by itself, and the upgrade goes on.
    provisioner::build_image(&config, &id).await.unwrap();
    installation.store.set_image_upgrade(UpgradeWanted::Running, None).await.unwrap();
    let done = until_upgrade(&installation, "the end", is(UpgradeState::Done)).await;
    assert_eq!(done.progress.failed, 0);
    for instance in &instances {
        installation.until_running(instance, 0).await;
    }
    let image = provisioner::image_status(&config, &id).await.unwrap().unwrap();
    assert_eq!((image.containers, image.outdated, image.source), (4, 0, "package"));
}
