//! Self-healing: a container that is changed by hand is restored.

use std::time::{Duration, Instant};

use store::InstanceState;

use crate::harness::{Installation, docker, inspect, output, until};

/// Time limit of a recovery.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(10);

// F-1, F-2.
#[tokio::test]
async fn a_container_is_restored_after_any_change_by_hand() {
    let installation = Installation::start().await;
    let (instance, first) = installation.running_instance().await;
    let name = installation.container(&instance);
    let network = inspect("container", &name)["HostConfig"]["NetworkMode"].as_str().unwrap().to_owned();
    let cases: &[(&str, &[&[&str]], bool)] = &[
        ("kill", &[&["kill", &name]], false),
        ("stop", &[&["stop", "-t", "1", &name]], false),
        ("pause", &[&["pause", &name]], false),
        ("rm", &[&["rm", "-f", &name]], true),
        ("rm with volume", &[&["rm", "-f", &name], &["volume", "rm", &name]], true),
        ("disconnect", &[&["network", "disconnect", "-f", &network, &name]], true),
        (
            "network rm",
            &[&["network", "disconnect", "-f", &network, &name], &["network", "rm", &network]],
            true,
        ),
        // The process dies without Docker's doing, so Docker restarts it.
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
