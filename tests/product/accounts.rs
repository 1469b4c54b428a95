//! Accounts from the command line: another password, a suspension, the end; and what it does to connections.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{Credentials, Place, Product, wait_until, within};
use crate::text::Text;

/// SECURITY R-15.
const CUT_OFF_WITHIN: Duration = Duration::from_secs(1);

fn prepared() -> Place {
    let place = Place::new();
    assert!(place.run(&["migrate"]).status.success());
    place
}

/// The state of each of a user's tokens: whether it was revoked.
fn revoked(place: &Place, email: &str) -> Vec<bool> {
    let list = place.json(&["token", "list", email]);
    list["tokens"].as_array().unwrap().iter().map(|token| token["revoked_at"].is_i64()).collect()
}

#[test]
fn a_password_is_reset_and_tokens_end_if_asked() {
    let place = prepared();
    place.json(&["user", "add", "ada@example.org", "--no-wait"]);
    place.json(&["token", "create", "ada@example.org", "--name", "ci"]);
    let reset = place.json(&["user", "reset-password", "ada@example.org"]);
    assert_eq!(reset["email"], "ada@example.org");
    assert_eq!((reset["password"].as_str().unwrap().len(), &reset["tokens_revoked"]), (20, &0.into()));
    assert_eq!(revoked(&place, "ada@example.org"), [false, false]);

    let mut child = place
        .memgate(&["user", "reset-password", "ada@example.org", "--password-stdin", "--end-all", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"correct horse battery\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let reset: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(reset["password"].is_null(), "who typed it has it");
    assert_eq!(reset["tokens_revoked"], 2);
    assert_eq!(revoked(&place, "ada@example.org"), [true, true]);
    let noted = String::from_utf8(place.run(&["audit", "list", "--json"]).stdout).unwrap();
    assert_eq!(noted.matches("user.password").count(), 2);
    assert!(!noted.contains("battery") && place.run(&["audit", "verify"]).status.success());
}

#[test]
fn an_account_is_suspended_resumed_and_deleted() {
    let place = prepared();
    place.json(&["user", "add", "ada@example.org", "--no-wait"]);
    let state = |command: &str| {
        let shown = place.json(&["user", command, "ada@example.org"]);
        (
            shown["state"].as_str().unwrap().to_owned(),
            shown["instance"]["wanted"].as_str().unwrap().to_owned(),
        )
    };
    assert_eq!(state("suspend"), ("suspended".into(), "suspended".into()));
    assert_eq!(state("resume"), ("active".into(), "running".into()));
    assert_eq!(place.json(&["user", "delete", "ada@example.org"])["deleted"], true);
    for command in ["show", "suspend", "delete", "reset-password"] {
        let output = place.run(&["user", command, "ada@example.org"]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && stderr.contains("there is no account"), "{stderr}");
    }
    let list = place.json(&["user", "list"]);
    assert_eq!(list["users"], serde_json::json!([]));
    place.json(&["user", "add", "ada@example.org", "--no-wait"]);
}

/// A logged-in connection with nothing in flight.
fn idle(product: &Product, who: &Credentials) -> TcpStream {
    let mut stream = TcpStream::connect(product.endpoint()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let login = format!("{} {}", who.username, who.password);
    stream.write_all(format!("set auth 0 0 {}\r\n{login}\r\n", login.len()).as_bytes()).unwrap();
    let mut stored = [0; 8];
    stream.read_exact(&mut stored).unwrap();
    assert_eq!(&stored, b"STORED\r\n");
    stream
}

/// Does something that must end these connections, and waits for it.
fn ends(product: &Product, what: &[&str], streams: Vec<TcpStream>) {
    product.json(what);
    let began = Instant::now();
    for mut stream in streams {
        // An error is an end, too; what may have been said before doesn't matter.
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert!(began.elapsed() < CUT_OFF_WITHIN, "{what:?} took {:?}", began.elapsed());
}

#[test]
fn suspension_a_reset_and_deletion_cut_live_connections_off() {
    let product = Product::start();
    let (ada, grace) = (product.add_user("ada@example.org"), product.add_user("grace@example.org"));
    let mut other = Text::log_in(product.endpoint(), &grace);
    let refused = |who: &Credentials| {
        let login = format!("{} {}", who.username, who.password);
        let said = Text::connect(product.endpoint()).set("auth", login.as_bytes());
        assert_eq!(said, "CLIENT_ERROR authentication failure");
    };
    let streams = vec![idle(&product, &ada), idle(&product, &ada)];
    ends(&product, &["user", "suspend", "ada@example.org"], streams);
    refused(&ada);
    let state = || product.json(&["instance", "show", "ada@example.org"])["state"].clone();
    wait_until(within(20), "the cache is stopped", || state() == "suspended");
    product.json(&["user", "resume", "ada@example.org"]);
    wait_until(within(20), "the cache is back", || state() == "running");
    // The proxy learns of it a moment later than we.
    let mut back = Text::log_in(product.endpoint(), &ada);
    wait_until(within(5), "its tokens lead there", || back.set("a", b"b") == "STORED");

    let second = product.credentials(&["token", "create", "ada@example.org"]);
    let streams = vec![idle(&product, &ada), idle(&product, &second)];
    let reset = ["user", "reset-password", "ada@example.org", "--end-all"];
    ends(&product, &reset, streams);
    refused(&ada);
    refused(&second);

    let third = product.credentials(&["token", "create", "ada@example.org"]);
    let container = product.container("ada@example.org");
    let streams = vec![idle(&product, &third)];
    ends(&product, &["user", "delete", "ada@example.org"], streams);
    refused(&third);
    let gone = || !crate::support::docker(&["ps", "-aq", "--no-trunc"]).contains(&container);
    wait_until(within(20), "the container is gone", gone);
    wait_until(within(20), "the cache is no longer listed", || {
        product.json(&["instance", "list"])["instances"].as_array().unwrap().len() == 1
    });
    assert_eq!(other.set("still", b"here"), "STORED", "somebody else's connection goes on");
}
