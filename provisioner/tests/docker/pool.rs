//! Instances that are made ahead: taken by sign-ups, given away once, and never in the way.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use store::{Instance, NewToken, NewUser, Plan, TokenKey};

use crate::harness::{Installation, count, docker, get, inspect, until};
use crate::store_lock::StoreLock;

/// The ids of those that may be taken, once there are `count`.
async fn until_ready(installation: &Installation, wanted: usize) -> BTreeSet<String> {
    until("ready instances", Duration::from_secs(30), || async {
        let all = installation.store.ready_instances().await.unwrap();
        let ready: BTreeSet<String> =
            all.into_iter().filter(|it| it.ready_at.is_some()).map(|it| it.id).collect();
        (ready.len() == wanted).then_some(ready)
    })
    .await
}

async fn with_ready(count: usize) -> Installation {
    let mut installation = Installation::new().await;
    installation.config.ready_instances = count;
    installation.config.reconcile_seconds = 1;
    installation.start_provisioner();
    installation.until_ready().await;
    installation
}

fn container_id(installation: &Installation, instance: &str) -> String {
    let name = format!("memgate-{}-{instance}", installation.id);
    inspect("container", &name)["Id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_sign_up_takes_a_ready_instance_and_another_is_made() {
    let mut installation = with_ready(2).await;
    let ready = until_ready(&installation, 2).await;
    let before: Vec<String> = ready.iter().map(|id| container_id(&installation, id)).collect();
    let metric = "memgate_provisioner_ready_instances 2";
    let shown = || get(installation.config.health, "/metrics").unwrap().lines().any(|line| line == metric);
    until("the metric", Duration::from_secs(10), || async { shown().then_some(()) }).await;

    let (instance, route) = installation.running_instance().await;
    assert!(ready.contains(&instance.id));
    assert_eq!(route.generation, 1);
    assert!(before.contains(&container_id(&installation, &instance.id)), "not made again");
    assert_eq!(route.container.as_deref(), Some(&*container_id(&installation, &instance.id)));
    // It is as empty as a new one, and works.
    let version = installation.request(&instance, &route, "version");
    assert!(version.unwrap().starts_with("VERSION "));
    let address = route.address.as_ref().unwrap().parse().unwrap();
    let credential = installation.lane_key.credential(&instance.id, route.generation);
    let figures = provisioner::statistics::read(address, &credential).await.unwrap();
    assert_eq!((figures.curr_items, figures.get_hits), (0, 0));

    let refilled = until_ready(&installation, 2).await;
    assert!(!refilled.contains(&instance.id));
    assert_eq!(count("container", &installation.id), 3);
    installation.stop_provisioner();
    provisioner::teardown(&installation.config, &installation.id).await.unwrap();
    assert_eq!(count("container", &installation.id), 0);
}

// F-20.
#[tokio::test]
async fn caches_are_repaired_while_a_ready_instance_cannot_be_withdrawn() {
    let mut installation = with_ready(1).await;
    until_ready(&installation, 1).await;
    let (instance, route) = installation.running_instance().await;
    let ready = until_ready(&installation, 1).await;
    let of_ready = format!("memgate-{}-{}", installation.id, ready.first().unwrap());
    // As after a restart of Docker, of whose end of containers nobody was told.
    installation.stop_provisioner();
    docker(&["kill", &installation.container(&instance), &of_ready]);
    let _lock = StoreLock::take(&installation.dir().join("memgate.db"));
    installation.start_provisioner();
    until("an answer", Duration::from_secs(30), || async {
        installation.request(&instance, &route, "version")
    })
    .await;
}

//
#[tokio::test]
async fn a_ready_instance_is_given_away_once_whatever_the_store_says() {
    let mut installation = with_ready(1).await;
    until_ready(&installation, 1).await;
    let (first, route) = installation.running_instance().await;
    installation.fill(&first, &route, 0, (10, 1));
    until_ready(&installation, 1).await;
    installation.stop_provisioner();
    // As after a backup was put back that is older than the sign-up: it offers the container again.
    installation.execute(&format!(
        "DELETE FROM ready_instances; DELETE FROM routes WHERE instance_id = '{id}'; \
         DELETE FROM instances WHERE id = '{id}'; \
         INSERT INTO ready_instances VALUES ('{id}', 64, 20000, 1048576, 1, 1)",
        id = first.id
    ));
    installation.start_provisioner();
    installation.until_ready().await;
    let second = installation.sign_up().await;
    assert_eq!(second.id, first.id);
    let after = installation.until_running(&second, 0).await;
    assert_eq!(after.generation, 2, "another container");
    assert_ne!(after.address, route.address, "elsewhere");
    assert_eq!(installation.request(&second, &after, "mg 10-0-0 v").as_deref(), Some("EN"));
}

//
#[tokio::test]
async fn what_isnt_as_it_was_made_is_withdrawn() {
    let mut installation = with_ready(1).await;
    let ready = until_ready(&installation, 1).await;
    let killed = format!("memgate-{}-{}", installation.id, ready.first().unwrap());
    docker(&["kill", &killed]);
    until("another", Duration::from_secs(20), || async {
        let all = installation.store.ready_instances().await.unwrap();
        all.iter().any(|it| it.ready_at.is_some() && !ready.contains(&it.id)).then_some(())
    })
    .await;
    assert_eq!(count("container", &installation.id), 1);

    // What a crash left, and what a broken role wrote.
    installation.stop_provisioner();
    let crashed = "a".repeat(24);
    installation.execute(&format!(
        "INSERT INTO ready_instances VALUES ('{crashed}', 64, 20000, 1048576, 1, NULL), \
         ('../../volumes/x', 64, 20000, 1048576, 1, 1), ('{}', 64, 20000, 1048576, 1, 1); \
         UPDATE addresses SET instance_id = '{crashed}' WHERE address = (SELECT MAX(address) FROM addresses)",
        "b".repeat(24)
    ));
    installation.start_provisioner();
    installation.until_ready().await;
    until("only one that is ready", Duration::from_secs(20), || async {
        let all = installation.store.ready_instances().await.unwrap();
        (all.len() == 1 && all[0].ready_at.is_some() && all[0].id.len() == 24 && all[0].id != crashed)
            .then_some(())
    })
    .await;
    assert_eq!(count("container", &installation.id), 1);
    assert_eq!(count("volume", &installation.id), 1);
    let leased: i64 = installation.store.subnets_in_use().await.unwrap().iter().map(|(_, count)| count).sum();
    assert_eq!(leased, 1);
}

/// A container of the operator's, removed when dropped.
struct OperatorContainer(String);

impl Drop for OperatorContainer {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rm", "-f", &self.0]).output();
    }
}

