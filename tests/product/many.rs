//! Many sign-ups through the command line: every cache reachable with its own token and no other.

use crate::support::{Product, is_long};
use crate::text::Text;

#[test]
fn every_token_opens_its_own_cache() {
    let users = if is_long() { 200 } else { 8 };
    let product = Product::start();
    let all: Vec<_> = (0..users).map(|n| product.add_user(&format!("user{n}@example.org"))).collect();
    for user in &all {
        assert_eq!(Text::log_in(product.endpoint(), user).set("whose", user.email.as_bytes()), "STORED");
    }
    for user in &all {
        let value = Text::log_in(product.endpoint(), user).get("whose").unwrap();
        assert_eq!(value.as_deref(), Some(user.email.as_bytes()));
    }
    for pair in all.windows(2) {
        let login = format!("{} {}", pair[0].username, pair[1].password);
        let refused = Text::connect(product.endpoint()).set("auth", login.as_bytes());
        assert_eq!(refused, "CLIENT_ERROR authentication failure");
    }
    let instances = product.json(&["instance", "list"]);
    let instances = instances["instances"].as_array().unwrap();
    assert_eq!(instances.len(), users);
    assert!(instances.iter().all(|instance| instance["state"] == "running"));
    let mut addresses: Vec<_> = instances.iter().map(|i| i["address"].as_str().unwrap()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), users, "no two caches share an address");
}
