//! The Rust `memcache` crate in text and binary: every operation that it has.

use std::time::Duration;

use memcache::{Client, CommandError, MemcacheError};

use crate::harness::{Credentials, Product};

/// The crate retries its login this long.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(3);

fn connect(product: &Product, credentials: &Credentials, protocol: &str) -> Result<Client, MemcacheError> {
    let Credentials { username, password, .. } = credentials;
    Client::builder()
        .add_server(format!("memcache://{username}:{password}@{}?protocol={protocol}", product.endpoint()))?
        .with_max_pool_size(2)
        .with_connection_timeout(LOGIN_TIMEOUT)
        .with_read_timeout(Duration::from_secs(10))
        .with_write_timeout(Duration::from_secs(10))
        .build()
}

#[test]
fn memcache_crate_supports_all_operations() {
    let product = Product::start();
    let (ada, bob) = (product.add_user("ada@example.org"), product.add_user("bob@example.org"));
    for protocol in ["ascii", "binary"] {
        let client = connect(&product, &ada, protocol).unwrap();
        every_operation(&client, protocol);
        for size in [1, 100, 16 * 1024, 512 * 1024, 1_000_000] {
            let value: Vec<u8> = b"\r\nEND\r\n\0".iter().copied().cycle().take(size).collect();
            client.set("secret-key", value.as_slice(), 0).unwrap();
            assert!(client.get::<Vec<u8>>("secret-key").unwrap() == Some(value), "{size} bytes, {protocol}");
        }
        let other = connect(&product, &bob, protocol).unwrap();
        assert_eq!(other.get::<Vec<u8>>("secret-key").unwrap(), None);
        let wrong = Credentials { password: bob.password.clone(), ..ada.clone() };
        let denied =
            connect(&product, &wrong, protocol).and_then(|client| client.get::<Vec<u8>>("secret-key"));
        assert!(denied.is_err(), "another user's password is accepted");
    }
}

fn every_operation(client: &Client, protocol: &str) {
    client.flush().unwrap();
    assert_eq!(client.get::<String>("a").unwrap(), None);
    client.set("a", "text", 1000).unwrap();
    assert_eq!(client.get::<String>("a").unwrap().as_deref(), Some("text"));
    // In text, the crate treats NOT_STORED as success.
    let failing = [
        (client.add("a", "x", 0), CommandError::KeyExists),
        (client.replace("c", 1, 0), CommandError::KeyNotFound),
        (client.append("c", ">"), CommandError::Unknown(5)),
    ];
    // The crate ignores the reply to a prepend.
    client.prepend("c", "<").unwrap();
    for (result, error) in failing {
        let as_expected = match &result {
            Err(MemcacheError::CommandError(actual)) => *actual == error,
            result => protocol == "ascii" && result.is_ok(),
        };
        assert!(as_expected, "{result:?} instead of {error:?} in {protocol}");
    }
    client.add("b", 5, 0).unwrap();
    client.replace("b", 6, 0).unwrap();
    assert_eq!(client.get::<u32>("b").unwrap(), Some(6));
    client.append("a", ">").unwrap();
    client.prepend("a", "<").unwrap();
    assert_eq!(client.get::<String>("a").unwrap().as_deref(), Some("<text>"));
    assert_eq!(client.get::<String>("c").unwrap(), None);
    let found = client.gets::<(Vec<u8>, u32, Option<u64>)>(&["a", "b", "c"]).unwrap();
    assert_eq!(found.len(), 2);
    let (value, _, cas) = &found["a"];
    assert_eq!(value, b"<text>");
    let cas = cas.expect("no cas");
    assert!(client.cas("a", "new", 0, cas).unwrap() && !client.cas("a", "newer", 0, cas).unwrap());
    assert!(!client.cas("c", "newer", 0, cas).unwrap());
    assert_eq!((client.increment("b", 4).unwrap(), client.decrement("b", 1).unwrap()), (10, 9));
    assert!(client.touch("a", 1000).unwrap() && !client.touch("c", 1000).unwrap());
    assert!(client.delete("b").unwrap() && !client.delete("b").unwrap());
    assert!(client.version().unwrap()[0].1.starts_with("1."));
    // In text, the crate reads only the first line of the statistics, which breaks its next request.
    assert!(protocol == "ascii" || client.stats().unwrap()[0].1.contains_key("curr_items"));
    client.flush_with_delay(1000).unwrap();
    assert_eq!(client.get::<String>("a").unwrap().as_deref(), Some("new"), "flushed before its delay");
}
