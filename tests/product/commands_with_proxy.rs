//! Commands that need a proxy or web UI but no Docker: propagation, denials, live connections, leaks.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};

use crate::harness::{Installation, deadline_in, signal, wait_until};

/// A role in a process of its own. When dropped, it is stopped.
pub(crate) struct RoleProcess(Child);

impl RoleProcess {
    pub(crate) fn proxy(installation: &Installation) -> Self {
        Self::start(installation, "proxy", installation.endpoint(), &[])
    }

    /// The same with settings, as environment variables.
    pub(crate) fn proxy_with(installation: &Installation, settings: &[(&str, String)]) -> Self {
        Self::start(installation, "proxy", installation.endpoint(), settings)
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// The process that is the proxy: the one that was started is its parent.
    pub(crate) fn child(&self) -> u32 {
        let pid = self.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        children.trim().parse().unwrap()
    }

    pub(crate) fn webui(installation: &Installation) -> Self {
        Self::start(installation, "webui", installation.web(), &[])
    }

    fn start(
        installation: &Installation,
        name: &str,
        listen: SocketAddr,
        settings: &[(&str, String)],
    ) -> Self {
        let mut role = installation.memgate(&[name]);
        role.envs(settings.iter().map(|(name, value)| (name, value))).stderr(Stdio::null());
        let role = Self(role.spawn().unwrap());
        wait_until(deadline_in(20), &format!("{name} listens"), || TcpStream::connect(listen).is_ok());
        role
    }
}

impl Drop for RoleProcess {
    fn drop(&mut self) {
        signal(self.0.id(), "TERM");
        let _ = self.0.wait();
    }
}

/// An installation with the user `ada@example.org`, and the output of `user add`.
pub(crate) fn with_ada() -> (Installation, serde_json::Value) {
    let installation = Installation::new();
    assert!(installation.run(&["migrate"]).status.success());
    let added = installation.json(&["user", "add", "ada@example.org", "--no-wait"]);
    (installation, added)
}

/// Sends `request` to the proxy, closes the sending side, and returns the whole reply.
fn exchange(installation: &Installation, request: &str) -> String {
    let mut stream = TcpStream::connect(installation.endpoint()).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply
}

pub(crate) fn login(username: &str, password: &str) -> String {
    format!("set x 0 0 {}\r\n{username} {password}\r\n", username.len() + password.len() + 1)
}

#[test]
fn revocation_is_applied_by_every_proxy() {
    let (installation, added) = with_ada();
    let username = added["username"].as_str().unwrap();
    let without_proxy = installation.json(&["token", "show", username]);
    assert_eq!(without_proxy["propagation"]["by"], serde_json::json!([]));
    let proxy = RoleProcess::proxy(&installation);
    let applied =
        || installation.json(&["token", "show", username])["propagation"]["by"].as_array().unwrap().len();
    wait_until(deadline_in(20), "the proxy is registered", || applied() == 1);
    let revoked = installation.json(&["token", "revoke", username]);
    assert_eq!(revoked["propagation"]["by"].as_array().unwrap().len(), 1, "{revoked}");
    assert_eq!(revoked["propagation"]["awaited"], serde_json::json!([]));
    let shown = String::from_utf8(installation.run(&["token", "show", username]).stdout).unwrap();
    assert!(shown.contains("1 of 1 proxy ("), "{shown}");
    drop(proxy);
    let after = installation.json(&["token", "show", username]);
    assert_eq!(after["propagation"]["by"], serde_json::json!([]), "the proxy has stopped");
}

#[test]
fn wrong_password_is_shown_to_the_operator() {
    let (installation, added) = with_ada();
    let _proxy = RoleProcess::proxy(&installation);
    let (username, password) = (added["username"].as_str().unwrap(), added["password"].as_str().unwrap());
    let truncated = &password[..password.len() - 1];
    assert_eq!(
        exchange(&installation, &login(username, truncated)),
        "CLIENT_ERROR authentication failure\r\n"
    );
    wait_until(deadline_in(20), "the denial is recorded", || {
        !installation.json(&["token", "show", username])["denials"].as_array().unwrap().is_empty()
    });
    let shown = installation.run(&["token", "show", username]).stdout;
    let shown = String::from_utf8(shown).unwrap();
    for words in [
        "Recent denials:",
        "mistyped",
        "127.0.0.1",
        "text login, text, no TLS",
        "username and password of the same token",
    ] {
        assert!(shown.contains(words), "{words} is not in {shown}");
    }
    assert!(!shown.contains(truncated));
}

#[test]
fn connections_are_listed_and_closed() {
    let (installation, added) = with_ada();
    let _proxy = RoleProcess::proxy(&installation);
    let (username, password) = (added["username"].as_str().unwrap(), added["password"].as_str().unwrap());
    let mut stream = TcpStream::connect(installation.endpoint()).unwrap();
    stream.write_all(login(username, password).as_bytes()).unwrap();
    stream.read_exact(&mut [0; 8]).unwrap();
    let list = || installation.json(&["connection", "list", "ada@example.org"]);
    wait_until(deadline_in(20), "the connection is listed", || list()["total"] == 1);
    let listed = list();
    let connection = &listed["connections"][0];
    assert_eq!(format!("mg_{}", connection["token_id"].as_str().unwrap()), username);
    let id = connection["id"].as_str().unwrap();
    let shown =
        String::from_utf8(installation.run(&["connection", "list", "ada@example.org"]).stdout).unwrap();
    assert!(shown.contains(id) && shown.contains("127.0.0.1"), "{shown}");
    let closed = installation.json(&["connection", "close", "ada@example.org", id]);
    assert_eq!((&closed["id"], &closed["closed"]), (&id.into(), &true.into()));
    assert!(matches!(stream.read(&mut [0; 8]), Ok(0) | Err(_)));
    let wrong = installation.run(&["connection", "close", "ada@example.org", "x"]);
    assert_eq!(wrong.status.code(), Some(1));
}

#[test]
fn leaked_token_shows_where_it_was_found() {
    let (installation, added) = with_ada();
    let _webui = RoleProcess::webui(&installation);
    let (username, token) = (added["username"].as_str().unwrap(), added["token"].as_str().unwrap());
    let body = format!(r#"[{{"token":"{token}","type":"memgate","url":"https://example.org/leak.py"}}]"#);
    let report = format!(
        "POST /leaked-tokens HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        installation.web(),
        body.len()
    );
    let mut scanner = TcpStream::connect(installation.web()).unwrap();
    scanner.write_all(report.as_bytes()).unwrap();
    let mut response = String::new();
    scanner.read_to_string(&mut response).unwrap();
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    let shown = String::from_utf8(installation.run(&["token", "show", username]).stdout).unwrap();
    assert!(shown.contains("https://example.org/leak.py, revoked "), "{shown}");
    assert_eq!(installation.json(&["token", "show", username])["leak"]["url"], "https://example.org/leak.py");
}
