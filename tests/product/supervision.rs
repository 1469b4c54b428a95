//! How `memgate up` looks after its roles, without Docker: it starts what can be started, restarts roles that are killed or
//! hang, and passes SIGHUP on.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, ErrorKind, Lines, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Installation, Product, deadline_in, is_root, signal, wait_until};

/// A product whose Docker is away: proxy and web UI work, the provisioner waits. `memgate down` finds the real Docker.
pub(crate) fn without_docker(installation: Installation) -> Product {
    without_docker_with(installation, &[])
}

/// The same with other settings.
fn without_docker_with(installation: Installation, settings: &[(&str, &str)]) -> Product {
    // The very first start would fail.
    assert!(installation.run(&["migrate"]).status.success());
    let up = up_without_docker(&installation, settings);
    let product = Product::running(installation, (up, Vec::new()));
    for role in ["proxy", "webui"] {
        wait_until(deadline_in(60), role, || role_status(&product, role)["ready"] == true);
    }
    product
}

fn up_without_docker(installation: &Installation, settings: &[(&str, &str)]) -> Child {
    let socket = installation.dir().join("docker.sock");
    let log = File::options().create(true).append(true).open(installation.log()).unwrap();
    let mut up = installation.memgate(&["up"]);
    up.envs(settings.iter().copied());
    up.env("MEMGATE_PROVISIONER__DOCKER_SOCKET", socket).stdout(Stdio::null()).stderr(log);
    up.spawn().unwrap()
}

