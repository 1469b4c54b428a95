//! Who answers on a health port, and `memgate status` beside roles that hang, wait, or belong to another installation.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixListener;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::commands_with_proxy::RoleProcess;
use crate::harness::{Installation, deadline_in, is_root, signal, wait_until};
use crate::supervision::{status, without_docker};

/// How long `memgate status` may take whatever hangs, start of the process included.
const STATUS_TIMEOUT: Duration = Duration::from_secs(3);

fn migrated() -> Installation {
    let installation = Installation::with_sqlite();
    assert!(installation.run(&["migrate"]).status.success());
    installation
}

fn id(installation: &Installation) -> String {
    std::fs::read_to_string(installation.data().join("installation.id")).unwrap().trim().to_owned()
}

/// The response to a GET, if something answers.
pub(crate) fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut response = String::new();
    stream.read_to_string(&mut response).ok()?;
    Some(response)
}

/// A role that is killed at the end of a test that fails.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

// F-27.
#[test]
fn roles_of_another_installation_are_no_roles_of_ours() {
    let (running, other) = (migrated(), migrated());
    let proxy = RoleProcess::proxy(&running);
    wait_until(deadline_in(20), "the proxy is ready", || status(&running)["roles"]["proxy"]["ready"] == true);
    let answered = status(&running);
    let process = &answered["roles"]["proxy"]["process"];
    assert_eq!(process["installation"], id(&running));
    assert_eq!((&process["role"], &process["pid"]), (&"proxy".into(), &proxy.child().into()));
    assert!(process["started_at"].is_u64() && process["version"].is_string(), "{process}");

    let address = running.role_health("proxy").to_string();
    let mut asked = other.memgate(&["status"]);
    let output = asked.env("MEMGATE_PROXY__HEALTH", &address).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    let foreign =
        format!("not ready: not running here: the proxy of another installation ({})", id(&running));
    assert!(text.contains(&foreign), "{text}");
    let health = get(running.role_health("proxy"), "/healthz").unwrap();
    let line = format!("ok\nproxy of installation {}, memgate ", id(&running));
    assert!(health.contains(&line), "{health}");
}

// F-27: whatever ports the settings of this command name.
#[test]
fn roles_of_up_are_asked_where_they_are() {
    let product = without_docker(Installation::new());
    let mut status = product.memgate(&["status", "--json"]);
    for name in ["PROXY", "PROVISIONER", "WEBUI"] {
        status.env_remove(format!("MEMGATE_{name}__HEALTH"));
    }
    let output = status.output().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let proxy = &status["roles"]["proxy"];
    assert_eq!(
        (&proxy["ready"], &proxy["address"]),
        (&true.into(), &product.role_health("proxy").to_string().into())
    );
    assert_eq!(status["up"], product.supervisor());
    // So is the endpoint that users are told.
    let mut add = product.memgate(&["user", "add", "ada@example.org", "--no-wait", "--json"]);
    let output = add.env_remove("MEMGATE_PROXY__LISTEN").output().unwrap();
    let added: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    product.register_secret(added["password"].as_str().unwrap());
    assert_eq!(added["endpoint"], product.endpoint().to_string());
}

// F-30.
#[test]
fn status_answers_soon_while_docker_and_roles_hang() {
    let installation = migrated();
    let socket = installation.dir().join("docker.sock");
    // Both take connections, and answer none.
    let _docker = UnixListener::bind(&socket).unwrap();
    let _proxy = std::net::TcpListener::bind(installation.role_health("proxy")).unwrap();
    let mut status = installation.memgate(&["status"]);
    status.env("MEMGATE_PROVISIONER__DOCKER_SOCKET", &socket);
    let started = Instant::now();
    let output = status.output().unwrap();
    assert!(started.elapsed() < STATUS_TIMEOUT, "{:?}", started.elapsed());
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("Docker doesn't answer within 1.5s") && text.contains("no response within a second"),
        "{text}"
    );
}

