//! Changes of users on the command line (password reset, suspension, deletion) and their effect on connections.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::harness::{Credentials, Installation, Product, deadline_in, wait_until};
use crate::text_client::TextClient;

///
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

fn migrated() -> Installation {
    let installation = Installation::new();
    assert!(installation.run(&["migrate"]).status.success());
    installation
}

/// Whether each of a user's tokens is revoked.
fn revoked(installation: &Installation, email: &str) -> Vec<bool> {
    let list = installation.json(&["token", "list", email]);
    list["tokens"].as_array().unwrap().iter().map(|token| token["revoked_at"].is_i64()).collect()
}

#[test]
fn password_is_reset_and_tokens_are_revoked_on_request() {
    let installation = migrated();
    installation.json(&["user", "add", "ada@example.org", "--no-wait"]);
    installation.json(&["token", "create", "ada@example.org", "--name", "ci"]);
    let reset = installation.json(&["user", "reset-password", "ada@example.org"]);
    assert_eq!(reset["email"], "ada@example.org");
    assert_eq!((reset["password"].as_str().unwrap().len(), &reset["tokens_revoked"]), (20, &0.into()));
    assert_eq!(revoked(&installation, "ada@example.org"), [false, false]);

    let mut child = installation
        .memgate(&[
            "user",
            "reset-password",
            "ada@example.org",
            "--password-stdin",
            "--revoke-tokens",
            "--json",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"correct horse battery\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let reset: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(reset["password"].is_null(), "a given password is not printed");
    assert_eq!(reset["tokens_revoked"], 2);
    assert_eq!(revoked(&installation, "ada@example.org"), [true, true]);
    let log = String::from_utf8(installation.run(&["audit", "list", "--json"]).stdout).unwrap();
    assert_eq!(log.matches("user.password").count(), 2);
    assert!(!log.contains("battery") && installation.run(&["audit", "verify"]).status.success());
}

#[test]
fn user_is_suspended_resumed_and_deleted() {
    let installation = migrated();
    installation.json(&["user", "add", "ada@example.org", "--no-wait"]);
    let state = |command: &str| {
        let shown = installation.json(&["user", command, "ada@example.org"]);
        (
            shown["state"].as_str().unwrap().to_owned(),
            shown["caches"][0]["desired"].as_str().unwrap().to_owned(),
        )
    };
    assert_eq!(state("suspend"), ("suspended".into(), "suspended".into()));
    assert_eq!(state("resume"), ("active".into(), "running".into()));
    assert_eq!(installation.json(&["user", "delete", "ada@example.org", "--yes"])["deleted"], true);
    for command in ["show", "suspend", "delete", "reset-password"] {
        let output = installation.run(&["user", command, "ada@example.org"]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && stderr.contains("no user ada@example.org"), "{stderr}");
    }
    let list = installation.json(&["user", "list"]);
    assert_eq!(list["users"], serde_json::json!([]));
    installation.json(&["user", "add", "ada@example.org", "--no-wait"]);
}

/// A logged-in connection without requests in flight.
fn idle_connection(product: &Product, credentials: &Credentials) -> TcpStream {
    let mut stream = TcpStream::connect(product.endpoint()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let login = format!("{} {}", credentials.username, credentials.password);
    stream.write_all(format!("set auth 0 0 {}\r\n{login}\r\n", login.len()).as_bytes()).unwrap();
    let mut stored = [0; 8];
    stream.read_exact(&mut stored).unwrap();
    assert_eq!(&stored, b"STORED\r\n");
    stream
}

/// Runs a command that must close these connections, and waits for that.
fn closes(product: &Product, command: &[&str], streams: Vec<TcpStream>) {
    product.json(command);
    let started = Instant::now();
    for mut stream in streams {
        // A reset connection is closed, too; earlier replies don't matter.
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert!(started.elapsed() < CLOSE_TIMEOUT, "{command:?} took {:?}", started.elapsed());
}

//
#[test]
fn suspension_reset_and_deletion_close_live_connections() {
    let product = Product::start();
    let (ada, grace) = (product.add_user("ada@example.org"), product.add_user("grace@example.org"));
    let mut other = TextClient::log_in(product.endpoint(), &grace);
    let assert_denied = |credentials: &Credentials| {
        let login = format!("{} {}", credentials.username, credentials.password);
        let reply = TextClient::connect(product.endpoint()).set("auth", login.as_bytes());
        assert_eq!(reply, "CLIENT_ERROR authentication failure");
    };
    let streams = vec![idle_connection(&product, &ada), idle_connection(&product, &ada)];
    closes(&product, &["user", "suspend", "ada@example.org"], streams);
    assert_denied(&ada);
    let state = || product.json(&["instance", "show", "ada@example.org"])["state"].clone();
    wait_until(deadline_in(20), "the cache is stopped", || state() == "suspended");
    product.json(&["user", "resume", "ada@example.org"]);
    wait_until(deadline_in(20), "the cache is running again", || state() == "running");
    // The proxy applies it a moment later.
    let mut resumed = TextClient::log_in(product.endpoint(), &ada);
    wait_until(deadline_in(5), "the resumed cache can be used", || resumed.set("a", b"b") == "STORED");

    let second = product.credentials(&["token", "create", "ada@example.org"]);
    let streams = vec![idle_connection(&product, &ada), idle_connection(&product, &second)];
    let reset = ["user", "reset-password", "ada@example.org", "--revoke-tokens"];
    closes(&product, &reset, streams);
    assert_denied(&ada);
    assert_denied(&second);

    let third = product.credentials(&["token", "create", "ada@example.org"]);
    let container = product.container("ada@example.org");
    let streams = vec![idle_connection(&product, &third)];
    closes(&product, &["user", "delete", "ada@example.org", "--yes"], streams);
    assert_denied(&third);
    let is_removed = || !crate::harness::docker(&["ps", "-aq", "--no-trunc"]).contains(&container);
    wait_until(deadline_in(20), "the container is removed", is_removed);
    wait_until(deadline_in(20), "the cache is no longer listed", || {
        product.json(&["instance", "list"])["instances"].as_array().unwrap().len() == 1
    });
    assert_eq!(other.set("still", b"here"), "STORED", "another user's connection stays open");
}
