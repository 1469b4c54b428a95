//! A web UI and a proxy that run an attacker's code: with their user, groups and view of the file system they decide
//! nothing for root.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustix::pty::OpenptFlags;

use crate::harness::{Installation, Product, deadline_in, docker, is_root, wait_until};
use crate::victim::Victim;

const ATTACK: &str = include_str!("broken_role.py");
/// Where the unprivileged roles see the data directory, whose parent they may not enter.
const DATA: &str = "/run/memgate";
const ROLES: [&str; 2] = ["webui", "proxy"];

/// A command that runs the attack as a role that is running now.
fn attack(product: &Product, role: &str, arguments: &[&str]) -> Command {
    let pid = product.role(role).unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let ids = |line: &str| -> Vec<String> {
        let found = status.lines().find_map(|found| found.strip_prefix(line)).unwrap();
        found.split_whitespace().map(str::to_owned).collect()
    };
    let (user, group, groups) = (&ids("Uid:")[0], &ids("Gid:")[0], ids("Groups:").join(","));
    let mut command = Command::new("nsenter");
    command.arg(format!("--mount=/proc/{pid}/ns/mnt"));
    command.args(["--", "setpriv", "--reuid", user, "--regid", group]);
    if groups.is_empty() {
        command.arg("--clear-groups");
    } else {
        command.args(["--groups", &groups]);
    }
    command.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]);
    command.args(["/usr/bin/python3", "-c", ATTACK]).args(arguments);
    command.current_dir("/").stdin(Stdio::null()).stderr(Stdio::inherit());
    command
}

/// Runs an attack and returns what it managed.
fn managed(product: &Product, role: &str, arguments: &[&str]) -> Vec<String> {
    let output = attack(product, role, arguments).output().unwrap();
    assert!(output.status.success(), "{role} {arguments:?}");
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

/// A process of a role's user that outlives the role and keeps trying to plant names in the data directory.
struct Planter {
    process: Child,
    rounds: Arc<AtomicUsize>,
    managed: Arc<Mutex<Vec<String>>>,
}

impl Planter {
    fn start(product: &Product, role: &str, victim: &Victim) -> Self {
        let mut command = attack(product, role, &["plant", DATA, victim.path.to_str().unwrap()]);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let planter = Self { process, rounds: Arc::default(), managed: Arc::default() };
        let (rounds, managed) = (Arc::clone(&planter.rounds), Arc::clone(&planter.managed));
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                match line.as_str() {
                    "round" => drop(rounds.fetch_add(1, Ordering::SeqCst)),
                    _ => managed.lock().unwrap().push(line),
                }
            }
        });
        planter
    }

    /// Waits until it has tried everything again.
    fn wait_for_round(&self) {
        let begun = self.rounds.load(Ordering::SeqCst);
        wait_until(deadline_in(30), "an attacker tries everything", || {
            self.rounds.load(Ordering::SeqCst) > begun + 1
        });
    }
}

impl Drop for Planter {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

//
#[test]
fn broken_role_plants_nothing_that_root_opens() {
    if !is_root() {
        return;
    }
    let mut product = Product::start_at(Installation::with_sqlite());
    product.add_user("ada@example.org");
    let victim = Victim::new(product.dir());
    let planters = ROLES.map(|role| Planter::start(&product, role, &victim));
    let try_everything = || planters.iter().for_each(Planter::wait_for_round);
    try_everything();
    product.interrupt();
    // SQLite's logs are removed and made again now.
    try_everything();
    product.json(&["config", "check"]);
    product.json(&["user", "list"]);
    try_everything();
    product.restart();
    product.add_user("bob@example.org");
    try_everything();
    product.json(&["down"]);
    try_everything();
    product.restart();
    for planter in &planters {
        assert_eq!(*planter.managed.lock().unwrap(), [""; 0]);
    }
    victim.assert_unchanged("after all starts and stops");
    let names = |folder: &str| -> Vec<_> {
        let mut names: Vec<_> =
            fs::read_dir(product.data().join(folder)).unwrap().map(|it| it.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let ours = [
        ".made-by-memgate",
        "ca.key",
        "ca.pem",
        "db",
        "image.id",
        "installation.id",
        "lane.key",
        "server.key",
        "server.pem",
        "token.key",
        "up.lock",
    ];
    assert_eq!(names(""), ours);
    assert_eq!(names("db"), ["memgate.db", "memgate.db-shm", "memgate.db-wal", "memgate.leader"]);
}

/// A terminal that a shell would run `memgate up` in: its two ends, and its name.
fn open_terminal() -> (File, File, String) {
    let manager = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    rustix::pty::grantpt(&manager).unwrap();
    rustix::pty::unlockpt(&manager).unwrap();
    let name = rustix::pty::ptsname(&manager, Vec::new()).unwrap().into_string().unwrap();
    let terminal = File::options().read(true).write(true).open(&name).unwrap();
    (manager.into(), terminal, name)
}

/// The files that a process has open.
fn open_files(pid: u32) -> Vec<(String, String)> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let target = |entry: &fs::DirEntry| fs::read_link(entry.path()).ok()?.into_os_string().into_string().ok();
    entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, target(&entry)?))).collect()
}