//
#[tokio::test]
async fn one_that_cannot_be_removed_does_not_stop_the_pool() {
    let installation = with_ready(1).await;
    let first = until_ready(&installation, 1).await.pop_first().unwrap();
    let name = format!("memgate-{}-{first}", installation.id);
    let image = inspect("container", &name)["Image"].as_str().unwrap().to_owned();
    let operator = OperatorContainer(format!("operator-{}-backup", installation.id));
    // Docker removes no volume that a container uses.
    docker(&["create", "-v", &format!("{name}:/backup"), "--name", &operator.0, &image]);
    docker(&["kill", &name]);
    let ids = || async {
        let all = installation.store.ready_instances().await.unwrap();
        all.into_iter().map(|it| (it.id, it.ready_at.is_some())).collect::<Vec<_>>()
    };
    until("another", Duration::from_secs(30), || async {
        let all = ids().await;
        (all.contains(&(first.clone(), false)) && all.iter().any(|(_, is_ready)| *is_ready)).then_some(())
    })
    .await;
    inspect("volume", &name);
    // Its container is gone, and takes no memory: 140 MB are those of the other one.
    let reserved = format!("memgate_provisioner_memory_reserved_bytes {}", 140 << 20);
    let shown = || get(installation.config.health, "/metrics").unwrap().lines().any(|line| line == reserved);
    until("the memory of one", Duration::from_secs(10), || async { shown().then_some(()) }).await;
    // A sign-up gets that one, and its place is filled again.
    let (instance, _) = installation.running_instance().await;
    assert_ne!(instance.id, first);
    until_ready(&installation, 1).await;
    assert!(ids().await.contains(&(first.clone(), false)), "it is withdrawn again and again");

    drop(operator);
    until("it is removed", Duration::from_secs(30), || async {
        (!ids().await.iter().any(|(id, _)| *id == first)).then_some(())
    })
    .await;
    assert_eq!((count("container", &installation.id), count("volume", &installation.id)), (2, 2));
}

//
#[tokio::test]
async fn first_container_is_adopted_if_nobody_has_used_it() {
    for is_used in [false, true] {
        let mut installation = Installation::start().await;
        let (instance, route) = installation.running_instance().await;
        if is_used {
            installation.fill(&instance, &route, 0, (10, 1));
        }
        let before = container_id(&installation, &instance.id);
        installation.stop_provisioner();
        // As after a backup was put back that is older than the container: it may have been somebody else's.
        installation.execute(&format!("DELETE FROM routes WHERE instance_id = '{}'", instance.id));
        installation.start_provisioner();
        installation.until_ready().await;
        let after = installation.until_running(&instance, 0).await;
        assert_eq!(container_id(&installation, &instance.id) == before, !is_used);
        assert_eq!(after.generation, if is_used { 2 } else { 1 });
        assert_eq!(after.address != route.address, is_used);
        assert_eq!(installation.request(&instance, &after, "mg 10-0-0 v").as_deref(), Some("EN"));
        assert_eq!(count("container", &installation.id), 1);
    }
}

//
#[tokio::test]
async fn ready_instances_make_room_for_caches() {
    let mut installation = Installation::new().await;
    installation.config.ready_instances = 8;
    // Seven caches of the default plan: 140 MB each. The pool leaves room for four of them.
    installation.config.memory_mb = Some(1_000);
    installation.start_provisioner();
    installation.until_ready().await;
    until_ready(&installation, 4).await;
    let large = installation.store.plan("default").await.unwrap().unwrap();
    // 512 MB, a quarter of it, 24 MB, 32 MB for connections, 4 MB for items.
    let large = Plan { name: "large".into(), memory_mb: 512, ..large };
    installation.store.create_plan(&large).await.unwrap();
    let instance = sign_up_with(&installation, "large").await;
    installation.until_running(&instance, 0).await;
    let left = installation.store.ready_instances().await.unwrap();
    assert!(left.len() <= 2, "{left:?}");
}

async fn sign_up_with(installation: &Installation, plan: &str) -> Instance {
    let key = TokenKey::load_or_create(&installation.dir().join("another.key")).unwrap();
    let new = NewUser { email: "large@example.org", password_hash: None, plan, is_admin: false };
    let user = installation.store.sign_up(&new, &NewToken::generate(&key, "first")).await.unwrap();
    installation.store.first_instance_of(&user.id).await.unwrap().unwrap()
}