/// What `memgate status` says, whatever its exit status.
pub(crate) fn status(installation: &Installation) -> Value {
    let output = installation.memgate(&["status", "--json"]).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

fn role_status(installation: &Installation, role: &str) -> Value {
    status(installation)["roles"][role].clone()
}

fn log_contains(product: &Product, text: &str) -> bool {
    product.read_log().contains(text)
}

/// Waits until a role has another process than `before`, and returns that.
fn restarted(product: &Product, role: &str, before: u32, timeout: Duration) -> u32 {
    let mut now = None;
    wait_until(Instant::now() + timeout, &format!("{role} is restarted"), || {
        now = product.role(role).filter(|pid| *pid != before);
        now.is_some()
    });
    now.unwrap()
}

// F-3.
#[test]
fn up_starts_what_needs_no_docker_and_waits_for_it() {
    let product = without_docker(Installation::new());
    assert!(log_contains(&product, "Docker doesn't answer"));
    assert!(log_contains(&product, "until then the proxy and the web UI run"));
    let status = product.run(&["status"]);
    assert_eq!(status.status.code(), Some(1));
    let provisioner = role_status(&product, "provisioner");
    assert!(provisioner["message"].as_str().unwrap().contains("Docker doesn't answer"), "{provisioner}");

    // Docker starts.
    symlink("/var/run/docker.sock", product.dir().join("docker.sock")).unwrap();
    wait_until(deadline_in(120), "everything is ready", || product.run(&["status"]).status.success());
    let ada = product.add_user("ada@example.org");
    assert_eq!(product.json(&["instance", "show", &ada.email])["state"], "running");
}

// F-25, F-27.
#[test]
fn hung_role_is_reported_and_restarted() {
    let product = without_docker(Installation::new());
    let (proxy, webui) = (product.role("proxy").unwrap(), product.role("webui").unwrap());
    signal(proxy, "STOP");
    let stopped_at = Instant::now();
    let reported = role_status(&product, "proxy");
    assert!(reported["message"].as_str().unwrap().contains("it hangs"), "{reported}");
    restarted(&product, "proxy", proxy, Duration::from_secs(20));
    assert!(stopped_at.elapsed() > Duration::from_secs(12), "{:?}", stopped_at.elapsed());
    wait_until(deadline_in(20), "the proxy works", || role_status(&product, "proxy")["ready"] == true);
    assert!(log_contains(&product, "role hung"));
    assert_eq!(product.role("webui"), Some(webui), "the others stay");
}

// F-23.
#[test]
fn killed_role_is_back_within_five_seconds_and_a_stopped_one_at_once() {
    let product = without_docker(Installation::new());
    let mut proxy = product.role("proxy").unwrap();
    for _ in 0..7 {
        signal(proxy, "KILL");
        proxy = restarted(&product, "proxy", proxy, Duration::from_secs(7));
    }
    let webui = product.role("webui").unwrap();
    signal(webui, "TERM");
    let restarted_at = restarted(&product, "webui", webui, Duration::from_secs(4));
    assert_ne!(restarted_at, webui);
    let log = product.read_log();
    let lines = |role: &str| {
        let of_role = format!("role=\"{role}\"");
        log.lines().filter(|line| line.contains(": role ") && line.contains(&of_role)).collect::<Vec<_>>()
    };
    assert!(lines("proxy").iter().all(|line| line.contains("ERROR") && line.contains("SIGKILL")), "{log}");
    assert!(
        lines("webui").iter().any(|line| line.contains("INFO") && line.contains("role stopped")),
        "{log}"
    );
    assert!(!lines("webui").iter().any(|line| line.contains("ERROR")), "{log}");
    // Each line of a role carries its name. The last ones of a process may come after the next has started.
    let is_last = |line: &str| line.starts_with("webui: ") && line.contains("the web UI stops on SIGTERM");
    wait_until(deadline_in(10), "the web UI's last line", || product.read_log().lines().any(is_last));
}

// F-24.
#[test]
fn sighup_reloads_and_ends_nothing() {
    let mut product = without_docker(Installation::new());
    let before = product.roles();
    let settings = product.data().join("memgate.toml");
    for (text, expected) in [
        ("", "the program and the settings are those in use"),
        ("[proxy]\nconections = 77\n", "unknown setting proxy.conections"),
    ] {
        fs::write(&settings, text).unwrap();
        signal(product.supervisor(), "HUP");
        wait_until(deadline_in(10), expected, || log_contains(&product, expected));
    }
    for (role, expected) in [("proxy", "certificate reloaded"), ("webui", "reloading on SIGHUP")] {
        let is_logged = || {
            let log = product.read_log();
            log.lines().any(|line| line.starts_with(&format!("{role}: ")) && line.contains(expected))
        };
        wait_until(deadline_in(10), expected, is_logged);
    }
    assert_eq!(product.roles(), before, "no process ended");
    fs::remove_file(&settings).unwrap();
    // A shutdown makes the sockets stop, which is no fault.
    product.interrupt();
    assert!(!log_contains(&product, "failed to accept"), "{}", product.read_log());
}

// F-25: SQLite maps the file into memory, and the kernel ends who reads behind its end.
#[test]
fn supervisor_survives_a_database_that_a_broken_role_cuts() {
    if !is_root() {
        return;
    }
    let product = without_docker(Installation::with_sqlite());
    let up = product.supervisor();
    let open_files = || -> Vec<_> {
        let files = fs::read_dir(format!("/proc/{up}/fd")).unwrap().flatten();
        files.filter_map(|file| fs::read_link(file.path()).ok()).collect()
    };
    // A connection has its log and the memory that it shares with others open, too.
    let is_connected = |file: &PathBuf| file.to_string_lossy().contains("memgate.db-");
    assert!(!open_files().iter().any(is_connected), "{:?}", open_files());
    let before = ["proxy", "webui"].map(|role| (role, product.role(role)));
    File::options().write(true).open(product.data().join("db/memgate.db-shm")).unwrap().set_len(0).unwrap();
    // Each of them reads it several times a second. A command would repair it.
    wait_until(deadline_in(10), "roles end", || before.iter().all(|(role, pid)| product.role(role) != *pid));
    wait_until(deadline_in(60), "roles work again", || {
        before.iter().all(|(role, _)| role_status(&product, role)["ready"] == true)
    });
    assert_eq!(product.supervisor(), up);
    product.json(&["user", "add", "ada@example.org", "--no-wait"]);
}

/// Another user's program that tries to take ports until stdin ends, and prints those that it got.
const THIEF: &str = "
import itertools, select, socket, sys
options = [[], [socket.SO_REUSEADDR], [socket.SO_REUSEPORT], [socket.SO_REUSEADDR, socket.SO_REUSEPORT]]
tried = False
while not select.select([sys.stdin], [], [], 0.001)[0]:
    for port, host, chosen in itertools.product(sys.argv[1:], ['127.0.0.1', '0.0.0.0', '::1', '::'], options):
        with socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET) as thief:
            for option in chosen:
                thief.setsockopt(socket.SOL_SOCKET, option, 1)
            try:
                if ':' in host:
                    thief.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                thief.bind((host, int(port)))
                thief.listen()
                print(port, flush=True)
            except OSError:
                pass
    if not tried:
        tried = True
        print('tried', flush=True)
