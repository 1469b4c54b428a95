//! What the command line says of clients: why they were refused, who has cut them off, which are connected.
//! No engine is needed here.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};

use crate::support::{Place, signal, wait_until, within};

/// A role in a process of its own. Dropped, it is stopped.
pub(crate) struct Role(Child);

impl Role {
    pub(crate) fn proxy(place: &Place) -> Self {
        Self::start(place, "proxy", place.endpoint())
    }

    fn webui(place: &Place) -> Self {
        Self::start(place, "webui", place.web())
    }

    fn start(place: &Place, name: &str, listen: SocketAddr) -> Self {
        let role = Self(place.memgate(&[name]).stderr(Stdio::null()).spawn().unwrap());
        wait_until(within(20), &format!("{name} listens"), || TcpStream::connect(listen).is_ok());
        role
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        signal(self.0.id(), "TERM");
        let _ = self.0.wait();
    }
}

/// A place with a user, `ada@example.org`, and what was printed of its token.
pub(crate) fn with_ada() -> (Place, serde_json::Value) {
    let place = Place::new();
    assert!(place.run(&["migrate"]).status.success());
    let added = place.json(&["user", "add", "ada@example.org", "--no-wait"]);
    (place, added)
}

/// Says `words` to a proxy and ends; what was said back.
fn say(place: &Place, words: &str) -> String {
    let mut stream = TcpStream::connect(place.endpoint()).unwrap();
    stream.write_all(words.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    said
}

pub(crate) fn login(username: &str, password: &str) -> String {
    format!("set x 0 0 {}\r\n{username} {password}\r\n", username.len() + password.len() + 1)
}

#[test]
fn a_revocation_is_acknowledged_by_every_proxy() {
    let (place, added) = with_ada();
    let username = added["username"].as_str().unwrap();
    let alone = place.json(&["token", "show", username]);
    assert_eq!(alone["acknowledged"]["by"], serde_json::json!([]));
    let proxy = Role::proxy(&place);
    let in_force =
        || place.json(&["token", "show", username])["acknowledged"]["by"].as_array().unwrap().len();
    wait_until(within(20), "the proxy says that it is there", || in_force() == 1);
    let revoked = place.json(&["token", "revoke", username]);
    assert_eq!(revoked["acknowledged"]["by"].as_array().unwrap().len(), 1, "{revoked}");
    assert_eq!(revoked["acknowledged"]["awaited"], serde_json::json!([]));
    let shown = String::from_utf8(place.run(&["token", "show", username]).stdout).unwrap();
    assert!(shown.contains("1 of 1 proxy ("), "{shown}");
    drop(proxy);
    let after = place.json(&["token", "show", username]);
    assert_eq!(after["acknowledged"]["by"], serde_json::json!([]), "it has stopped");
}

#[test]
fn a_wrong_password_is_told_to_the_operator() {
    let (place, added) = with_ada();
    let _proxy = Role::proxy(&place);
    let (username, password) = (added["username"].as_str().unwrap(), added["password"].as_str().unwrap());
    let cut_off = &password[..password.len() - 1];
    assert_eq!(say(&place, &login(username, cut_off)), "CLIENT_ERROR authentication failure\r\n");
    wait_until(within(20), "the denial is known", || {
        !place.json(&["token", "show", username])["denials"].as_array().unwrap().is_empty()
    });
    let shown = place.run(&["token", "show", username]).stdout;
    let shown = String::from_utf8(shown).unwrap();
    for words in
        ["Refused lately:", "mistyped", "127.0.0.1", "text login, text, no TLS", "one and the same token"]
    {
        assert!(shown.contains(words), "{words} is not in {shown}");
    }
    assert!(!shown.contains(cut_off));
}

#[test]
fn connections_are_listed_and_ended() {
    let (place, added) = with_ada();
    let _proxy = Role::proxy(&place);
    let (username, password) = (added["username"].as_str().unwrap(), added["password"].as_str().unwrap());
    let mut stream = TcpStream::connect(place.endpoint()).unwrap();
    stream.write_all(login(username, password).as_bytes()).unwrap();
    stream.read_exact(&mut [0; 8]).unwrap();
    let list = || place.json(&["connection", "list", "ada@example.org"]);
    wait_until(within(20), "it is listed", || list()["total"] == 1);
    let listed = list();
    let connection = &listed["connections"][0];
    assert_eq!(format!("mg_{}", connection["token_id"].as_str().unwrap()), username);
    let id = connection["id"].as_str().unwrap();
    let shown = String::from_utf8(place.run(&["connection", "list", "ada@example.org"]).stdout).unwrap();
    assert!(shown.contains(id) && shown.contains("127.0.0.1"), "{shown}");
    assert_eq!(place.json(&["connection", "end", "ada@example.org", id])["ended"], id);
    assert!(matches!(stream.read(&mut [0; 8]), Ok(0) | Err(_)));
    let wrong = place.run(&["connection", "end", "ada@example.org", "x"]);
    assert_eq!(wrong.status.code(), Some(1));
}

#[test]
fn a_token_that_was_found_in_public_says_so() {
    let (place, added) = with_ada();
    let _webui = Role::webui(&place);
    let (username, token) = (added["username"].as_str().unwrap(), added["token"].as_str().unwrap());
    let body = format!(r#"[{{"token":"{token}","type":"memgate","url":"https://example.org/leak.py"}}]"#);
    let report = format!(
        "POST /leaked-tokens HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        place.web(),
        body.len()
    );
    let mut scanner = TcpStream::connect(place.web()).unwrap();
    scanner.write_all(report.as_bytes()).unwrap();
    let mut answer = String::new();
    scanner.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let shown = String::from_utf8(place.run(&["token", "show", username]).stdout).unwrap();
    assert!(shown.contains("https://example.org/leak.py, revoked for it"), "{shown}");
    assert_eq!(place.json(&["token", "show", username])["leak"]["url"], "https://example.org/leak.py");
}
