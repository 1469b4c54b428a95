//! what isn't isolated any more is found by the check alone, repaired and noted.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use store::{CheckResult, EventAction, EventCause, Instance, IsolationCheck};

use crate::harness::{Installation, docker, get, inspect, output, until};
use crate::operations::{ITEM, hits};

const FOUND_TIMEOUT: Duration = Duration::from_secs(20);

/// No resync helps the check.
async fn installation() -> Installation {
    let mut installation = Installation::new().await;
    installation.config.isolation_interval = Some(Duration::from_secs(2));
    installation.config.reconcile_seconds = 3_600;
    installation.start_provisioner();
    installation.until_ready().await;
    installation
}

/// Waits for a check that is younger than now and says what is expected.
async fn until_checked(
    installation: &Installation,
    instance: &Instance,
    expected: impl Fn(&IsolationCheck) -> bool,
) -> IsolationCheck {
    let after = store::now();
    until("an isolation check", FOUND_TIMEOUT, || async {
        let check = installation.store.isolation_check(&instance.id).await.unwrap();
        check.filter(|check| check.checked_at > after && expected(check))
    })
    .await
}

fn has_passed(check: &IsolationCheck) -> bool {
    [check.ports, check.restrictions, check.reachability, check.login] == [CheckResult::Passed; 4]
}

async fn events(installation: &Installation, instance: &Instance) -> Vec<(EventCause, EventAction, bool)> {
    let events = installation.store.instance_events(&instance.id, 10).await.unwrap();
    events.iter().map(|event| (event.cause, event.action, event.contents_lost)).collect()
}

//
#[tokio::test]
async fn running_containers_pass_again_and_again() {
    let installation = installation().await;
    let (instance, route) = installation.running_instance().await;
    installation.running_instance().await;
    installation.running_instance().await;
    let container = inspect("container", &installation.container(&instance));
    for _ in 0..3 {
        let check = until_checked(&installation, &instance, |_| true).await;
        assert!(has_passed(&check), "{check:?}");
        assert_eq!((check.detail.as_str(), check.outdated), ("", false));
        assert_eq!(Some(check.image.as_str()), container["Image"].as_str());
        assert_eq!(Some(check.container), route.container);
    }
    let all = until("all checks", FOUND_TIMEOUT, || async {
        Some(installation.store.isolation_summary().await.unwrap()).filter(|it| it.checked == 3)
    })
    .await;
    assert_eq!((all.failed, all.incomplete, all.outdated), (0, 0, 0));
    assert!(store::now().since(all.oldest_at.unwrap()) < Duration::from_secs(5), "{all:?}");
    let metrics = get(installation.config.health, "/metrics").unwrap();
    assert!(metrics.contains("memgate_provisioner_isolation_checks{result=\"passed\"} 3"), "{metrics}");
    assert_eq!(events(&installation, &instance).await, []);
}

// R-49, F-33.
#[tokio::test]
async fn a_container_on_another_network_is_disconnected_from_it() {
    let installation = installation().await;
    let (instance, route) = installation.running_instance().await;
    installation.fill(&instance, &route, 0, (ITEM, 10));
    let name = installation.container(&instance);
    let connected = Instant::now();
    docker(&["network", "connect", "bridge", &name]);
    until("the disconnection", FOUND_TIMEOUT, || async {
        let networks = inspect("container", &name)["NetworkSettings"]["Networks"].clone();
        (networks.as_object().unwrap().len() == 1).then_some(())
    })
    .await;
    println!("disconnected after {:?}", connected.elapsed());
    let check = until_checked(&installation, &instance, has_passed).await;
    assert_eq!(check.detail, "");
    let expected = (EventCause::OtherNetwork, EventAction::Detached, false);
    until("the event", FOUND_TIMEOUT, || async {
        (events(&installation, &instance).await == [expected]).then_some(())
    })
    .await;
    assert_eq!(hits(&installation, &instance, &route, 10), 10, "the contents are kept");
    assert_eq!(installation.route(&instance).await, Some(route));
}

