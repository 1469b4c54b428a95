//! An operator gives all caches a memcached that he has built, while applications use them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use testkit::SetOnDrop;

use crate::harness::{Credentials, Product, deadline_in, docker, wait_until};
use crate::text_client::TextClient;

const USERS: [&str; 3] = ["ada@example.org", "bob@example.org", "cy@example.org"];

/// What a client has seen.
#[derive(Debug, Default)]
struct Seen {
    replies: u64,
    lost: u64,
    longest: Duration,
}

/// Reads a value that only this cache has, and writes it again when it is gone. Any error fails.
fn use_cache<'scope>(
    scope: &'scope Scope<'scope, '_>,
    product: &Product,
    credentials: &'scope Credentials,
    stop: &'scope AtomicBool,
) -> ScopedJoinHandle<'scope, Seen> {
    let mut client = TextClient::log_in(product.endpoint(), credentials);
    let value = format!("value of {}", credentials.email).into_bytes();
    assert_eq!(client.set("key", &value), "STORED");
    scope.spawn(move || {
        let mut seen = Seen::default();
        while !stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            match client.get("key").expect("no error") {
                Some(found) => assert_eq!(found, value),
                None => {
                    seen.lost += 1;
                    assert_eq!(client.set("key", &value), "STORED");
                }
            }
            seen.replies += 1;
            seen.longest = seen.longest.max(begun.elapsed());
        }
        seen
    })
}

// F-35.
#[test]
fn clients_see_an_upgrade_as_latency() {
    // On a machine that is busy with other tests, a container may take longer than the default of two seconds: with a load of 28
    // a client saw an error.
    let product = Product::start_with(&[("MEMGATE_PROXY__HOLD", "10")]);
    let credentials = USERS.map(|email| product.add_user(email));
    let containers = || USERS.map(|email| product.container(email));
    let before = containers();
    let binary = product.dir().join("memcached-built");
    docker(&["cp", &format!("{}:/usr/bin/memcached", before[0]), binary.to_str().unwrap()]);
    let built = product.json(&["image", "build", "--binary", binary.to_str().unwrap()]);
    assert!(built["image"].as_str().unwrap().contains("-binary-"), "{built}");
    let shown = product.json(&["image", "show"]);
    assert_eq!(
        (&shown["source"], &shown["outdated"], &shown["old"]),
        (&"binary".into(), &3.into(), &false.into())
    );

    let stop = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let stopped = SetOnDrop(&stop);
        let clients: Vec<_> = credentials.iter().map(|it| use_cache(scope, &product, it, &stop)).collect();
        let upgrade = product.json(&["image", "upgrade", "--parallel", "2"]);
        assert_eq!(
            (&upgrade["state"], &upgrade["done"], &upgrade["failed"]),
            (&"done".into(), &3.into(), &0.into())
        );
        drop(stopped);
        clients.into_iter().map(|client| client.join().unwrap()).collect::<Vec<_>>()
    });
    println!("{seen:?}");
    for seen in &seen {
        assert!(seen.replies > 100 && seen.lost <= 1 && seen.longest < Duration::from_secs(10), "{seen:?}");
    }
    assert!(containers().iter().zip(&before).all(|(after, before)| after != before));
    assert_eq!(product.json(&["image", "show"])["upgrade"]["total"], 3);

    // The provisioner keeps few privileges, and is able to look into every new container's network.
    for email in USERS {
        wait_until(deadline_in(40), "an isolation check", || {
            let isolation = &product.json(&["instance", "show", email])["isolation"];
            let parts = ["ports", "restrictions", "reachability", "login"];
            assert!(
                isolation.is_null() || parts.iter().all(|part| isolation[part] == "passed"),
                "{isolation}"
            );
            !isolation.is_null()
        });
    }
    let status = product.json(&["status"]);
    assert_eq!((&status["isolation"]["checked"], &status["isolation"]["outdated"]), (&3.into(), &0.into()));
    let text = String::from_utf8(product.run(&["status"]).stdout).unwrap();
    assert!(text.contains("3 checked, the oldest check ") && text.contains("memcached 1.6."), "{text}");
    let text = String::from_utf8(product.run(&["instance", "show", USERS[0]]).stdout).unwrap();
    assert!(text.contains("isolation  passed, checked "), "{text}");
    let refused = product.run(&["image", "build", "--binary", "/bin/true"]);
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(
        error.contains("error: can't build an image from /bin/true (") && !error.contains("panic"),
        "{error}"
    );
    let refused = product.run(&["image", "upgrade", "--pause"]);
    assert_eq!(refused.status.code(), Some(1));
}
