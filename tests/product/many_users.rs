//! Many users: each cache is reachable with its own token and with no other.

use crate::harness::{Product, is_long};
use crate::text_client::TextClient;

#[test]
fn every_token_reaches_only_its_own_cache() {
    let users = if is_long() { 200 } else { 8 };
    let product = Product::start();
    let all: Vec<_> = (0..users).map(|n| product.add_user(&format!("user{n}@example.org"))).collect();
    for user in &all {
        assert_eq!(
            TextClient::log_in(product.endpoint(), user).set("owner", user.email.as_bytes()),
            "STORED"
        );
    }
    for user in &all {
        let value = TextClient::log_in(product.endpoint(), user).get("owner").unwrap();
        assert_eq!(value.as_deref(), Some(user.email.as_bytes()));
    }
    for pair in all.windows(2) {
        let login = format!("{} {}", pair[0].username, pair[1].password);
        let reply = TextClient::connect(product.endpoint()).set("auth", login.as_bytes());
        assert_eq!(reply, "CLIENT_ERROR authentication failure");
    }
    let instances = product.json(&["instance", "list"]);
    let instances = instances["instances"].as_array().unwrap();
    assert_eq!(instances.len(), users);
    assert!(instances.iter().all(|instance| instance["state"] == "running"));
    let mut addresses: Vec<_> = instances.iter().map(|i| i["address"].as_str().unwrap()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), users, "each instance has an address of its own");
}