/// Puts a container in the place of an instance's, with its name, labels, address and secret, that also publishes a port.
fn publish_by_hand(installation: &Installation, instance: &Instance) {
    let name = installation.container(instance);
    let old = inspect("container", &name);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let labels = old["Config"]["Labels"].as_object().unwrap();
    let labels: Vec<String> =
        labels.iter().map(|(key, value)| format!("--label={key}={}", text(value))).collect();
    let network = text(&old["HostConfig"]["NetworkMode"]);
    let address = text(&old["NetworkSettings"]["Networks"][&network]["IPAddress"]);
    docker(&["rm", "-f", &name]);
    let mut arguments: Vec<String> =
        ["run", "-d", "--name", &name, "--network", &network, "--ip", &address].map(str::to_owned).into();
    arguments
        .extend(["-p", "127.0.0.1::11211", "--user", "11211:11211", "--cap-drop=ALL"].map(str::to_owned));
    arguments.extend(["--read-only", "--ipc=none", "--security-opt=no-new-privileges"].map(str::to_owned));
    arguments.push(format!("--mount=type=volume,source={name},target=/lane,volume-nocopy=true"));
    arguments.extend(labels);
    arguments.push(text(&old["Image"]));
    arguments.extend(old["Config"]["Cmd"].as_array().unwrap().iter().map(text));
    docker(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
}

//
#[tokio::test]
async fn a_container_that_publishes_a_port_is_replaced() {
    let mut installation = installation().await;
    let (instance, route) = installation.running_instance().await;
    installation.running_instance().await;
    installation.stop_provisioner();
    publish_by_hand(&installation, &instance);
    installation.start_provisioner();
    let new = installation.until_running(&instance, route.generation).await;
    let container = inspect("container", &installation.container(&instance));
    assert_eq!(container["HostConfig"]["PortBindings"], Value::Null);
    assert_eq!(new.container.as_deref(), container["Id"].as_str());
    let check = until_checked(&installation, &instance, has_passed).await;
    assert_eq!(check.container, new.container.unwrap());
    let expected = (EventCause::Unrestricted, EventAction::Replaced, true);
    until("the event", FOUND_TIMEOUT, || async {
        events(&installation, &instance).await.contains(&expected).then_some(())
    })
    .await;
}

/// A link between the networks of two containers, beside memgate's bridge. Root's mistake: no container can make one.
struct Link {
    name: String,
    pid: String,
}

impl Link {
    fn between(installation: &Installation, (a, b): (&Instance, &Instance), addresses: (&str, &str)) -> Self {
        let pid = |it| inspect("container", &installation.container(it))["State"]["Pid"].to_string();
        let (a, b) = (pid(a), pid(b));
        let (name, peer) = (format!("l{}a", installation.id), format!("l{}b", installation.id));
        output(
            "ip",
            &["link", "add", &name, "netns", &a, "type", "veth", "peer", "name", &peer, "netns", &b],
        );
        for (pid, link, to) in [(&a, &name, addresses.1), (&b, &peer, addresses.0)] {
            let inside = |arguments: &[&str]| {
                output("nsenter", &[&["-t", pid.as_str(), "-n", "ip"], arguments].concat());
            };
            inside(&["link", "set", link, "up"]);
            inside(&["route", "add", &format!("{to}/32"), "dev", link]);
        }
        Self { name, pid: a }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let arguments = ["-t", &self.pid, "-n", "ip", "link", "del", &self.name];
        let _ = Command::new("nsenter").args(arguments).status();
    }
}

//
#[tokio::test]
async fn a_container_that_reaches_another_fails_the_check_until_it_does_not() {
    let installation = installation().await;
    let (a, a_route) = installation.running_instance().await;
    let (b, b_route) = installation.running_instance().await;
    let addresses = (a_route.address.clone().unwrap(), b_route.address.unwrap());
    let link = Link::between(&installation, (&a, &b), (&addresses.0, &addresses.1));
    let failed = |check: &IsolationCheck| check.reachability == CheckResult::Failed;
    let check = until_checked(&installation, &a, failed).await;
    let reached = format!("it reached {}:11211, and it has routes over other interfaces", addresses.1);
    assert_eq!(check.detail, format!("from its network {reached}"));
    assert_eq!(
        (check.ports, check.restrictions, check.login),
        (CheckResult::Passed, CheckResult::Passed, CheckResult::Passed)
    );
    assert!(installation.store.isolation_summary().await.unwrap().failed >= 1);
    until("the event", FOUND_TIMEOUT, || async {
        let expected = (EventCause::Reachable, EventAction::Failed, false);
        events(&installation, &a).await.contains(&expected).then_some(())
    })
    .await;
    drop(link);
    until_checked(&installation, &a, has_passed).await;
    assert_eq!(installation.route(&a).await.unwrap().container, a_route.container, "the contents are kept");
}
