//! `memgate up`, and a proxy that runs alone, as a service of systemd: its unit files, and what it tells the service manager.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::harness::{Installation, MEMGATE, Product};
use crate::lone_proxy::{LoneProxy, Place};

/// The next message to the service manager.
fn message(socket: &UnixDatagram) -> String {
    let mut bytes = [0; 1_000];
    let length = socket.recv(&mut bytes).unwrap();
    String::from_utf8(bytes[..length].to_vec()).unwrap()
}

#[test]
fn service_manager_is_told_of_readiness_and_of_the_end() {
    let installation = Installation::new();
    let path = installation.dir().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    let log = std::fs::File::create(installation.log()).unwrap();
    let mut up = installation.memgate(&["up"]);
    let started = installation.up_with(up.env("NOTIFY_SOCKET", &path).stderr(log));
    let mut product = Product::running(installation, started);
    assert!(message(&socket).starts_with("READY=1\n"));
    // Roles can't speak for it.
    for (role, pid) in product.roles() {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
        assert!(!String::from_utf8_lossy(&environment).contains("NOTIFY_SOCKET"), "{role}");
    }
    product.interrupt();
    assert!(message(&socket).starts_with("STOPPING=1\n"));
}

// F-38.
#[test]
fn service_manager_is_told_of_a_proxy_that_runs_alone() {
    let installation = Installation::new();
    assert!(installation.run(&["migrate"]).status.success());
    let path = installation.dir().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut proxy = LoneProxy::with_data(&installation, Path::new(MEMGATE), Place::new(0), |command| {
        command.env("NOTIFY_SOCKET", &path);
    });
    assert!(message(&socket).starts_with("READY=1\n"));
    let child = proxy.children()[0];
    let environment = std::fs::read(format!("/proc/{child}/environ")).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains("NOTIFY_SOCKET"));
    assert!(proxy.end("TERM").success());
    assert!(message(&socket).starts_with("STOPPING=1\n"));
}

#[test]
fn unit_files_are_what_systemd_understands() {
    let folder = tempfile::tempdir().unwrap();
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(units).unwrap() {
        let entry = entry.unwrap();
        let text = std::fs::read_to_string(entry.path()).unwrap();
        // The program isn't installed here, and manual pages aren't either.
        let text = text.replace("=memgate ", &format!("={MEMGATE} "));
        let text = text.replace("Documentation=man:memgate(1)\n", "");
        let name = entry.file_name().into_string().unwrap();
        std::fs::write(folder.path().join(&name), text).unwrap();
        names.push(name);
    }
    assert_eq!(names.len(), 4, "{names:?}");
    let mut verify = Command::new("systemd-analyze");
    verify.arg("verify").args(names.iter().map(|name| folder.path().join(name)));
    let output = verify.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let about_ours: Vec<&str> = said.lines().filter(|line| line.contains("memgate")).collect();
    assert!(about_ours.is_empty(), "{about_ours:?}");
}
