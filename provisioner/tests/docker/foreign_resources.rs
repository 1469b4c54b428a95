//! What an operator made is left alone, whatever labels and names it has.

use std::process::Command;

use store::InstanceState;

use crate::harness::{Installation, docker, get, inspect, resyncs};

/// Resources of the operator's, removed at the end of the test.
struct Operator {
    made: Vec<(&'static str, String)>,
}

impl Operator {
    fn new() -> Self {
        Self { made: Vec::new() }
    }

    /// Runs a command that makes a resource.
    fn make(&mut self, kind: &'static str, name: &str, command: &[&str]) {
        docker(command);
        self.made.push((kind, name.to_owned()));
    }

    fn check_all_exist(&self) {
        for (kind, name) in &self.made {
            docker(&[kind, "inspect", name]);
        }
    }

    fn remove_all(&mut self) {
        for (kind, name) in self.made.drain(..).rev() {
            let _ = Command::new("docker").args([kind, "rm", &name]).output();
        }
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.remove_all();
    }
}

/// Makes everything that claims to be the installation's in some way.
fn make_foreign(installation: &Installation, container: &str, image: &str) -> Operator {
    let mut operator = Operator::new();
    let id = &installation.id;
    let (own_label, old) = (format!("memgate={id}"), "memgate.created=0");
    let red = |name: &str| format!("red{id}-{name}");
    let prefixed = |name: &str| format!("memgate-{id}-{name}");
    // Both carry all labels of the container, and so does a container from them.
    let commit = red("commit:1");
    operator.make("image", &commit, &["commit", container, &commit]);
    let tag = prefixed("memcached:9.9");
    operator.make("image", &tag, &["commit", "--change", "ENV LD_PRELOAD=/red", container, &tag]);
    let tool = red("tool");
    operator.make("container", &tool, &["create", "--name", &tool, image]);
    let debug = red("debug");
    operator.make("container", &debug, &["create", "--name", &debug, &commit]);
    let named = prefixed("debug");
    operator.make("container", &named, &["create", "--name", &named, image]);
    let anonymous = red("anonymous");
    let create =
        ["create", "-v", "/data", "--label", &own_label, "--label", old, "--name", &anonymous, image];
    operator.make("container", &anonymous, &create);
    let data = inspect("container", &anonymous)["Mounts"][0]["Name"].as_str().unwrap().to_owned();
    operator.made.insert(0, ("volume", data));
    let volume = red("volume");
    let create = ["volume", "create", "--label", &own_label, "--label", old, &volume];
    operator.make("volume", &volume, &create);
    let volume = prefixed("volume");
    operator.make("volume", &volume, &["volume", "create", &volume]);
    for network in [red("network"), prefixed("net-x")] {
        let create = ["network", "create", "--internal", "--label", &own_label, "--label", old, &network];
        operator.make("network", &network, &create);
    }
    operator
}

//
#[tokio::test]
async fn the_operators_resources_are_left_alone() {
    let mut installation = Installation::new().await;
    installation.config.reconcile_seconds = 1;
    installation.start_provisioner();
    installation.until_ready().await;
    let (first, first_route) = installation.running_instance().await;
    let image = |container: &str| inspect("container", container)["Image"].as_str().unwrap().to_owned();
    let own = image(&installation.container(&first));
    let mut operator = make_foreign(&installation, &installation.container(&first), &own);

    let (second, _) = installation.running_instance().await;
    let created = inspect("container", &installation.container(&second));
    assert_eq!((&created["Image"], &created["Config"]["Image"]), (&own.clone().into(), &own.clone().into()));
    // One of five looks for what isn't the installation's, and the first may have begun before all of it was there.
    resyncs(installation.config.health, 6).await;
    operator.check_all_exist();
    // A commit pauses the container.
    let route = installation.until_running(&first, 0).await;
    assert_eq!((route.generation, route.container), (first_route.generation, first_route.container));
    let metrics = get(installation.config.health, "/metrics").unwrap();
    for (kind, count) in [("container", 3), ("volume", 2), ("network", 2), ("image", 2)] {
        let line = format!("memgate_provisioner_foreign_resources{{kind=\"{kind}\"}} {count}\n");
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }

    installation.stop_provisioner();
    let removed = provisioner::teardown(&installation.config, &installation.id).await.unwrap();
    operator.check_all_exist();
    assert_eq!((removed.containers, removed.volumes, removed.networks, removed.images), (2, 2, 1, 0));
    // The operator's containers use our image, so that it keeps its name.
    assert_eq!(removed.kept.len(), 10, "{:?}", removed.kept);
    operator.remove_all();
    let removed = provisioner::teardown(&installation.config, &installation.id).await.unwrap();
    assert_eq!((removed.images, removed.kept), (1, vec![]));
}

//
#[tokio::test]
async fn an_occupied_name_is_reported_and_an_occupied_address_left() {
    let mut installation = Installation::new().await;
    let image = provisioner::ensure_image(&installation.config, &installation.id).await.unwrap();
    let (first, second) = (installation.sign_up().await, installation.sign_up().await);
    let mut operator = Operator::new();
    let (container, volume) = (installation.container(&first), installation.container(&second));
    operator.make("container", &container, &["create", "--name", &container, &image]);
    operator.make("volume", &volume, &["volume", "create", &volume]);
    installation.start_provisioner();
    installation.until_ready().await;
    for instance in [&first, &second] {
        installation.until_route(instance, |route| route.state == InstanceState::Failed).await;
    }
    operator.check_all_exist();
    operator.remove_all();
    let route = installation.until_running(&first, 0).await;
    installation.until_running(&second, 0).await;

    let network = inspect("container", &container)["HostConfig"]["NetworkMode"].as_str().unwrap().to_owned();
    let next = next_address(&installation).await;
    assert_ne!(Some(&next), route.address.as_ref());
    let holder = format!("red{}-holder", installation.id);
    let run = ["run", "-d", "--name", &holder, "--network", &network, "--ip", &next, &image, "-U", "0"];
    operator.make("container", &holder, &run);
    let (third, third_route) = installation.running_instance().await;
    assert_ne!(third_route.address, Some(next), "{third:?}");
    operator.check_all_exist();
    docker(&["kill", &holder]);
}

/// The address that the next instance will get.
async fn next_address(installation: &Installation) -> String {
    let probe = "00000000-probe";
    let lease = installation.store.lease_address(probe, std::time::Duration::ZERO).await.unwrap().unwrap();
    lease.address
}
