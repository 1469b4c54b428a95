//! A user's cache is restarted, flushed and resized with the command line while an application uses it.

use serde_json::Value;

use crate::harness::{Credentials, Product, deadline_in, docker, signal, wait_until};
use crate::text_client::TextClient;

const ADA: &str = "ada@example.org";

/// How a command that waits ended: its exit status, and its document.
fn asked(product: &Product, arguments: &[&str]) -> (Option<i32>, Value) {
    let output = product.memgate(&[&["cache"], arguments, &["--json"]].concat()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let document = serde_json::from_slice(&output.stdout);
    (output.status.code(), document.unwrap_or_else(|_| panic!("{arguments:?}: {stderr}")))
}

/// Sets values of half a megabyte, and counts how many of them are there.
fn fill(client: &mut TextClient, count: usize) -> usize {
    let value = vec![b'v'; 500_000];
    for number in 0..count {
        assert_eq!(client.set(&format!("large-{number}"), &value), "STORED");
    }
    kept(client, count)
}

fn kept(client: &mut TextClient, count: usize) -> usize {
    (0..count).filter(|number| client.get(&format!("large-{number}")).unwrap().is_some()).count()
}

/// A connection that works: after a restart one that was open gets an error once.
fn connected(product: &Product, ada: &Credentials) -> TextClient {
    let mut client = TextClient::log_in(product.endpoint(), ada);
    wait_until(deadline_in(20), "the cache answers", || client.set("probe", b"x") == "STORED");
    client
}

//
#[test]
fn cache_is_resized_flushed_and_restarted_while_it_is_used() {
    let product = Product::start();
    let ada = product.add_user(ADA);
    let mut client = connected(&product, &ada);
    let container = product.container(ADA);
    assert_eq!(fill(&mut client, 80), 80);

    let said = product.operate(&["cache", "resize", ADA, "--memory-mb", "256"]);
    assert_eq!(said, "memcached has 256 MB; nothing was evicted");
    assert_eq!(kept(&mut client, 80), 80, "on the same connection");
    assert_eq!(fill(&mut client, 400), 400);
    wait_until(deadline_in(30), "statistics", || {
        let shown = product.json(&["cache", "show", ADA]);
        shown["statistics"]["limit_bytes"] == 256 << 20 && shown["statistics"]["items"].as_i64() > Some(390)
    });
    let text = String::from_utf8(product.run(&["cache", "show", ADA]).stdout).unwrap();
    assert!(text.contains(" of 256.0 MB (7") && text.contains("resize to 256 MB: done"), "{text}");

    // The provisioner is killed while memcached gives pages back, and goes on when it is back.
    let provisioner = product.role("provisioner").unwrap();
    let (status, pending) = asked(&product, &["resize", ADA, "--memory-mb", "64", "--no-wait"]);
    assert_eq!((status, &pending["state"]), (Some(0), &"pending".into()));
    let first = |name: &str| product.json(&["cache", "show", ADA])["operations"][0][name].clone();
    wait_until(deadline_in(20), "the operation begins", || first("state") != "pending");
    signal(provisioner, "KILL");
    let said = product.operate(&["cache", "resize", ADA, "--memory-mb", "64"]);
    assert!(said.starts_with("memcached has 64 MB"), "{said}");
    let left = kept(&mut client, 400);
    assert!((80..=130).contains(&left), "{left} of 400 items fit");
    assert_eq!(product.container(ADA), container, "never replaced");

    product.operate(&["cache", "flush", ADA]);
    assert_eq!(kept(&mut client, 400), 0);
    assert_eq!(client.set("steady", b"before"), "STORED");
    let started = || docker(&["inspect", "-f", "{{.State.StartedAt}}", &container]);
    let before = started();
    assert!(product.operate(&["cache", "restart", ADA, "--cache", "default"]).contains("contents are gone"));
    assert_ne!(started(), before);
    let mut client = connected(&product, &ada);
    assert_eq!(client.get("steady"), Ok(None), "with the same token and endpoint");

    let log = product.json(&["audit", "list"]);
    let actions: Vec<_> =
        log["entries"].as_array().unwrap().iter().map(|it| it["action"].as_str().unwrap()).collect();
    for action in ["cache.resize", "cache.flush", "cache.restart"] {
        assert!(actions.contains(&action), "{action} in {actions:?}");
    }
}

//
#[test]
fn operation_that_can_not_be_done_now_waits_or_is_refused() {
    let product = Product::start();
    product.add_user(ADA);
    let provisioner = product.role("provisioner").unwrap();
    signal(provisioner, "STOP");
    let (status, document) = asked(&product, &["flush", ADA, "--no-wait"]);
    assert_eq!((status, &document["state"]), (Some(0), &"pending".into()));
    let (_, again) = asked(&product, &["flush", ADA, "--no-wait"]);
    assert_eq!(document["id"], again["id"], "the one that stands");
    signal(provisioner, "CONT");
    wait_until(deadline_in(20), "the flush", || {
        product.json(&["cache", "show", ADA])["operations"][0]["state"] == "done"
    });
    product.json(&["user", "suspend", ADA]);
    let output = product.run(&["cache", "restart", ADA]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        stderr.trim(),
        "error: the cache's user is suspended: resume the user with `memgate user resume ada@example.org`"
    );
}