";

/// A broken role: it makes its sockets ignore clients and stop. Then another user, to whom it passed them, lets them listen again
/// until stdin ends, and prints what it accepts.
const BROKEN_ROLE: &str = "
import ctypes, os, select, socket, sys
role, port = map(int, sys.argv[1:])
call, process, kept = ctypes.CDLL(None).syscall, os.pidfd_open(role), []
for number in os.listdir(f'/proc/{role}/fd'):
    if os.readlink(f'/proc/{role}/fd/{number}').startswith('socket:'):
        PIDFD_GETFD = 438
        one = socket.socket(fileno=call(PIDFD_GETFD, process, int(number), 0))
        if one.family == socket.AF_INET and one.getsockname()[1] == port:
            if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                kept.append(one)
assert kept
os.setgroups([])
os.setgid(65533)
os.setuid(65533)
for one in kept:
    IP_MINTTL = 21
    one.setsockopt(socket.IPPROTO_IP, IP_MINTTL, 255)
    one.shutdown(socket.SHUT_RD)
print('tried', flush=True)
while not select.select([sys.stdin], [], [], 0.001)[0]:
    for one in kept:
        try:
            one.listen()
            print('accepted', one.accept(), flush=True)
        except OSError:
            pass
";

/// A program against the ports of a product.
struct Attacker {
    process: Child,
    printed: Lines<BufReader<ChildStdout>>,
}

impl Attacker {
    /// Starts it, and waits until it has tried once.
    fn start(mut command: Command) -> Self {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut printed = BufReader::new(process.stdout.take().unwrap()).lines();
        assert_eq!(printed.next().unwrap().unwrap(), "tried");
        Self { process, printed }
    }

    fn thief(addresses: &[SocketAddr]) -> Self {
        let mut thief = Command::new("setpriv");
        thief.args(["--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c", THIEF]);
        thief.args(addresses.iter().map(|address| address.port().to_string()));
        Self::start(thief)
    }

    /// What a role with this process does to the socket with which it listens.
    fn broken(role: u32, address: SocketAddr) -> Self {
        let mut broken = Command::new("/usr/bin/python3");
        broken.args(["-c", BROKEN_ROLE, &role.to_string(), &address.port().to_string()]);
        Self::start(broken)
    }

    /// Ends it. Returns what it has got.
    fn finish(mut self) -> Vec<String> {
        drop(self.process.stdin.take());
        let got = self.printed.map(Result::unwrap).collect();
        assert!(self.process.wait().unwrap().success());
        got
    }
}

/// The first line that a server answers, once it does.
fn answer(address: SocketAddr, request: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(request.as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line)
}

