//! An installation moves from SQLite to PostgreSQL: every token works afterwards, and caches keep their contents.

use std::os::unix::fs::MetadataExt as _;

use testkit::Postgres;

use crate::harness::{Installation, Product, deadline_in, is_root, wait_until};
use crate::text_client::TextClient;

#[test]
fn installation_moves_to_postgresql_with_its_tokens_and_contents() {
    if !is_root() {
        return;
    }
    let postgres = Postgres::start();
    let mut product = Product::start_at(Installation::with_sqlite());
    let ada = product.add_user("ada@example.org");
    let second = product.credentials(&["token", "create", &ada.email, "--name", "second"]);
    let revoked = product.credentials(&["token", "create", &ada.email, "--name", "revoked"]);
    product.json(&["token", "revoke", &revoked.username]);
    assert_eq!(TextClient::log_in(product.endpoint(), &ada).set("kept", b"value"), "STORED");
    let container = product.container(&ada.email);
    let file = product.data().join("db/memgate.db");
    let from = format!("sqlite:{}", file.display());
    let migrate = ["migrate", "--from", &from, "--to", &postgres.url(), "--roles"];

    // Not while it runs: what is written meanwhile would be lost.
    let refused = product.run(&migrate);
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && error.contains("memgate is running"), "{error}");
    product.interrupt();
    let moved = product.json(&migrate);
    assert!(moved["copied_rows"].as_u64() > Some(20), "{moved}");
    let kept = moved["old_database"].as_str().unwrap();
    assert!(!file.exists() && std::path::Path::new(kept).exists(), "{moved}");
    // the roles, which shared it, read and write PostgreSQL with users of their own now.
    let meta = std::fs::metadata(kept).unwrap();
    assert_eq!((meta.mode() & 0o777, meta.uid(), meta.gid()), (0o600, 0, 0));
    // Without the new setting nothing works on an empty or an old database.
    let error = String::from_utf8(product.run(&["user", "list"]).stderr).unwrap();
    assert!(error.contains("memgate.db"), "{error}");
    // A second time there is nothing to copy, and nothing to overwrite.
    assert!(!product.run(&migrate).status.success());

    product.use_postgres(postgres.url());
    product.restart();
    for token in [&ada, &second] {
        let mut client = TextClient::log_in(product.endpoint(), token);
        assert_eq!(client.get("kept"), Ok(Some(b"value".to_vec())));
    }
    assert!(TextClient::try_log_in(product.endpoint(), &revoked).is_none());
    assert_eq!(product.container(&ada.email), container, "the same container goes on");
    assert!(product.run(&["audit", "verify"]).status.success());
    let grace = product.add_user("grace@example.org");
    wait_until(deadline_in(30), "the new cache works", || {
        TextClient::try_log_in(product.endpoint(), &grace).is_some()
    });
    drop(product);
}