// F-4: under a supervisor that knows nothing of the store it would be restarted for ever.
#[test]
fn role_waits_for_a_store_that_is_away() {
    let installation = migrated();
    let port = testkit::free_port();
    let url = format!("postgres://memgate@{port}/memgate");
    let start = |url: &str| {
        let mut role = installation.memgate(&["webui"]);
        Killed(role.env("MEMGATE_STORE__URL", url).stderr(Stdio::null()).spawn().unwrap())
    };
    let mut webui = start(&url);
    let health = installation.role_health("webui");
    let says = |path: &str, text: &str| get(health, path).is_some_and(|response| response.contains(text));
    wait_until(deadline_in(20), "it waits", || {
        says("/readyz", "waiting for the store (can't open the database")
    });
    assert!(get(health, "/readyz").unwrap().starts_with("HTTP/1.1 503"));
    assert!(get(health, "/storez").unwrap().starts_with("HTTP/1.1 503"));
    assert!(get(health, "/healthz").unwrap().starts_with("HTTP/1.1 200"));
    signal(webui.0.id(), "HUP");
    signal(webui.0.id(), "TERM");
    assert!(webui.0.wait().unwrap().success());

    let mut wrong = start("mysql://memgate@localhost/memgate");
    wait_until(deadline_in(20), "a wrong setting ends it", || wrong.0.try_wait().unwrap().is_some());
    assert_eq!(wrong.0.wait().unwrap().code(), Some(1));
}

// F-24.
#[test]
fn role_alone_survives_sighup() {
    let installation = migrated();
    let proxy = RoleProcess::proxy(&installation);
    let child = proxy.child();
    for _ in 0..3 {
        signal(proxy.id(), "HUP");
    }
    wait_until(deadline_in(20), "it is ready", || status(&installation)["roles"]["proxy"]["ready"] == true);
    assert_eq!(status(&installation)["roles"]["proxy"]["process"]["pid"], child);
    assert_eq!(proxy.child(), child);
}

/// A victim with the socket of another user's program, which answers that the victim is a role.
const LIAR: &str = "
import os, signal, socket, sys
os.setegid(65534); os.seteuid(65534)
listener = socket.create_server(('127.0.0.1', int(sys.argv[1])))
os.seteuid(0); os.setegid(0)
victim = os.getpid()
if os.fork() == 0:
    os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
    body = sys.argv[2].replace('PID', str(victim))
    while True:
        connection, _ = listener.accept()
        connection.recv(4096)
        connection.sendall(f'HTTP/1.1 200 OK\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n{body}'.encode())
        connection.close()
signal.pause()
";

//
#[test]
fn down_signals_no_process_that_another_user_names() {
    if !is_root() {
        return;
    }
    let installation = migrated();
    let health = installation.role_health("proxy");
    let proxy = RoleProcess::proxy(&installation);
    let mut report = None;
    wait_until(deadline_in(20), "the proxy answers", || {
        report = get(health, "/status");
        report.is_some()
    });
    let report = report.unwrap();
    let (_, report) = report.split_once("\r\n\r\n").unwrap();
    let report = report.replace(&format!("\"pid\":{}", proxy.child()), "\"pid\":PID");
    assert!(report.contains("PID"), "{report}");
    drop(proxy);

    let mut liar = std::process::Command::new("setsid");
    liar.args(["python3", "-c", LIAR, &health.port().to_string(), &report]);
    let mut victim = Killed(liar.spawn().unwrap());
    let names_victim = || {
        let process = &status(&installation)["roles"]["proxy"]["process"];
        process["pid"] == victim.0.id()
    };
    wait_until(deadline_in(20), "the program names its victim", names_victim);
    let down = installation.json(&["down", "--purge"]);
    let child = format!("/proc/{0}/task/{0}/children", victim.0.id());
    let child = std::fs::read_to_string(child).unwrap().trim().parse().unwrap();
    assert_eq!(victim.0.try_wait().unwrap(), None, "it isn't signalled");
    signal(child, "KILL");
    assert_eq!(down["stopped_roles"], serde_json::json!([]));
}

// F-13.
#[test]
fn down_stops_roles_that_run_without_up() {
    let installation = migrated();
    let mut provisioner = installation.memgate(&["provisioner"]);
    // Without Docker: it leads all the same.
    provisioner.env("MEMGATE_PROVISIONER__DOCKER_SOCKET", "/nonexistent.sock").stderr(Stdio::null());
    let mut provisioner = Killed(provisioner.spawn().unwrap());
    wait_until(deadline_in(20), "it waits for Docker", || {
        get(installation.role_health("provisioner"), "/readyz")
            .is_some_and(|text| text.contains("Docker doesn't answer"))
    });
    let down = installation.json(&["down"]);
    let stopped = format!("provisioner (process {})", provisioner.0.id());
    assert_eq!(down["stopped_roles"], serde_json::json!([stopped]));
    assert!(provisioner.0.wait().unwrap().success());

    // One that can't be found on this machine.
    let leader = installation.data().join("db/memgate.leader");
    let lock = std::fs::File::options().read(true).write(true).open(leader).unwrap();
    lock.lock().unwrap();
    let refused = installation.run(&["down"]);
    let error = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(error.contains("a provisioner of this installation runs"), "{error}");
    drop(lock);
    installation.json(&["down", "--purge"]);
}
