//! What an operator sees of a running product.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use crate::harness::{Product, is_root};
use crate::text_client::TextClient;

// L-4: the secret is shown to an instance only, by this command too.
#[test]
fn instance_shows_what_its_memcached_says() {
    let product = Product::start();
    let ada = product.add_user("ada@example.org");
    let mut client = TextClient::log_in(product.endpoint(), &ada);
    assert_eq!(client.set("secret-key", b"secret-value"), "STORED");
    assert_eq!(client.get("secret-key"), Ok(Some(b"secret-value".to_vec())));
    let shown = product.json(&["instance", "show", &ada.email]);
    let memcached = &shown["memcached"];
    assert_eq!((&memcached["curr_items"], &memcached["evictions"]), (&1.into(), &0.into()));
    assert_eq!(memcached["limit_maxbytes"], 64 << 20);
    assert!(memcached["bytes"].as_i64().is_some_and(|bytes| (50..1000).contains(&bytes)), "{memcached}");
    let text = String::from_utf8(product.run(&["instance", "show", &ada.email]).stdout).unwrap();
    let container = shown["container"].as_str().unwrap();
    assert!(text.contains(&container[..12]) && !text.contains(container), "{text}");
    assert!(text.contains("of 64.0 MB") && !text.contains("message"), "{text}");
    let list = String::from_utf8(product.run(&["instance", "list"]).stdout).unwrap();
    assert!(list.contains("CONNECTIONS") && list.contains(" of 20000") && list.contains("HITS"), "{list}");
    let dry = product.json(&["down", "--dry-run"]);
    assert_eq!((&dry["containers"], &dry["stopped"], &dry["tables"]), (&1.into(), &true.into(), &1.into()));
    assert_eq!(client.get("secret-key"), Ok(Some(b"secret-value".to_vec())));
}

// everybody may read it, and nobody but root may write it.
#[test]
fn everybody_may_read_the_ca_certificate() {
    if !is_root() {
        return;
    }
    let product = Product::start();
    fs::set_permissions(product.dir(), Permissions::from_mode(0o755)).unwrap();
    let line = &product.stdout_lines[0];
    let rest = line.strip_prefix("TLS: let clients trust ").unwrap();
    let (path, url) = rest.split_once(", also at ").unwrap();
    let nobody = |arguments: &[&str]| {
        let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
        Command::new("setpriv").args(nobody).args(arguments).output().unwrap()
    };
    let read = nobody(&["cat", path]);
    assert!(read.status.success() && read.stdout.starts_with(b"-----BEGIN CERTIFICATE-----"), "{read:?}");
    assert_eq!(nobody(&["curl", "--silent", "--fail", url]).stdout, read.stdout);
    for change in [&["sh", "-c", "echo x >> \"$0\"", path][..], &["rm", "-f", path], &["touch", path]] {
        assert!(!nobody(change).status.success(), "{change:?}");
    }
    assert_eq!(fs::read(path).unwrap(), read.stdout);
}