//
#[test]
fn roles_share_no_terminal_file_or_variable_with_the_operator() {
    if !is_root() {
        return;
    }
    let installation = Installation::with_sqlite();
    let victim = Victim::new(installation.dir());
    let (mut manager, terminal, name) = open_terminal();
    std::thread::spawn(move || std::io::copy(&mut manager, &mut std::io::sink()));
    let memgate = installation.memgate(&["up"]);
    // A shell with an open file starts it in the foreground of a terminal.
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec 7<\"$0\" setsid --ctty \"$@\""]).arg(&victim.path);
    shell.arg(memgate.get_program()).args(memgate.get_args());
    for (name, value) in memgate.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.env("AWS_SECRET_ACCESS_KEY", "operators-secret").env("MEMGATE_WEBUI__PLAN", "default");
    shell.stdin(terminal.try_clone().unwrap()).stderr(terminal.try_clone().unwrap());
    let started = installation.up_with(&mut shell);
    let product = Product::running(installation, started);
    assert!(open_files(product.supervisor()).iter().any(|(_, file)| *file == name), "it has the terminal");

    for (role, pid) in product.roles() {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        assert_eq!((fields[3], fields[4]), (pid.to_string().as_str(), "0"), "{role}: session, terminal");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains("NoNewPrivs:\t1"), "{role}");
        let files = open_files(pid);
        let standard = |number: &str| &files.iter().find(|(file, _)| file == number).unwrap().1;
        assert_eq!((standard("0").as_str(), standard("1").as_str()), ("/dev/null", "/dev/null"), "{role}");
        assert!(standard("2").starts_with("pipe:"), "{role}");
        let forbidden = |file: &str| file.starts_with("/dev/pts") || file.starts_with("/dev/tty");
        assert!(
            !files.iter().any(|(_, file)| forbidden(file) || file.contains("victim")),
            "{role}: {files:?}"
        );
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
        let environment = String::from_utf8_lossy(&environment).into_owned();
        let allowed = ["PATH", "LANG", "LC_ALL", "TZ", "RUST_BACKTRACE", "TMPDIR"];
        for (name, _) in environment.split('\0').filter_map(|variable| variable.split_once('=')) {
            assert!(allowed.contains(&name) || name.ends_with("_proxy"), "{role}: {name}");
        }
    }
    for role in ROLES {
        assert_eq!(managed(&product, role, &["type", &name]), [""; 0], "{role}");
    }
}

/// A socket on which a service that starts processes could listen, and that everybody may connect to.
struct Service {
    path: PathBuf,
    _socket: UnixListener,
}

