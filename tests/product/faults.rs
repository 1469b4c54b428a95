//! A cache is killed or removed while an application uses it: its connection lives on, says what is
//! wrong meanwhile, and works again by itself.

use std::time::{Duration, Instant};

use crate::support::{Product, docker};
use crate::text::Text;

const UNAVAILABLE: &str = "SERVER_ERROR backend unavailable";

/// Keeps setting and reading until `recovered_after` the first denial; asserts what every answer was.
fn use_through(client: &mut Text, harm: impl FnOnce(), back_within: Duration) {
    assert_eq!(client.set("steady", b"before"), "STORED");
    harm();
    let began = Instant::now();
    let mut refused = 0_u32;
    loop {
        assert!(began.elapsed() < back_within, "not back after {back_within:?}, {refused} denials");
        match client.set("steady", b"after").as_str() {
            // Before the proxy has noticed, or after the return.
            "STORED" if refused > 0 || began.elapsed() > Duration::from_secs(2) => break,
            "STORED" => {}
            UNAVAILABLE => refused += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!(client.get("steady"), Ok(Some(b"after".to_vec())));
}

#[test]
fn a_cache_that_is_killed_comes_back_under_the_same_connection() {
    let product = Product::start();
    let (ada, bob) = (product.add_user("ada@example.org"), product.add_user("bob@example.org"));
    let mut client = Text::log_in(product.endpoint(), &ada);
    let mut neighbour = Text::log_in(product.endpoint(), &bob);
    assert_eq!(neighbour.set("steady", b"bob's"), "STORED");

    let kill = || drop(docker(&["kill", &product.container(&ada.email)]));
    use_through(&mut client, kill, Duration::from_secs(10));
    let remove = || drop(docker(&["rm", "-f", &product.container(&ada.email)]));
    use_through(&mut client, remove, Duration::from_secs(20));

    assert_eq!(neighbour.get("steady"), Ok(Some(b"bob's".to_vec())), "neighbours notice nothing");
}