// R-46, F-7, F-8.
#[test]
fn ports_stay_memgates_while_roles_are_away_and_clients_wait() {
    if !is_root() {
        return;
    }
    let mut product = without_docker(Installation::new());
    let get = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let health = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let servers = [
        ("proxy", product.endpoint(), "get x\r\n", "CLIENT_ERROR"),
        ("proxy", product.role_health("proxy"), health, "HTTP/1.1 200"),
        ("webui", product.web(), get, "HTTP/1.1"),
        ("webui", product.role_health("webui"), health, "HTTP/1.1 200"),
        ("provisioner", product.role_health("provisioner"), health, "HTTP/1.1 200"),
    ];
    let thief = Attacker::thief(&servers.map(|(_, address, ..)| address));
    for ended_by in ["KILL", "TERM", "KILL"] {
        for (role, address, request, expected) in servers {
            let mut pid = None;
            wait_until(deadline_in(20), "the role runs", || {
                pid = product.role(role);
                pid.is_some()
            });
            let pid = pid.unwrap();
            signal(pid, ended_by);
            // Until then it may accept a connection, and close it without a reply because it stops.
            wait_until(deadline_in(20), "it has ended", || product.role(role) != Some(pid));
            let mut answered = answer(address, request);
            // One that the role had accepted when it ended, and hadn't answered yet, connects once more.
            let is_closed = match &answered {
                Ok(line) => line.is_empty(),
                Err(error) => matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
            };
            if is_closed {
                answered = answer(address, request);
            }
            assert!(
                matches!(&answered, Ok(line) if line.starts_with(expected)),
                "{role} after SIG{ended_by}: {answered:?}"
            );
            restarted(&product, role, pid, Duration::from_secs(20));
        }
    }
    assert_eq!(thief.finish(), [""; 0]);
    assert!(!log_contains(&product, "in use"), "{}", product.read_log());
    // A shutdown refuses clients.
    product.interrupt();
    for (_, address, ..) in servers {
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
}

//
#[test]
fn a_broken_role_gives_its_port_to_nobody_and_leaves_nothing_to_the_next() {
    if !is_root() {
        return;
    }
    let product = without_docker(Installation::new());
    let get = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let servers = [
        ("proxy", product.endpoint(), "get x\r\n", "CLIENT_ERROR"),
        ("webui", product.web(), get, "HTTP/1.1"),
    ];
    let thief = Attacker::thief(&servers.map(|(_, address, ..)| address));
    for ended_by in ["KILL", "TERM"] {
        for (role, address, request, expected) in servers {
            let pid = product.role(role).unwrap();
            signal(pid, "STOP");
            let broken = Attacker::broken(pid, address);
            signal(pid, ended_by);
            if ended_by == "TERM" {
                // Its exit status is 0.
                signal(pid, "CONT");
            }
            restarted(&product, role, pid, Duration::from_secs(20));
            for _ in 0..20 {
                let answered = answer(address, request);
                assert!(
                    matches!(&answered, Ok(line) if line.starts_with(expected)),
                    "{role} after SIG{ended_by}: {answered:?}"
                );
            }
            assert_eq!(broken.finish(), [""; 0], "{role} after SIG{ended_by}");
        }
    }
    assert_eq!(thief.finish(), [""; 0]);
    assert!(!log_contains(&product, "in use"), "{}", product.read_log());
}

// a client that is connected, and whom the role that was killed has never accepted.
#[test]
fn clients_that_wait_are_served_by_the_next_process() {
    if !is_root() {
        return;
    }
    let product = without_docker(Installation::new());
    assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/tcp_migrate_req").unwrap(), "1\n");
    let pid = product.role("proxy").unwrap();
    signal(pid, "STOP");
    let connect = |_| {
        let mut client = TcpStream::connect(product.endpoint()).unwrap();
        // At once: on a busy machine the time to log in may have passed when the role is seen to be back.
        client.write_all(b"get x\r\n").unwrap();
        client
    };
    let clients: Vec<_> = (0..5).map(connect).collect();
    signal(pid, "KILL");
    restarted(&product, "proxy", pid, Duration::from_secs(20));
    for client in clients {
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut line = String::new();
        BufReader::new(client).read_line(&mut line).unwrap();
        assert!(line.starts_with("CLIENT_ERROR"), "{line}");
    }
}

//
#[test]
fn a_broken_role_that_outlives_memgate_up_keeps_it_from_no_start() {
    if !is_root() {
        return;
    }
    let product = without_docker(Installation::new());
    let role = product.role("webui").unwrap();
    let mut broken = Attacker::broken(role, product.web());
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let is_unified = |line: &&str| line.split(' ').nth(2) == Some("cgroup2");
    let mount = mounts.lines().find(is_unified).and_then(|line| line.split(' ').nth(1)).unwrap();
    let groups = fs::read_to_string(format!("/proc/{role}/cgroup")).unwrap();
    let group = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
    fs::write(format!("{mount}{group}/cgroup.procs"), broken.process.id().to_string()).unwrap();
    signal(product.supervisor(), "KILL");
    let mut up = up_without_docker(&product, &[]);
    wait_until(deadline_in(60), "it is ready", || role_status(&product, "webui")["ready"] == true);
    assert_eq!(broken.process.wait().unwrap().signal(), Some(9));
    signal(up.id(), "INT");
    assert!(up.wait().unwrap().success());
}

//
#[test]
fn unprivileged_roles_serve_privileged_ports() {
    if !is_root() {
        return;
    }
    let mut free = (600..1024).map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let address = free.find(|address| std::net::TcpListener::bind(address).is_ok()).unwrap();
    let _product =
        without_docker_with(Installation::new(), &[("MEMGATE_PROXY__LISTEN", &address.to_string())]);
    assert!(answer(address, "get x\r\n").unwrap().starts_with("CLIENT_ERROR"));
}
