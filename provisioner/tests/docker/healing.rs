//! Whatever is done to a container by hand, it is back without anybody asking.

use std::time::{Duration, Instant};

use store::InstanceState;

use crate::harness::{Installation, docker, inspect, output, until};

/// SECURITY 3: back in 3 s, or in 10 s where Docker has to be asked twice.
const HEALED: Duration = Duration::from_secs(10);

#[tokio::test]
async fn whatever_is_done_to_it() {
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
        // Not by Docker's hand, so Docker itself brings it back.
        ("memcached dies", &[&["-9"]], false),
    ];
    let mut before = first.clone();
    for (what, commands, made_anew) in cases {
        let revision = before.changed_at;
        let started = Instant::now();
        for command in *commands {
            match command {
                ["-9"] => {
                    let pid = inspect("container", &name)["State"]["Pid"].to_string();
                    output("kill", &["-9", &pid]);
                }
                // Healing may be faster than the second command; then that one fails, and is needless.
                _ => drop(std::process::Command::new("docker").args(*command).output().unwrap()),
            }
        }
        let after = installation
            .until_route(&instance, |r| r.state == InstanceState::Running && r.changed_at > revision)
            .await;
        until(what, HEALED, || async {
            installation.ask(&instance, &installation.route(&instance).await?, "version")
        })
        .await;
        let after = if *made_anew { installation.route(&instance).await.unwrap() } else { after };
        println!("{what}: {:?}, generation {}", started.elapsed(), after.generation);
        assert!(started.elapsed() < HEALED, "{what} took {:?}", started.elapsed());
        assert_eq!(after.address, first.address, "{what}: the address is the instance's");
        assert_eq!(after.generation > before.generation, *made_anew, "{what}: {after:?}");
        before = installation.until_running(&instance, 0).await;
    }
}

#[tokio::test]
async fn proxies_are_told_at_once() {
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
async fn while_nobody_was_there() {
    let mut installation = Installation::start().await;
    let (kept, kept_route) = installation.running_instance().await;
    let (removed, removed_route) = installation.running_instance().await;
    let stopped = installation.stop_provisioner();
    assert!(stopped < Duration::from_secs(5), "{stopped:?}");
    docker(&["rm", "-f", &installation.container(&removed)]);

    installation.start_provisioner();
    let healed = installation.until_running(&removed, removed_route.generation).await;
    assert_eq!(healed.address, removed_route.address);
    assert_eq!(installation.route(&kept).await, Some(kept_route), "what was well isn't touched");
}
