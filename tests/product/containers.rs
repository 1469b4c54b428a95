//! Containers of the whole product: who reaches them, and which of the operator's are left alone.

use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::Command;

use daemon::listener::{self, Port};

use crate::harness::{Product, docker, is_root};
use crate::text_client::TextClient;

/// Whether a process of this user can open a connection to an address within a second.
fn reaches(user: u32, address: &str) -> bool {
    let script = format!("exec 3<>/dev/tcp/{address}/11211");
    Command::new("setpriv")
        .args([&format!("--reuid={user}"), "--clear-groups", "timeout", "1", "bash", "-c", &script])
        .output()
        .unwrap()
        .status
        .success()
}

/// Whether a process of this user can connect with a duplicate of a socket that listened.
fn reaches_with(socket: &TcpListener, user: u32, address: &str) -> bool {
    let script = format!(
        "import socket\nkept = socket.socket(fileno=0)\nkept.shutdown(socket.SHUT_RDWR)\nkept.settimeout(1)\n\
         try:\n    kept.connect(('{address}', 11211))\n    print('connected')\nexcept OSError:\n    pass\n"
    );
    let mut python = Command::new("setpriv");
    python.args([&format!("--reuid={user}"), "--clear-groups", "/usr/bin/python3", "-c", &script]);
    let output = python.stdin(OwnedFd::from(socket.try_clone().unwrap())).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output.stdout == b"connected\n"
}

//
#[test]
fn the_web_ui_cannot_reach_a_cache() {
    if !is_root() {
        return;
    }
    let product = Product::start();
    let ada = product.add_user("ada@example.org");
    let mut client = TextClient::log_in(product.endpoint(), &ada);
    assert_eq!(client.set("steady", b"value"), "STORED");
    let before = product.json(&["instance", "show", &ada.email]);
    let address = before["address"].as_str().unwrap();
    let user_of = |role: &str| {
        let pid = product.role(role).unwrap();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let ids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
        ids.split_whitespace().next().unwrap().parse().unwrap()
    };
    assert!(reaches(user_of("proxy"), address) && reaches(0, address));
    assert!(!reaches(user_of("webui"), address), "a broken web UI could take the cache away");
    assert!(!reaches(65_534, address), "any user of the machine could");
    // Root has made the sockets that a role listens with.
    let any = "0.0.0.0:0".parse().unwrap();
    let port = Port::bind(any, 1).unwrap();
    assert!(!reaches_with(&port.listeners()[0], user_of("webui"), address), "with a socket of root's");
    // The attack itself works, unless the kernel lets no socket connect that has listened, root's neither (seen with 6.18).
    let reaches_by = |user| reaches_with(&listener::bind(any, 1).unwrap()[0], user, address);
    assert_eq!(reaches_by(user_of("webui")), reaches_by(0));
    let after = product.json(&["instance", "show", &ada.email]);
    assert_eq!((&after["generation"], &after["container"]), (&before["generation"], &before["container"]));
    assert_eq!(client.get("steady"), Ok(Some(b"value".to_vec())));
}

//
#[test]
fn a_container_from_a_committed_cache_is_shown_and_kept() {
    let product = Product::start();
    let ada = product.add_user("ada@example.org");
    let name = format!("red-{}", product.id());
    docker(&["commit", &product.container(&ada.email), &name]);
    docker(&["create", "--name", &name, &name]);
    let status = product.json(&["status"]);
    let foreign = [format!("container {name}"), format!("image {name}:latest")];
    let bob = product.add_user("bob@example.org");
    let image = |container: &str| docker(&["inspect", "-f", "{{.Image}}", container]);
    let same_image = image(&product.container(&bob.email)) == image(&product.container(&ada.email));
    let down = product.json(&["down"]);
    let exists = Command::new("docker").args(["container", "inspect", &name]).output().unwrap();
    docker(&["rm", &name]);
    docker(&["rmi", &name]);
    assert_eq!(status["foreign"], serde_json::json!(foreign));
    assert!(same_image, "the committed image isn't used");
    assert_eq!((&down["containers"], &down["kept"]), (&2.into(), &serde_json::json!(foreign)));
    assert!(exists.status.success());
}