impl Service {
    fn listen_in(folder: &str) -> Self {
        fs::create_dir_all(folder).unwrap();
        let path = Path::new(folder).join(format!("memgate-test-{}", std::process::id()));
        let socket = UnixListener::bind(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        Self { path, _socket: socket }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

//
#[test]
fn broken_role_reaches_no_secret_socket_or_container_of_others() {
    if !is_root() {
        return;
    }
    let services = ["/run/dbus", "/run/systemd", "/run/user"].map(Service::listen_in);
    let product = Product::start_at(Installation::with_sqlite());
    product.add_user("ada@example.org");
    let shown = product.json(&["instance", "show", "ada@example.org"]);
    let address = shown["address"].as_str().unwrap().to_owned();
    let process = |pid: u32| ["environ", "mem", "fd/2"].map(|name| format!("/proc/{pid}/{name}"));
    let data = |name: &str| format!("{DATA}/{name}");
    let mut forbidden: Vec<String> = process(product.supervisor()).into();
    forbidden.extend(process(product.role("provisioner").unwrap()));
    forbidden.extend(["ca.key", "up.lock", "db/memgate.leader"].map(data));
    let listens = |service: &&Service| std::os::unix::net::UnixStream::connect(&service.path).is_ok();
    assert_eq!(services.iter().filter(listens).count(), services.len());
    for role in ROLES {
        let other = ROLES.into_iter().find(|other| *other != role).unwrap();
        let mut forbidden = forbidden.clone();
        forbidden.extend(process(product.role(other).unwrap()));
        if role == "webui" {
            forbidden.extend(["lane.key", "server.key"].map(data));
        }
        let arguments: Vec<&str> = ["read"].into_iter().chain(forbidden.iter().map(String::as_str)).collect();
        assert_eq!(managed(&product, role, &arguments), [""; 0], "{role}");
        let sockets: Vec<&str> = ["connect", "/var/run/docker.sock", "/run/dbus/system_bus_socket"]
            .into_iter()
            .chain(services.iter().filter_map(|service| service.path.to_str()))
            .collect();
        assert_eq!(managed(&product, role, &sockets), [""; 0], "{role}");
        let reached = if role == "webui" { vec![] } else { vec![address.as_str()] };
        assert_eq!(managed(&product, role, &["dial", &address]), reached, "{role}: the cache's container");
        // The attack itself works.
        let token_key = data("token.key");
        assert_eq!(managed(&product, role, &["read", &token_key]), [token_key], "{role}");
    }
}

/// A container and a volume as another installation has them.
struct OtherInstallation {
    id: String,
    name: String,
}

impl OtherInstallation {
    fn new(image: &str) -> Self {
        let id = format!("t{:05}", std::process::id() % 100_000);
        let other = Self { name: format!("memgate-{id}-{id}"), id };
        let labels = [format!("memgate={}", other.id), format!("memgate.instance={}", other.id)];
        let rest = ["--label", "memgate.created=1", "--label", "memgate.generation=1"];
        let labels = ["--label", &labels[0], "--label", &labels[1]];
        docker(&[["volume", "create"].as_slice(), &labels, &rest[..2], &[&other.name]].concat());
        docker(&[["create", "--name", &other.name].as_slice(), &labels, &rest, &[image]].concat());
        other
    }

    fn assert_untouched(&self) {
        docker(&["inspect", &self.name]);
        docker(&["volume", "inspect", &self.name]);
    }
}

impl Drop for OtherInstallation {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rm", "-f", &self.name]).output();
        let _ = Command::new("docker").args(["volume", "rm", "-f", &self.name]).output();
    }
}

//
#[test]
fn installation_id_that_a_broken_role_changed_is_refused() {
    if !is_root() {
        return;
    }
    let mut product = Product::start_at(Installation::with_sqlite());
    let ada = product.add_user("ada@example.org");
    let container = product.container(&ada.email);
    let image = docker(&["inspect", "--format", "{{.Image}}", &container]);
    let (own, other) = (product.id(), OtherInstallation::new(&image[0]));
    let database = format!("{DATA}/db/memgate.db");
    managed(&product, "webui", &["rename", &other.id, &database]);
    product.interrupt();
    for command in [
        ["up"].as_slice(),
        &["down"],
        &["down", "--purge"],
        &["user", "list"],
        &["migrate"],
        &["provisioner"],
    ] {
        let output = product.run(command);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{command:?}: {stderr}");
        assert!(stderr.contains(&other.id) && stderr.contains(&own), "{command:?}: {stderr}");
        other.assert_untouched();
    }
    let status = product.memgate(&["status", "--json"]).output().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert!(status["store"]["message"].as_str().unwrap().contains(&other.id), "{status}");
    docker(&["inspect", &container]);

    // Root puts it right.
    let database = product.data().join("db/memgate.db");
    let repaired =
        Command::new("/usr/bin/python3").args(["-c", ATTACK, "rename", &own]).arg(&database).status();
    assert!(repaired.unwrap().success());
    product.restart();
    assert_eq!(product.id(), own);
    product.json(&["down"]);
    other.assert_untouched();
}
