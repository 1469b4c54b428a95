//! A container is killed or removed while an application uses it: the connection stays open, and at most a write in flight
//! fails.

use std::time::{Duration, Instant};

use crate::harness::{Product, docker};
use crate::text_client::TextClient;

const UNAVAILABLE: &str = "SERVER_ERROR backend unavailable";

/// Damages a cache and sets values until it has recovered; checks every reply.
fn use_during(client: &mut TextClient, damage: impl FnOnce(), recovery_timeout: Duration) {
    assert_eq!(client.set("steady", b"before"), "STORED");
    damage();
    let started = Instant::now();
    let mut errors = 0_u32;
    loop {
        assert!(
            started.elapsed() < recovery_timeout,
            "not recovered after {recovery_timeout:?}, {errors} errors"
        );
        match client.set("steady", b"after").as_str() {
            // Before the proxy notices the damage, after the recovery, or both: requests wait meanwhile.
            "STORED" if errors > 0 || started.elapsed() > Duration::from_secs(2) => break,
            "STORED" => {}
            UNAVAILABLE => errors += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!(client.get("steady"), Ok(Some(b"after".to_vec())));
}

// F-1, F-35, P-1.
#[test]
fn killed_cache_recovers_under_the_same_connection() {
    let product = Product::start();
    let (ada, bob) = (product.add_user("ada@example.org"), product.add_user("bob@example.org"));
    let mut client = TextClient::log_in(product.endpoint(), &ada);
    let mut neighbour = TextClient::log_in(product.endpoint(), &bob);
    assert_eq!(neighbour.set("steady", b"bob's"), "STORED");

    let kill = || drop(docker(&["kill", &product.container(&ada.email)]));
    use_during(&mut client, kill, Duration::from_secs(10));
    let remove = || drop(docker(&["rm", "-f", &product.container(&ada.email)]));
    use_during(&mut client, remove, Duration::from_secs(20));

    assert_eq!(neighbour.get("steady"), Ok(Some(b"bob's".to_vec())), "other users are not affected");
}
